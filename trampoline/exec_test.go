package trampoline

import (
	"debug/elf"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// runner is how a machine's code is executed here.
type runner struct {
	machine elf.Machine
	host    string   // GOARCH that needs no emulator
	cc      []string // compiler and flags
	emul    string   // emulator elsewhere
}

var runners = []runner{
	{x86, "amd64", []string{"gcc", "-O1"}, "qemu-x86_64"},
	{arm64, "arm64", []string{"aarch64-linux-gnu-gcc", "-O1", "-static"}, "qemu-aarch64"},
}

// compiler is the command that builds for the machine.
func (r runner) compiler() []string {
	if runtime.GOARCH == r.host {
		return []string{"gcc", "-O1"}
	}
	return r.cc
}

// harness builds the program that executes code and returns the command.
func (r runner) harness(t *testing.T) []string {
	t.Helper()
	return r.build(t, "harness.c")
}

// build builds a program of testdata and returns the command that runs it.
func (r runner) build(t *testing.T, source string, more ...string) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("executing patched code needs Linux")
	}
	cc := r.compiler()
	if _, err := exec.LookPath(cc[0]); err != nil {
		testkit.Missing(t, "no compiler %s", cc[0])
	}
	bin := filepath.Join(t.TempDir(), "harness")
	args := slices.Concat(cc[1:], more, []string{"-o", bin, filepath.Join("testdata", source)})
	if out, err := exec.Command(cc[0], args...).CombinedOutput(); err != nil {
		testkit.Missing(t, "build %s: %v\n%s", source, err, out)
	}
	if runtime.GOARCH == r.host {
		return []string{bin}
	}
	if _, err := exec.LookPath(r.emul); err != nil {
		testkit.Missing(t, "no emulator %s", r.emul)
	}
	return []string{r.emul, bin}
}

// Functions to redirect and to redirect to. The first returns its argument
// plus one, the second its argument plus 1000; the old ones begin with
// instructions that a redirect may overwrite.
var code = map[elf.Machine]struct{ pad, old, new string }{
	x86: {
		"f30f1efa", // endbr64
		"8d4701" + // lea 0x1(%rdi),%eax
			"6690 6690 6690 6690 6690 6690" + // nops
			"c3", // ret
		"f30f1efa" + // endbr64
			"8d87e8030000" + // lea 0x3e8(%rdi),%eax
			"c3", // ret
	},
	arm64: {
		"5f2403d5", // bti c
		"00040011" + // add w0, w0, #1
			"1f2003d5 1f2003d5 1f2003d5" + // nops
			"c0035fd6", // ret
		"5f2403d5" + // bti c
			"00a00f11" + // add w0, w0, #1000
			"c0035fd6", // ret
	},
}

// script collects commands for the harness and the answers they must get.
type script struct{ in, want strings.Builder }

func (s *script) put(addr uint64, b []byte) {
	fmt.Fprintf(&s.in, "map %x\nmap %x\nput %x %x\n", addr, addr+uint64(len(b))-1, addr, b)
}

func (s *script) call(addr uint64, arg, want int) {
	fmt.Fprintf(&s.in, "call %x %d\n", addr, arg)
	fmt.Fprintf(&s.want, "%d\n", want)
}

func (s *script) run(t *testing.T, command []string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(s.in.String())
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != s.want.String() {
		t.Errorf("%v\nanswers %q\nwant    %q\nscript:\n%s", err, out, s.want.String(), s.in.String())
	}
}

// Where the old function and its replacements are put. The image is loaded
// where both ends of the reach of a jump are free.
const (
	execBias  = 0x10_0000_0000
	execEntry = 0x1040 // link-time; the filler lies before it on the same page
)

func TestExecuteRedirects(t *testing.T) {
	for _, r := range runners {
		t.Run(r.machine.String(), func(t *testing.T) {
			command := r.harness(t)
			for _, st := range []Strategy{Near, Far, Filler, Veneer} {
				if Len(r.machine, st) == 0 {
					continue
				}
				for _, pad := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/pad=%v", st, pad), func(t *testing.T) {
						r.execute(t, command, st, pad)
					})
				}
			}
		})
	}
}

// execute calls a function before it is redirected, after each write of the
// plan, and after the old bytes are put back: at both ends of the reach and
// nearby.
func (r runner) execute(t *testing.T, command []string, st Strategy, pad bool) {
	c := code[r.machine]
	old := unhex(t, c.old)
	s := Site{
		Addr: execEntry, Expected: old, Room: len(old),
		Front: 8, FrontBytes: unhex(t, "9090909090909090"),
	}
	image := old
	if pad {
		landing := unhex(t, c.pad)
		s.Addr, s.Gap = s.Addr+uint64(len(landing)), len(landing)
		image = append(landing, old...)
	}
	plan, err := Make(r.machine, s, st)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range r.targets(plan) {
		var sc script
		sc.put(execEntry+execBias-8, s.FrontBytes)
		sc.put(execEntry+execBias, image)
		replacement := target
		if st == Veneer {
			replacement = 0x20_0000_0000
			code, holes := VeneerCode(r.machine)
			veneer, err := Template{Addr: target, Bytes: code, Holes: holes}.Fill(replacement, 0)
			if err != nil {
				t.Fatal(err)
			}
			sc.put(target, veneer)
		}
		sc.put(replacement, unhex(t, c.new))
		sc.call(execEntry+execBias, 5, 6)
		for i, w := range plan.Writes {
			b, err := w.Fill(target, execBias)
			if err != nil {
				t.Fatal(err)
			}
			sc.put(w.Addr+execBias, b)
			want := 6
			if i == len(plan.Writes)-1 {
				want = 1005
			}
			sc.call(execEntry+execBias, 5, want)
		}
		for i := len(plan.Writes) - 1; i >= 0; i-- {
			sc.put(plan.Writes[i].Addr+execBias, plan.Writes[i].Expected)
		}
		sc.call(execEntry+execBias, 5, 6)
		sc.run(t, command)
	}
}

// targets are the ends of the reach and an address nearby, and for jumps that
// reach everything addresses far away.
func (r runner) targets(p Plan) []uint64 {
	lo, hi := p.Window(execBias)
	if hi == math.MaxUint64 {
		return []uint64{0x7000_0000, 0x20_1234_5670}
	}
	return []uint64{lo, hi, execBias + 0x8000}
}

// TestExecuteOnGuardedPages redirects a function that begins with paciasp, on
// pages where indirect calls must land on a landing pad: with the lead calls
// arrive, without it the processor refuses them.
func TestExecuteOnGuardedPages(t *testing.T) {
	r := runners[1]
	command := r.harness(t)
	old := unhex(t, "3f2303d5"+ // paciasp
		"00040011"+ // add w0, w0, #1
		"bf2303d5"+ // autiasp
		"c0035fd6") // ret
	const entry, target = 0x1000, 0x2000
	for _, lead := range [][]byte{Arm64BTI(), nil} {
		plan, err := Make(arm64, Site{Addr: entry, Expected: old, Room: len(old), Lead: lead}, Near)
		if err != nil {
			t.Fatal(err)
		}
		b, err := plan.Writes[0].Fill(target+execBias, execBias)
		if err != nil {
			t.Fatal(err)
		}
		var sc script
		sc.in.WriteString("guard\n")
		sc.put(entry+execBias, old)
		sc.put(target+execBias, unhex(t, code[arm64].new))
		sc.call(entry+execBias, 5, 6)
		sc.put(entry+execBias, b)
		sc.call(entry+execBias, 5, 1005)
		if lead != nil {
			sc.run(t, command)
			continue
		}
		if runtime.GOARCH == r.host {
			continue // the processor may be older than BTI; the emulated one is not
		}
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(sc.in.String())
		if out, err := cmd.Output(); err == nil || string(out) != "6\n" {
			t.Errorf("without a landing pad: answers %q, %v; the second call should die", out, err)
		}
	}
}
