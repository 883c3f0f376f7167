package distro

import (
	"bufio"
	"cmp"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// pkg is a row of a distribution's list of packages.
type pkg struct {
	name, arch, version string
	size                int64
	depends             []string // names only, of alternatives the first
}

// table is the kernel's packages of a suite.
type table []pkg

var kernelPackage = regexp.MustCompile(`^linux-(image|binary|modules|headers|kbuild|source)-`)

// maxLine bounds the lines of a list of packages.
const maxLine = 1 << 22

// readTable reads a list of packages (deb822), keeping those of kernels.
func readTable(r io.Reader) (out table, err error) {
	var p pkg
	end := func() {
		if kernelPackage.MatchString(p.name) && p.version != "" {
			out = append(out, p)
		}
		p = pkg{}
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		line := s.Text()
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "":
			end()
		case "Package":
			p.name = value
		case "Architecture":
			p.arch = value
		case "Version":
			p.version = value
		case "Size":
			p.size, _ = strconv.ParseInt(value, 10, 64)
		case "Depends":
			p.depends = dependsOn(value)
		}
	}
	end()
	return out, s.Err()
}

// dependsOn are the names in "a (>= 1), b | c".
func dependsOn(text string) (names []string) {
	for one := range strings.SplitSeq(text, ",") {
		one, _, _ = strings.Cut(one, "|")
		if f := strings.Fields(one); len(f) > 0 {
			base, _, _ := strings.Cut(f[0], ":")
			names = append(names, base)
		}
	}
	return names
}

func (t table) find(name, arch, version string) *pkg {
	for i := range t {
		p := &t[i]
		if p.name == name && p.version == version && (p.arch == arch || p.arch == "all") {
			return p
		}
	}
	return nil
}

// A choice is the packages of one kernel, all of one version.
type choice struct {
	release, version string
	image            []string // that really hold the image and its modules
	headers, common  string
	kbuild, source   string
	dbg              string // "" where there is none
}

// choose takes the newest version of a kernel that has all its packages. Why
// others do not count is said if there is none.
func (t table) choose(n *name) (best *choice, why []string) {
	for i := range t {
		p := &t[i]
		release, ok := strings.CutPrefix(p.name, "linux-headers-")
		if !ok || p.arch != n.arch || !n.matches(release) {
			continue
		}
		c, missing := t.complete(n, release, p)
		switch {
		case missing != "":
			why = append(why, release+" "+p.version+" has no "+missing)
		case best == nil || newer(c.version, best.version):
			best = c
		}
	}
	slices.Sort(why)
	return best, slices.Compact(why)
}

// complete finds the packages that belong to the headers of a release.
func (t table) complete(n *name, release string, headers *pkg) (c *choice, missing string) {
	c = &choice{release: release, version: headers.version, headers: headers.name}
	for _, d := range headers.depends {
		switch {
		case strings.HasPrefix(d, "linux-headers-") && c.common == "":
			c.common = d
		case strings.HasPrefix(d, "linux-kbuild-") && c.kbuild == "":
			c.kbuild = d
		}
	}
	c.source = "linux-source-" + n.series
	for _, need := range []string{c.common, c.kbuild, c.source} {
		// The programs of kbuild are for the machine that runs them: any counts.
		if need == "" || !slices.ContainsFunc(t, func(p pkg) bool { return p.name == need && p.version == c.version }) {
			return nil, cmp.Or(need, "linux-kbuild")
		}
	}
	if c.image = t.image(release, n.arch, c.version); c.image == nil {
		return nil, "linux-image-" + release
	}
	if name := "linux-image-" + release + "-dbg"; t.find(name, n.arch, c.version) != nil {
		c.dbg = name
	}
	return c, ""
}

// The least sizes of a package with an image, and of one with modules: a signed
// image may only depend on the other, and since 7.2 they are two.
const (
	imageSize   = 5_000_000
	modulesSize = 1_000_000
)

func (t table) image(release, arch, version string) []string {
	large := func(name string, size int64) bool {
		p := t.find(name, arch, version)
		return p != nil && p.size >= size
	}
	if large("linux-binary-"+release, imageSize) && large("linux-modules-"+release, modulesSize) {
		return []string{"linux-binary-" + release, "linux-modules-" + release}
	}
	for _, name := range []string{"linux-image-" + release, "linux-image-" + release + "-unsigned"} {
		if large(name, imageSize) {
			return []string{name}
		}
	}
	return nil
}

// newer compares two versions of the kernel's packages as dpkg does.
func newer(a, b string) bool { return compareVersions(a, b) > 0 }

// compareVersions orders versions by Debian's rules (deb-version(7)), without
// epochs, which kernels do not have.
func compareVersions(a, b string) int {
	upstream := func(v string) (string, string) {
		if i := strings.LastIndexByte(v, '-'); i >= 0 {
			return v[:i], v[i+1:]
		}
		return v, ""
	}
	a, revA := upstream(a)
	b, revB := upstream(b)
	return cmp.Or(comparePart(a, b), comparePart(revA, revB))
}

func comparePart(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a = span(a, false)
		y, b = span(b, false)
		if c := compareText(x, y); c != 0 {
			return c
		}
		x, a = span(a, true)
		y, b = span(b, true)
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
			return c
		}
	}
	return 0
}

// span cuts off what is, or is not, digits.
func span(s string, digits bool) (head, rest string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9') == digits {
		i++
	}
	return s[:i], s[i:]
}

// compareText orders what is between numbers: "~" comes before the end, letters
// before all else.
func compareText(a, b string) int {
	order := func(s string, i int) int {
		switch {
		case i >= len(s):
			return 0
		case s[i] == '~':
			return -1
		case s[i] >= 'A' && s[i] <= 'Z' || s[i] >= 'a' && s[i] <= 'z':
			return int(s[i])
		}
		return int(s[i]) + 256
	}
	for i := range max(len(a), len(b)) {
		if c := cmp.Compare(order(a, i), order(b, i)); c != 0 {
			return c
		}
	}
	return 0
}
