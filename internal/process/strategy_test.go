//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/trampoline"
)

// Two functions whose entries have no room, one behind a landing pad: the
// builder goes through the filler before them, the loader writes that first.
func TestFiller(t *testing.T) {
	before := compile(t, "before.o", "-c", "filler_part.s")
	target := compile(t, "filler", before, "filler.c")
	pkg := created(t, "fix", target, before, compile(t, "after.o", "-c", "-Wa,--defsym,FIXED=1", "filler_part.s"))
	for _, f := range pkg.Manifest.Targets[0].Functions {
		if f.Strategy != string(trampoline.Filler) {
			t.Fatalf("%s is redirected by %s", f.Name, f.Strategy)
		}
	}
	s := start(t, target)
	want := func(small, padded int) {
		t.Helper()
		if a, b, c := s.ask(); a != small || b != padded || c != 8 {
			t.Errorf("answers %d, %d, %d, not %d, %d, 8", a, b, c, small, padded)
		}
	}
	pages := text(t, s.pid)
	want(2, 3)
	for range 2 {
		res, err := Apply([]int{s.pid}, pkg, Options{})
		must(t, err)
		want(1001, 2001)
		var lengths []int
		for i, j := range res.Processes[0].Images[0].Journal {
			lengths = append(lengths, j.Length)
			if w := pkg.Manifest.Targets[0].Writes[i]; j.Old != w.Expected.String() || j.Address != w.Address+res.Processes[0].Images[0].Bias {
				t.Errorf("write %d is %+v, the manifest says %+v", i, j, w)
			}
		}
		if !slices.Equal(lengths, []int{5, 2, 5, 2}) {
			t.Errorf("wrote %v bytes", lengths)
		}
		_, err = Revert(s.pid, "fix", Options{})
		must(t, err)
		want(2, 3)
		if text(t, s.pid) != pages {
			t.Fatal("executable pages differ after revert")
		}
	}
}

func TestFarAndVeneer(t *testing.T) {
	target := compile(t, "roomy", "-pthread", "roomy.c")
	payload := compile(t, "fix.o", "-c", "far_fix.s")
	for _, r := range []replaced{
		{old: "answer", new: "answer_new", strategy: trampoline.Far},
		{old: "answer", new: "answer_new", strategy: trampoline.Veneer, veneer: "answer_veneer"},
	} {
		t.Run(string(r.strategy), func(t *testing.T) {
			lifeOfRoomy(t, target, handMade(t, "fix", target, payload, r), 0)
		})
	}
}

// The replacement counts in a variable of each thread's own, whose neighbours
// stay what they are.
func TestThreadLocal(t *testing.T) {
	fix := replaced{old: "answer", new: "answer_new"}
	for _, kind := range []string{"-pie", "-no-pie", "-static"} {
		t.Run(kind, func(t *testing.T) {
			target := compile(t, "roomy", kind, "-pthread", "roomy.c")
			pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "tls_fix.c"), fix)
			lifeOfRoomy(t, target, pkg, 1000)
		})
	}
}

// A library's thread-local variables have no fixed place.
func TestThreadLocalOfLibrary(t *testing.T) {
	target := compile(t, "roomy", "-pthread", "roomy.c")
	pkg := handMade(t, "fix", target, compile(t, "fix.o", "-c", "-fPIE", "tls_fix.c"), replaced{old: "answer", new: "answer_new"})
	s := start(t, target)
	p, err := open(s.pid)
	must(t, err)
	defer p.close()
	in, err := p.prepare(pkg, 0, [32]byte{}, nil)
	must(t, err)
	in.image = p.images[1]
	wantCode(t, in.resolveImports().Err(), refusal.TLSModel)
}

// lifeOfRoomy applies and reverts a patch of roomy.c, which runs with
// no_new_privs; each call adds step to the asking thread's own variable.
func lifeOfRoomy(t *testing.T, target string, pkg *pack.Package, step int) {
	t.Helper()
	s := start(t, target)
	pages := text(t, s.pid)
	a, own, _ := s.ask()
	if a != 2 || own != 101 {
		t.Fatalf("answer %d, %d before", a, own)
	}
	for range 2 {
		_, err := Apply([]int{s.pid}, pkg, Options{})
		must(t, err)
		for range 3 {
			own += step
			if a, o, _ := s.ask(); a != 1001 || o != own {
				t.Fatalf("answer %d, own %d, want 1001, %d", a, o, own)
			}
		}
		_, err = Revert(s.pid, "fix", Options{})
		must(t, err)
		own++
		if a, o, _ := s.ask(); a != 2 || o != own {
			t.Fatalf("answer %d, own %d after revert, want 2, %d", a, o, own)
		}
		if text(t, s.pid) != pages {
			t.Fatal("executable pages differ after revert")
		}
	}
	s.settled(2)
}

// settled waits until the other thread has told an answer.
func (r *running) settled(answer int) {
	r.t.Helper()
	for range 1000 {
		if _, _, other := r.ask(); other == answer {
			return
		}
	}
	r.t.Errorf("the other thread never answered %d", answer)
}

// A target without build-id is known by the digest of what it maps read-only.
// That it has been patched makes it no other file.
func TestWithoutBuildID(t *testing.T) {
	for _, kind := range []string{"-pie", "-static"} {
		t.Run(kind, func(t *testing.T) {
			target := compile(t, "server", kind, "-Wl,--build-id=none", "-pthread", "-DREST=100", "server.c")
			payload := compile(t, "fix.o", "-c", "-fPIE", "server_fix.c")
			fix := replaced{old: "answer", new: "answer_new"}
			pkg := handMade(t, "fix", target, payload, fix)
			if m := &pkg.Manifest.Targets[0]; len(m.BuildID) != 0 || len(m.SHA256) != 32 {
				t.Fatalf("identity %v, %v", m.BuildID, m.SHA256)
			}
			use(t, target, pkg, "server", "2")

			s := start(t, target)
			_, err := Apply([]int{s.pid}, pkg, Options{})
			must(t, err)
			_, err = Apply([]int{s.pid}, pkg, Options{})
			wantCode(t, err, refusal.AlreadyApplied)
			_, err = Apply([]int{s.pid}, handMade(t, "other", target, payload, fix), Options{})
			wantCode(t, err, refusal.FunctionClaimed)

			other := start(t, compile(t, "server", kind, "-Wl,--build-id=none", "-pthread", "-DREST=101", "server.c"))
			refused(t, other, refusal.WrongTarget, apply(other, pkg, Options{}))
			s = start(t, target)
			pkg.Manifest.Targets[0].SHA256[31] ^= 1
			refused(t, s, refusal.WrongTarget, apply(s, pkg, Options{}))
		})
	}
}

// The kernel may reserve writing to ptrace: everything works that way too, at
// every alignment.
func TestWritesThroughPtrace(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "-DREST=100", "server.c")
	s := start(t, target, "2")
	pages := text(t, s.pid)
	for i := range 3 {
		pkg.Manifest.Name = fmt.Sprintf("fix%d", i)
		res, err := Apply([]int{s.pid}, pkg, Options{poke: true})
		must(t, err)
		journalMatches(t, pkg, res.Processes[0].Images[0])
		if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
			t.Fatalf("answer %d, %d wrong", a, wrong)
		}
		_, err = Revert(s.pid, pkg.Manifest.Name, Options{poke: true})
		must(t, err)
		if text(t, s.pid) != pages {
			t.Fatal("executable pages differ after revert")
		}
	}
}

// A kernel may force no writes through /proc/PID/mem at all, whoever asks
// (proc_mem.force_override=never, since 6.12). Nothing is different then.
func TestWritesAreNotForced(t *testing.T) {
	target, pkg := serverAndFix(t, "-pthread", "-DREST=100", "server.c")
	s := start(t, target, "2")
	pages := text(t, s.pid)
	m := &pkg.Manifest.Targets[0]
	res, err := Apply([]int{s.pid}, pkg, Options{})
	must(t, err)
	im := res.Processes[0].Images[0]
	journalMatches(t, pkg, im)
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", s.pid), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	at := int64(m.Functions[0].Address + im.Bias)
	_, err = f.ReadAt(b, at)
	must(t, err)
	_, err = f.WriteAt(b, at)
	t.Logf("writing code without ptrace: %v", err)
	if never := strings.Contains(string(readFile(t, "/proc/cmdline")), unforced); never && err == nil {
		t.Errorf("%s, and the kernel forced a write", unforced)
	}
	if a, _, wrong := s.ask(); a != 1001 || wrong != 0 {
		t.Fatalf("answer %d, %d wrong", a, wrong)
	}
	_, err = Revert(s.pid, pkg.Manifest.Name, Options{})
	must(t, err)
	if text(t, s.pid) != pages {
		t.Fatal("executable pages differ after revert")
	}
}

// unforced is the kernel's parameter for that.
const unforced = "proc_mem.force_override=never"
