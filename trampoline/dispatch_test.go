package trampoline

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
)

// installed is redirected functions of the test's file with all that leads to
// their replacements, laid out in memory.
type installed struct {
	list    []Redirected
	plans   []Plan
	pieces  []Piece
	at      map[Place]uint64
	version uint64
}

// install plans the redirects of functions and puts the pieces at code and data.
func (r runner) install(t *testing.T, f *elfpatch.File, d Dispatch, fns []assembled, code, data uint64) *installed {
	t.Helper()
	in := &installed{at: map[Place]uint64{}}
	for i, fn := range fns {
		front, ok := f.ReadAddr(fn.addr-24, 24)
		if !ok {
			front = nil
		}
		red := Redirected{
			Body: fn.body, Index: i, Slot: (fn.addr - 8) &^ 7, Nops: 8,
			Site: Site{Addr: fn.addr, Expected: fn.body, Room: len(fn.body), Front: len(front), FrontBytes: front},
		}
		if pad := map[elf.Machine]string{x86: "f30f1efa", arm64: "5f2403d5"}[r.machine]; strings.HasPrefix(fn.name, "landing") && d == Slot {
			n := len(unhex(t, pad))
			red.Body, red.Site.Expected, red.Site.Gap = fn.body[n:], fn.body[n:], n
			red.Site.Addr, red.Site.Room = fn.addr+uint64(n), len(fn.body)-n
		}
		plan, err := Redirect(r.machine, d, red, Near)
		if err != nil {
			t.Fatalf("%s: %v", fn.name, err)
		}
		in.list, in.plans = append(in.list, red), append(in.plans, plan)
		in.at[Place{Kind: Replacement, Function: i}] = symbol(t, f, fmt.Sprintf("r_%d", i%4))
	}
	var err error
	if in.pieces, err = Pieces(r.machine, d, in.list, in.plans); err != nil {
		t.Fatal(err)
	}
	for _, p := range in.pieces {
		to := &code
		if p.Area == Data {
			to = &data
		}
		*to = (*to + 15) &^ 15
		in.at[p.Name] = *to
		*to += uint64(len(p.Bytes))
	}
	in.version = in.at[Place{Kind: Version}]
	return in
}

func symbol(t *testing.T, f *elfpatch.File, name string) uint64 {
	t.Helper()
	for _, s := range f.Symbols {
		if s.Name == name {
			return s.Value
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

// commands put everything in its place, in the order of writing.
func (in *installed) commands(t *testing.T, m elf.Machine) string {
	t.Helper()
	var out strings.Builder
	where := func(p Place) uint64 {
		if p.Kind == InTarget {
			return p.Addr
		}
		a, ok := in.at[p]
		if !ok {
			t.Errorf("nothing is at %+v", p)
		}
		return a
	}
	for _, p := range in.pieces {
		what := "put"
		if p.Area == Data {
			what = "data"
		}
		putLong(&out, what, in.at[p.Name], loaded(t, m, p.Code, in.at[p.Name], where))
	}
	for _, p := range in.plans {
		for _, w := range p.Writes {
			b, err := w.Fill(where(w.To), 0)
			if err != nil {
				t.Fatal(err)
			}
			putLong(&out, "put", w.Addr, b)
		}
	}
	return out.String()
}

func (in *installed) set(version int) string {
	return fmt.Sprintf("data %x %02x\n", in.version, version)
}

// settled takes out of an answer what a dispatch may change, and the data, in
// which the version is.
func (r runner) settled(line string) string {
	regs, _, _ := strings.Cut(line, " data")
	f := strings.Fields(regs)
	if r.machine == x86 {
		f[slices.Index(f, "flags")+1] = "-"
		return strings.Join(f, " ")
	}
	f[9], f[16], f[17] = "-", "-", "-"
	return strings.Join(f, " ")
}

// flagsMatter are functions that begin by reading the flags, which no caller
// passes.
var flagsMatter = []string{"carry", "loope", "loopne"}

// TestExecuteDispatch calls functions with random registers before they are
// redirected, with the version closed and open, and their replacements: what
// runs must be the one or the other, called with the same registers.
func TestExecuteDispatch(t *testing.T) {
	for _, r := range runners {
		for _, d := range Dispatches {
			t.Run(fmt.Sprintf("%v/%s", r.machine, d), func(t *testing.T) { r.dispatch(t, d) })
		}
	}
}

func (r runner) dispatch(t *testing.T, d Dispatch) {
	const rounds = 8
	command := r.build(t, "registers.c")
	f := r.link(t)
	prefix := "f_"
	if d == Slot {
		prefix = "s_"
	}
	fns := slices.DeleteFunc(functions(t, f, prefix), func(fn assembled) bool {
		return strings.Contains(fn.name, "_n") || r.machine == x86 && slices.Contains(flagsMatter, fn.name)
	})
	for _, at := range r.near(fns[0].addr &^ 0xfff) {
		at &^= 0xfff
		in := r.install(t, f, d, fns, at, at+0x100000)
		var script, calls, replacements strings.Builder
		for i, fn := range fns {
			for seed := range rounds {
				fmt.Fprintf(&calls, "run %x %d\n", fn.addr, seed*31+i+1)
				fmt.Fprintf(&replacements, "run %x %d\n", in.at[Place{Kind: Replacement, Function: i}], seed*31+i+1)
			}
		}
		image, commands := memoryImage(f), in.commands(t, r.machine)
		script.WriteString(image + calls.String() + replacements.String())
		states := []int{1}
		if d.Switched() {
			states = []int{0, 1, 0}
		}
		for _, version := range states {
			script.WriteString(image + commands)
			if d.Switched() {
				script.WriteString(in.set(version))
			}
			script.WriteString(calls.String())
		}
		got := answers(t, command, script.String())
		n := rounds * len(fns)
		if len(got) != n*(2+len(states)) {
			t.Fatalf("%d answers, the last %s", len(got), got[len(got)-1])
		}
		for k, version := range states {
			want := got[n*version : n*(version+1)]
			for i, line := range got[n*(2+k) : n*(3+k)] {
				if r.settled(line) != r.settled(want[i]) {
					t.Errorf("%s, version %d, pieces at %#x, round %d:\n%s\nwant\n%s", fns[i/rounds].name, version, at, i%rounds, r.settled(line), r.settled(want[i]))
					break
				}
			}
		}
	}
}
