//go:build linux && amd64

package process

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"livepatch/internal/testkit"
	"livepatch/internal/unwind"
	"livepatch/trampoline"
)

// observed is what gdb saw of a thread before an instruction.
type observed struct {
	Registers []uint64 // by DWARF number, then the program counter
	At        uint64   // where Stack lies
	Stack     string
	Frames    []struct {
		Name string
		PC   uint64
	}
	Preserved []uint64 // registers of caller
}

// At each instruction from a call to the replacement and back, or to the old body
// and back, gdb and our own unwinder see who called, with all registers that a
// call preserves.
func TestEveryInstruction(t *testing.T) {
	gdb := testkit.Tool(t, "gdb")
	for _, tc := range []struct {
		way    trampoline.Dispatch
		flags  []string
		pieces []string // that are gone through
	}{
		{trampoline.Direct, nil, []string{"getppid@stub"}},
		{trampoline.Gated, nil, []string{"pushes@entry", "calls@entry", "pointed@entry", "aligned@entry", "getppid@stub"}},
		{trampoline.Gated, []string{"-fcf-protection=full"}, []string{"pushes@entry", "calls@entry", "pointed@entry", "aligned@entry"}},
		{trampoline.Shared, nil, []string{"livepatch@handler"}},
		{trampoline.Slot, []string{"-fpatchable-function-entry=16,11", "-falign-functions=16"}, []string{"livepatch@handler"}},
	} {
		t.Run(strings.Join(append([]string{string(tc.way)}, tc.flags...), ""), func(t *testing.T) {
			flags := append([]string{"-fPIE", "-fomit-frame-pointer"}, tc.flags...)
			object := func(name string, more ...string) string {
				return compile(t, name, append(append([]string{"-c"}, append(flags, more...)...), "stepped.c")...)
			}
			before, after := object("before.o"), object("after.o", "-DFIXED")
			target := compile(t, "stepped", "-Wl,--build-id", before)
			s := start(t, target)
			_, err := Apply([]int{s.pid}, dispatched(t, tc.way, "fix", target, before, after), Options{})
			must(t, err)
			w := watched(t, s.pid)
			w.check(t, w.observe(t, gdb))
			for _, name := range tc.pieces {
				if w.seen[name] == 0 {
					t.Errorf("nobody has been in %s: %v", name, w.seen)
				}
			}
		})
	}
}

// The loader is killed among its breakpoints. At each instruction of the handler
// which a thread is sent to that meets one, gdb sees who was interrupted.
func TestEveryInstructionOfHandler(t *testing.T) {
	gdb := testkit.Tool(t, "gdb")
	object := func(name string, more ...string) string {
		return compile(t, name, append([]string{"-c", "-fPIE", "-fomit-frame-pointer", patchable}, append(more, "stepped.c")...)...)
	}
	before, after := object("before.o"), object("after.o", "-DFIXED")
	target := compile(t, "stepped", "-Wl,--build-id", before)
	s := start(t, target)
	killedAt(t, s, dispatched(t, trampoline.Direct, "fix", target, before, after), "synchronised 1:1", "LIVEPATCH_SWITCH=int3")
	list, err := Symbols(s.pid)
	must(t, err)
	if len(list) != 2 || list[1].State != breakpoints || list[1].Patch != "" || len(list[1].Functions) != 2 {
		t.Fatalf("%+v", list)
	}
	dir := t.TempDir()
	patch, handler, out := filepath.Join(dir, "fix.elf"), filepath.Join(dir, "handler.elf"), filepath.Join(dir, "out")
	must(t, os.WriteFile(patch, list[0].Data, 0o600))
	must(t, os.WriteFile(handler, list[1].Data, 0o600))
	script, err := filepath.Abs("testdata/handler.py")
	must(t, err)
	cmd := exec.Command(gdb, "-nx", "-batch", "-p", strconv.Itoa(s.pid), "-ex", "set confirm off",
		"-ex", fmt.Sprintf("add-symbol-file %s %#x", patch, list[0].Text), "-ex", fmt.Sprintf("add-symbol-file %s %#x", handler, list[1].Text),
		"-ex", "source "+script, "-ex", fmt.Sprintf("python observe(%q, '/proc/%d/fd/0', %d)", out, s.pid, list[1].Text))
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	seen, err := os.ReadFile(out)
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(seen)), "\n")
	const above = "signal pushes caller main"
	for i, line := range lines {
		want := "livepatch@breakpoint " + above
		if i == len(lines)-1 {
			want = above
		}
		if !strings.HasPrefix(line, want) {
			t.Errorf("instruction %d: gdb sees %s", i, line)
		}
	}
	if len(lines) < 10 {
		t.Errorf("gdb saw %d instructions:\n%s", len(lines), said)
	}
}

// watching is a patched process and what is known of its functions.
type watching struct {
	p       *proc
	file    SymbolFile
	version uint64         // address of the byte of the patch, 0 if it has none
	seen    map[string]int // instructions, by function of the patch
}

func watched(t *testing.T, pid int) *watching {
	list, err := Symbols(pid)
	must(t, err)
	p, err := open(pid)
	must(t, err)
	t.Cleanup(p.close)
	p.readFrames()
	w := &watching{p: p, file: list[0], seen: map[string]int{}}
	r := p.patches.Records[0]
	if last := r.Writes[len(r.Writes)-1]; len(last.New) == 1 { // that of gates is written last
		w.version = last.Addr
	}
	w.version = max(w.version, r.Index)
	return w
}

// observe lets gdb execute a call of each function, and where a version tells,
// one of its old body.
func (w *watching) observe(t *testing.T, gdb string) (list []observed) {
	dir := t.TempDir()
	symbols, out := filepath.Join(dir, "fix.elf"), filepath.Join(dir, "out")
	must(t, os.WriteFile(symbols, w.file.Data, 0o600))
	script, err := filepath.Abs("testdata/step.py")
	must(t, err)
	cmd := exec.Command(gdb, "-nx", "-batch", "-p", strconv.Itoa(w.p.pid), "-ex", "set confirm off",
		"-ex", fmt.Sprintf("add-symbol-file %s %#x", symbols, w.file.Text), "-ex", "source "+script,
		"-ex", fmt.Sprintf("python observe(%q, '/proc/%d/fd/0', %#x)", out, w.p.pid, w.version))
	said, err := cmd.CombinedOutput()
	must(t, err)
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	for lines := json.NewDecoder(bufio.NewReader(f)); lines.More(); {
		var o observed
		must(t, lines.Decode(&o))
		list = append(list, o)
	}
	if len(list) < 100 {
		t.Fatalf("gdb saw %d instructions:\n%s", len(list), said)
	}
	return list
}

// check compares what was observed with what holds in caller before its call.
func (w *watching) check(t *testing.T, list []observed) {
	t.Helper()
	var base *observed
	for i := range list {
		o := &list[i]
		at := w.place(o)
		above := slices.IndexFunc(o.Frames, func(f struct {
			Name string
			PC   uint64
		}) bool {
			return f.Name == "caller"
		})
		switch {
		case above == 0:
			base = o
		case above < 0 || above > 2 || base == nil:
			t.Errorf("%s: gdb sees %v", at, o.Frames)
			continue
		case !slices.Equal(o.Frames[above+1:], base.Frames[1:]) || !slices.Equal(o.Preserved, base.Preserved):
			t.Errorf("%s: gdb sees %v, registers %x; in caller %v, %x", at, o.Frames, o.Preserved, base.Frames, base.Preserved)
		}
		frames, err := w.unwind(o)
		if len(frames) < len(o.Frames) || err != nil {
			t.Errorf("%s: %d frames, %v; gdb sees %v", at, len(frames), err, o.Frames)
			continue
		}
		// Of code without debugging information gdb believes that a return goes to a
		// caller: it takes what a handler returns to for one more frame.
		if strings.HasPrefix(at, "livepatch@handler") && above == 2 {
			o.Frames = slices.Delete(o.Frames, 1, 2)
		}
		for i, f := range o.Frames {
			if frames[i].PC != f.PC {
				t.Errorf("%s: frame %d is at %#x; gdb sees %v", at, i, frames[i].PC, o.Frames)
			}
		}
	}
}

// place names an instruction, and counts it.
func (w *watching) place(o *observed) string {
	pc := o.Registers[len(o.Registers)-1]
	for _, f := range w.file.Functions {
		if pc >= f.Address && pc-f.Address < f.Size {
			w.seen[f.Name]++
			return fmt.Sprintf("%s+%#x", f.Name, pc-f.Address)
		}
	}
	return fmt.Sprintf("%s %#x", o.Frames[0].Name, pc)
}

// remembered is a process whose stack was another when it was observed.
type remembered struct {
	p     *proc
	at    uint64
	stack []byte
}

func (m remembered) ReadAt(b []byte, at int64) (int, error) {
	if off := uint64(at) - m.at; off < uint64(len(m.stack)) && uint64(len(m.stack))-off >= uint64(len(b)) {
		return copy(b, m.stack[off:]), nil
	}
	return m.p.mem.ReadAt(b, at)
}

func (w *watching) unwind(o *observed) ([]unwind.Frame, error) {
	stack, err := hex.DecodeString(o.Stack)
	if err != nil {
		return nil, err
	}
	u := &unwind.Unwinder{Machine: machine, Mem: remembered{w.p, o.At, stack}}
	for _, f := range w.p.frames {
		u.Tables = append(u.Tables, f.table)
	}
	r := unwind.NewRegisters(o.Registers[16], o.Registers[:16]...)
	return u.Walk(r, o.At, o.At+(8<<20))
}
