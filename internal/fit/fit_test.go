package fit

import (
	"encoding/hex"
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
		p := Of(&manifest.Manifest{Name: "fix", Targets: tc.targets}, "")
		if got := p.Fits(images); got != tc.fits || asked != tc.asked {
			t.Errorf("%s: fits %v, %d digests; want %v, %d", tc.name, got, asked, tc.fits, tc.asked)
		}
	}
}

func TestStateIn(t *testing.T) {
	mine, other := [32]byte{1}, [32]byte{2}
	p := Of(&manifest.Manifest{Name: "fix"}, hex.EncodeToString(mine[:]))
	found := func(name string, digest [32]byte, s live.State) live.Found {
		return live.Found{Record: &live.Record{Name: name, Digest: digest, State: s}}
	}
	for _, tc := range []struct {
		name    string
		patches []live.Found
		want    State
	}{
		{"none", nil, Missing},
		{"applied", []live.Found{found("fix", mine, live.Applied)}, Applied},
		{"applied from other bytes", []live.Found{found("fix", other, live.Applied)}, Applied},
		{"another patch", []live.Found{found("fax", other, live.Applied)}, Missing},
		{"taken back", []live.Found{found("fix", mine, live.Reverted)}, Reverted},
		{"taken back and applied", []live.Found{found("fix", mine, live.Reverted), found("fix", mine, live.Applied)}, Applied},
		{"an older one taken back", []live.Found{found("fix", other, live.Reverted)}, Missing},
		{"begun by a loader that died", []live.Found{found("fix", mine, live.Preparing)}, Missing},
	} {
		if got := p.StateIn(tc.patches); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
