package distro

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseName(t *testing.T) {
	for text, want := range map[string]name{
		"6.12.117+deb12-cloud-amd64": {"6.12", "6.12.117+deb12-cloud-amd64", "amd64", "cloud", "bookworm"},
		"6.1.0-57-amd64":             {"6.1", "6.1.0-57-amd64", "amd64", "", "bookworm"},
		"6.12.9+deb13-rt-arm64":      {"6.12", "6.12.9+deb13-rt-arm64", "arm64", "rt", "trixie"},
		"5.10.0-46-cloud-arm64":      {"5.10", "5.10.0-46-cloud-arm64", "arm64", "cloud", "bullseye"},
		"7.2.13-cloud-amd64":         {"7.2", "7.2.13-cloud-amd64", "amd64", "cloud", "unstable"},
		"6.12":                       {"6.12", "", "amd64", "cloud", "bookworm"},
	} {
		for _, arch := range []string{"", want.arch} {
			if arch == "" && text == "6.12" {
				continue // this machine's
			}
			if got, err := parseName(text, "", arch); err != nil || got != want {
				t.Errorf("%s for %q: got %+v, %v", text, arch, got, err)
			}
		}
	}
	for _, text := range []string{"", "6", "6.12.117", "../6.1-amd64", "6.1.0-57-cloud-riscv64", "6.1/../../x-amd64", "6.1.0 -amd64"} {
		if got, err := parseName(text, "", "amd64"); err == nil {
			t.Errorf("%q is taken as %+v", text, got)
		}
	}
	if got, err := parseName("6.12", "", "arm64"); err != nil || got.kind() != "cloud-arm64" {
		t.Errorf("6.12 for arm64: got %+v, %v", got, err)
	}
	if got, err := parseName("6.1.0-57-amd64", "", "arm64"); err == nil {
		t.Errorf("a release for amd64 is taken for arm64 as %+v", got)
	}
	if _, err := parseName("6.1", "../etc", "amd64"); err == nil {
		t.Error("a path is taken as a suite")
	}
}

const list = `Package: linux-image-6.1.0-9-cloud-amd64
Architecture: amd64
Version: 6.1.9-1
Size: 30000000
Depends: kmod, linux-base (>= 4.3~)

Package: linux-image-6.1.0-10-cloud-amd64
Architecture: amd64
Version: 6.1.10-1
Size: 1000

Package: linux-image-6.1.0-10-cloud-amd64-unsigned
Architecture: amd64
Version: 6.1.10-1
Size: 30000000

Package: linux-headers-6.1.0-9-cloud-amd64
Architecture: amd64
Version: 6.1.9-1
Depends: linux-headers-6.1.0-9-common (= 6.1.9-1), linux-kbuild-6.1 (>= 6.1.9-1), linux-compiler-gcc-12-x86 | gcc

Package: linux-headers-6.1.0-10-cloud-amd64
Architecture: amd64
Version: 6.1.10-1
Depends: linux-headers-6.1.0-10-common (= 6.1.10-1), linux-kbuild-6.1 (>= 6.1.10-1)

Package: linux-headers-6.1.0-11-cloud-amd64
Architecture: amd64
Version: 6.1.11-1
Depends: linux-headers-6.1.0-11-common, linux-kbuild-6.1

Package: linux-headers-6.1.0-10-common
Architecture: all
Version: 6.1.10-1

Package: linux-headers-6.1.0-9-common
Architecture: all
Version: 6.1.9-1

Package: linux-kbuild-6.1
Architecture: amd64
Version: 6.1.10-1

Package: linux-kbuild-6.1
Architecture: amd64
Version: 6.1.9-1

Package: linux-source-6.1
Architecture: all
Version: 6.1.9-1

Package: linux-source-6.1
Architecture: all
Version: 6.1.10-1

Package: bash
Architecture: amd64
Version: 5
`

func TestChoose(t *testing.T) {
	all, err := readTable(strings.NewReader(list))
	if err != nil || len(all) != 12 {
		t.Fatalf("%d packages, %v", len(all), err)
	}
	series, _ := parseName("6.1", "", "amd64")
	c, why := all.choose(&series)
	if c == nil || c.release != "6.1.0-10-cloud-amd64" || c.version != "6.1.10-1" || c.common != "linux-headers-6.1.0-10-common" || c.kbuild != "linux-kbuild-6.1" {
		t.Fatalf("chosen: %+v", c)
	}
	if d := cmp.Diff([]string{"linux-image-6.1.0-10-cloud-amd64-unsigned"}, c.image); d != "" {
		t.Errorf("image (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"6.1.0-11-cloud-amd64 6.1.11-1 has no linux-headers-6.1.0-11-common"}, why); d != "" {
		t.Errorf("why not (-want +got)\n%s", d)
	}
	one, _ := parseName("6.1.0-9-cloud-amd64", "", "amd64")
	if c, _ := all.choose(&one); c == nil || c.version != "6.1.9-1" {
		t.Errorf("chosen for a release: %+v", c)
	}
	plain, _ := parseName("6.1.0-9-amd64", "", "amd64")
	if c, why := all.choose(&plain); c != nil || why != nil {
		t.Errorf("another flavour is taken: %+v, %v", c, why)
	}
}

func TestCompareVersions(t *testing.T) {
	order := []string{"6.1~rc1-1", "6.1-1", "6.1.9-1", "6.1.9-1+b1", "6.1.10-1", "6.1.10-1~deb12u1", "6.12.9-1"}
	order[4], order[5] = order[5], order[4] // with ~ it comes before
	for i, a := range order {
		for j, b := range order {
			got := compareVersions(a, b)
			if got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s beside %s: %d", a, b, got)
			}
		}
	}
}

// dpkg orders them the same way.
func TestCompareVersionsAsDpkg(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg is not installed")
	}
	all := []string{"6.1.0-1", "6.1.0~rc1-1", "6.1.0-1+b2", "6.01.0-1", "6.1.0a-1", "6.1.0-1~bpo1"}
	for _, a := range all {
		for _, b := range all {
			err := exec.Command("dpkg", "--compare-versions", a, "gt", b).Run()
			if got := compareVersions(a, b) > 0; got != (err == nil) {
				t.Errorf("%s gt %s: got %v", a, b, got)
			}
		}
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(list)
	f.Add("Package: linux-headers-6.1-amd64\nVersion: 1\nDepends: |,a:any (x)\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readTable(strings.NewReader(text))
		if err != nil {
			return
		}
		n, _ := parseName("6.1", "", "amd64")
		all.choose(&n)
	})
}

func TestToInstall(t *testing.T) {
	for line, want := range map[string]string{
		"Inst binutils-common:arm64 (2.40-2 Debian:12.15/oldstable [arm64])":                        "binutils-common:arm64",
		"Inst libgcc-s1:arm64 (12.2.0-14+deb12u1 Debian:12.15/oldstable [arm64]) []":                "libgcc-s1:arm64",
		"Inst pahole (1.24-4.1 Debian:12.15/oldstable [amd64])":                                     "",
		"Inst linux-libc-dev (6.1.1-1 Debian-Security:12/oldstable-security [all])":                 "linux-libc-dev",
		"Inst gcc-12-base [12.2.0-14] (12.2.0-14+deb12u1 Debian:12.15/oldstable [arm64]) [gcc-12 ]": "gcc-12-base:arm64",
		"Conf gcc-12:arm64 (12.2.0-14+deb12u1 Debian:12.15/oldstable [arm64])":                      "",
	} {
		if got := toInstall(line, "arm64"); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
	if got := toInstall("Inst gcc-12 (12.2.0-14+deb12u1 Debian:12.15/oldstable [amd64])", "amd64"); got != "gcc-12:amd64" {
		t.Errorf("on its own machine: %q", got)
	}
}
