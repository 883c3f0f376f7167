// Package distro finds which packages of a distribution belong to a kernel
// release, fetches them with the distribution's own checks of signatures, and
// unpacks them below the user's cache. Nothing is installed, and nothing of the
// system's configuration is used or changed.
package distro

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// name is a release of Debian's kernel in its parts.
type name struct {
	series  string // "6.12"
	release string // whole; "" if only the series is given
	arch    string // "amd64", as Debian calls it
	flavour string // "cloud", "rt"; "" for the plain one
	suite   string // "bookworm"
}

var (
	releaseForm = regexp.MustCompile(`^(\d+\.\d+)[.-][\w.+~-]*?-(?:(cloud|rt)-)?(amd64|arm64)$`)
	seriesForm  = regexp.MustCompile(`^\d+\.\d+$`)
	debForm     = regexp.MustCompile(`\+deb(\d+)`)
)

// suites are the releases of Debian by number, with what their kernels are.
var suites = []struct {
	number, name string
	series       []string
}{
	{"11", "bullseye", []string{"5.10"}},
	{"12", "bookworm", []string{"6.1", "6.12"}},
	{"13", "trixie", []string{"6.12", "6.16"}},
}

const newest = "unstable"

// parseName reads a release, or a series, for which the cloud flavour is taken:
// for arch, or for this machine if that is "".
func parseName(text, suite, arch string) (name, error) {
	n := name{suite: suite}
	if seriesForm.MatchString(text) {
		n.series, n.arch, n.flavour = text, cmp.Or(arch, goArch()), "cloud"
	} else if m := releaseForm.FindStringSubmatch(text); m != nil {
		n.series, n.release, n.flavour, n.arch = m[1], text, m[2], m[3]
	} else {
		return n, fmt.Errorf("%q is no release of a Debian kernel, such as 6.12.117+deb12-cloud-amd64, nor a series, such as 6.12", text)
	}
	if arch != "" && n.arch != arch {
		return n, fmt.Errorf("%s is a kernel for %s, not for %s", text, n.arch, arch)
	}
	if n.suite == "" {
		n.suite = n.findSuite()
	}
	if !regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(n.suite) {
		return n, fmt.Errorf("%q is no suite of Debian, such as bookworm", n.suite)
	}
	return n, nil
}

func (n *name) findSuite() string {
	if m := debForm.FindStringSubmatch(n.release); m != nil {
		for _, s := range suites {
			if s.number == m[1] {
				return s.name
			}
		}
	}
	for _, s := range suites {
		for _, series := range s.series {
			if series == n.series {
				return s.name
			}
		}
	}
	return newest
}

// kind is the end of the release.
func (n *name) kind() string {
	if n.flavour == "" {
		return n.arch
	}
	return n.flavour + "-" + n.arch
}

// matches reports whether a release is one that is asked for.
func (n *name) matches(release string) bool {
	if n.release != "" {
		return release == n.release
	}
	rest, ok := strings.CutPrefix(release, n.series)
	if !ok || rest == "" || rest[0] != '.' && rest[0] != '-' {
		return false
	}
	m := releaseForm.FindStringSubmatch(release)
	return m != nil && m[2] == n.flavour && m[3] == n.arch
}
