package fit

import (
	"testing"

	"livepatch/internal/live"
	"livepatch/manifest"
)

func TestFits(t *testing.T) {
	asked := 0
	digest := func() []byte {
		asked++
		return []byte{9, 9}
	}
	images := []Image{
		{"server", []byte{1}, digest},
		{"libx.so", []byte{2}, digest},
		{"bare", nil, digest},
		{"other", nil, digest},
	}
	target := func(name string, id, sum []byte) manifest.Target {
		return manifest.Target{Name: name, BuildID: id, SHA256: sum}
	}
	for _, tc := range []struct {
		name    string
		targets []manifest.Target
		fits    bool
		asked   int
	}{
		{"none", nil, false, 0},
		{"build-id", []manifest.Target{target("server", []byte{1}, nil)}, true, 0},
		{"build-id under another name", []manifest.Target{target("renamed", []byte{2}, nil)}, true, 0},
		{"another build", []manifest.Target{target("server", []byte{3}, nil)}, false, 0},
		{"all of two", []manifest.Target{target("server", []byte{1}, nil), target("libx.so", []byte{2}, nil)}, true, 0},
		{"one of two", []manifest.Target{target("server", []byte{1}, nil), target("libz.so", []byte{4}, nil)}, false, 0},
		{"digest", []manifest.Target{target("bare", nil, []byte{9, 9})}, true, 1},
		{"another digest", []manifest.Target{target("bare", nil, []byte{8})}, false, 1},
		{"digest of another name", []manifest.Target{target("nobody", nil, []byte{9, 9})}, false, 0},
		{"digest of what has a build-id", []manifest.Target{target("server", nil, []byte{9, 9})}, false, 0},
		{"neither", []manifest.Target{target("bare", nil, nil)}, false, 0},
	} {
		asked = 0
		p := &Package{Name: "fix", targets: tc.targets}
		if got := p.Fits(images); got != tc.fits || asked != tc.asked {
			t.Errorf("%s: fits %v, %d digests; want %v, %d", tc.name, got, asked, tc.fits, tc.asked)
		}
	}
}

func TestMayFit(t *testing.T) {
	program := manifest.Target{Kind: manifest.KindPIE, BuildID: []byte{1}}
	library := manifest.Target{Kind: manifest.KindLibrary, BuildID: []byte{2}}
	for _, tc := range []struct {
		name    string
		targets []manifest.Target
		mine    bool // with the program 1
		other   bool // with the program 3
	}{
		{"program", []manifest.Target{program}, true, false},
		{"library", []manifest.Target{library}, true, true},
		{"both", []manifest.Target{program, library}, true, false},
		{"none", nil, false, false},
	} {
		p := &Package{Name: "fix", targets: tc.targets}
		if mine, other := p.MayFit(Image{BuildID: []byte{1}}), p.MayFit(Image{BuildID: []byte{3}}); mine != tc.mine || other != tc.other {
			t.Errorf("%s: %v, %v; want %v, %v", tc.name, mine, other, tc.mine, tc.other)
		}
	}
}

func TestStateIn(t *testing.T) {
	p := &Package{Name: "fix", Digest: "01"}
	for _, tc := range []struct {
		name    string
		patches []live.Report
		want    State
	}{
		{"none", nil, Missing},
		{"applied", []live.Report{{Name: "fix", Digest: "01", State: "applied"}}, Applied},
		{"applied from other bytes", []live.Report{{Name: "fix", Digest: "02", State: "applied"}}, Applied},
		{"another patch", []live.Report{{Name: "fax", Digest: "02", State: "applied"}}, Missing},
		{"taken back", []live.Report{{Name: "fix", Digest: "01", State: "reverted"}}, Reverted},
		{"taken back and applied", []live.Report{{Name: "fix", Digest: "01", State: "reverted"}, {Name: "fix", Digest: "01", State: "applied"}}, Applied},
		{"an older one taken back", []live.Report{{Name: "fix", Digest: "02", State: "reverted"}}, Missing},
		{"begun by a loader that died", []live.Report{{Name: "fix", Digest: "01", State: "preparing"}}, Missing},
		{"a loader at work", []live.Report{{Name: "fix", Digest: "01", State: "changing"}}, Changing},
		{"a loader that was killed", []live.Report{{Name: "fix", Digest: "01", State: "interrupted"}}, Interrupted},
	} {
		if got := p.StateIn(tc.patches); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
