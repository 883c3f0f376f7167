package trampoline

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// link builds the functions of testdata into a file whose addresses are those
// that it runs at.
func (r runner) link(t *testing.T) *elfpatch.File {
	t.Helper()
	name := map[elf.Machine]string{x86: "functions_x86", arm64: "functions_arm64"}[r.machine]
	cc := r.compiler()
	testkit.Tool(t, cc[0])
	out := filepath.Join(t.TempDir(), name)
	testkit.Run(t, cc[0], "-nostdlib", "-static", "-no-pie", "-Wl,-e,0", "-Wl,--build-id=none",
		"-Wl,-Ttext=0x20000000", "-Wl,-Tdata=0x20100000", "-o", out, filepath.Join("testdata", name+".s"))
	return testkit.ELF(t, out)
}

// assembled is a function of such a file.
type assembled struct {
	name string
	addr uint64
	body []byte
}

// functions lists those whose names begin with a prefix.
func functions(t *testing.T, f *elfpatch.File, prefix string) (list []assembled) {
	t.Helper()
	for _, s := range f.Symbols {
		if name, ok := strings.CutPrefix(s.Name, prefix); ok {
			body, ok := f.ReadAddr(s.Value, int(s.Size))
			if !ok {
				t.Fatalf("no bytes of %s", s.Name)
			}
			list = append(list, assembled{name, s.Value, body})
		}
	}
	if len(list) == 0 {
		t.Fatalf("no functions %s", prefix)
	}
	return list
}

// overwrites is the number of bytes that a redirect of the function takes.
func (a assembled) overwrites(m elf.Machine) int {
	if i := strings.LastIndex(a.name, "_n"); i >= 0 {
		if n, err := strconv.Atoi(a.name[i+2:]); err == nil {
			return n
		}
	}
	return Len(m, Near)
}

// loaded is the bytes of code at addr.
func loaded(t *testing.T, m elf.Machine, c Code, addr uint64, where func(Place) uint64) []byte {
	t.Helper()
	b := bytes.Clone(c.Bytes)
	for _, r := range c.Refs {
		if err := elfpatch.ApplyReloc(m, r.Type, b[r.Off:], addr+uint64(r.Off), where(r.To), r.Addend); err != nil {
			t.Fatalf("%s at +%#x: %v", elfpatch.RelocName(m, r.Type), r.Off, err)
		}
	}
	return b
}

func inTarget(t *testing.T) func(Place) uint64 {
	return func(p Place) uint64 {
		if p.Kind != InTarget {
			t.Errorf("reference to %q", p.Kind)
		}
		return p.Addr
	}
}

// memoryImage is the commands that put a file where it runs.
func memoryImage(f *elfpatch.File) string {
	var in strings.Builder
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Size == 0 {
			continue
		}
		what := "put"
		if s.Flags&elf.SHF_WRITE != 0 {
			what = "data"
		}
		putLong(&in, what, s.Addr, s.Data)
	}
	return in.String()
}

func putLong(in *strings.Builder, what string, addr uint64, b []byte) {
	const most = 8000 // bytes of a line
	for len(b) > 0 {
		n := min(len(b), most)
		fmt.Fprintf(in, "%s %x %x\n", what, addr, b[:n])
		addr, b = addr+uint64(n), b[n:]
	}
}

// answers runs a script of the harness that knows registers.
func answers(t *testing.T, command []string, in string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // wrong code may loop
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%.2000s", err, out, in)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// TestExecuteDisplaced runs every function with random registers, as it is and
// with its first instructions moved, near and far, and compares all registers,
// flags and data.
func TestExecuteDisplaced(t *testing.T) {
	const rounds = 24
	for _, r := range runners {
		t.Run(r.machine.String(), func(t *testing.T) {
			command := r.build(t, "registers.c")
			f := r.link(t)
			image := memoryImage(f)
			for _, fn := range functions(t, f, "f_") {
				n := fn.overwrites(r.machine)
				d, err := Displace(r.machine, fn.body, fn.addr, n)
				if err != nil {
					t.Errorf("%s: %v", fn.name, err)
					continue
				}
				// All in one process: its stack is part of what is compared.
				var calls, in strings.Builder
				for seed := range rounds {
					fmt.Fprintf(&calls, "run %x %d\n", fn.addr, seed*7919+1)
				}
				in.WriteString(image + calls.String())
				places := r.near(fn.addr)
				for _, at := range places {
					in.WriteString(image)
					putLong(&in, "put", at, loaded(t, r.machine, d.Code, at, inTarget(t)))
					putLong(&in, "put", fn.addr, r.jump(t, fn, n, at))
					in.WriteString(calls.String())
				}
				got := answers(t, command, in.String())
				if len(got) != rounds*(1+len(places)) {
					t.Fatalf("%s: %d answers, the last %s", fn.name, len(got), got[len(got)-1])
				}
				for i, line := range got {
					if line != got[i%rounds] {
						t.Fatalf("%s with its beginning moved to %#x (% x), round %d:\n%s\nwant\n%s", fn.name, places[i/rounds-1], d.Bytes, i%rounds, line, got[i%rounds])
					}
				}
			}
		})
	}
}

// near are places that a near jump from addr reaches, on both sides.
func (r runner) near(addr uint64) []uint64 {
	if r.machine == arm64 {
		return []uint64{addr + 0x7f00008, addr - 0x7f00ff8}
	}
	return []uint64{addr + 0x5f000003, addr - 0x1f000005}
}

// jump is a jump to at in the first n bytes of a function, what it leaves of
// them undefined.
func (r runner) jump(t *testing.T, fn assembled, n int, at uint64) []byte {
	t.Helper()
	plan, err := Make(r.machine, Site{Addr: fn.addr, Expected: fn.body, Room: len(fn.body)}, Near)
	if err != nil {
		t.Fatal(err)
	}
	b, err := plan.Writes[0].Fill(at, 0)
	if err != nil {
		t.Fatal(err)
	}
	trap := map[elf.Machine][]byte{x86: {0xcc}, arm64: {0, 0, 0, 0}}[r.machine]
	for len(b) < n {
		b = append(b, trap...)
	}
	return b
}

func TestDisplaceRefuses(t *testing.T) {
	tests := []struct {
		name    string
		machine elf.Machine
		code    string
		n       int
		want    string // "" if it can be moved
	}{
		{"branch to itself", x86, "ebfe 909090", 5, "instruction at 0x1000 cannot be moved: it refers to 0x1000, which is overwritten"},
		{"loop to the entry", x86, "ffcf 75fc c3 cccccc", 5, "instruction at 0x1002 cannot be moved: it refers to 0x1000, which is overwritten"},
		{"load from the entry", x86, "8b05fafffff f c3", 5, "instruction at 0x1000 cannot be moved: it refers to 0x1000, which is overwritten"},
		{"address of the entry", x86, "488d05f9ffffff c3", 5, ""},
		{"address of the middle", x86, "488d05fbffffff c3", 5, "instruction at 0x1000 cannot be moved: it refers to 0x1002, which is overwritten"},
		{"branch behind what is overwritten", x86, "85ff 7401 90 c3", 5, ""},
		{"branch into it", x86, "85ff 7400 90 c3", 5, "instruction at 0x1002 cannot be moved: it refers to 0x1004, which is overwritten"},
		{"call back into it", x86, "ffd0 909090 c3", 5, "instruction at 0x1000 cannot be moved: the call returns into what is overwritten"},
		{"call through the stack", x86, "4157 ff5424 08", 5, "instruction at 0x1002 cannot be moved: it calls through the stack pointer"},
		{"call through r12 as base", x86, "4157 41ff5424 08", 5, ""},
		{"call through the stack pointer itself", x86, "909090 ffd4", 5, "instruction at 0x1003 cannot be moved: it calls through the stack pointer"},
		{"far call", x86, "909090 ff18", 5, "instruction at 0x1003 cannot be moved: it is a far call"},
		{"transaction", x86, "c7f8 00010000", 5, "instruction at 0x1000 cannot be moved: it has no form that reaches further"},
		{"relative to EIP", x86, "678b05 00010000", 5, "instruction at 0x1000 cannot be moved: its operand is relative to EIP"},
		{"jump with prefix 66", x86, "66e9 00010000", 5, "instruction at 0x1000 cannot be moved: processors differ on a branch with prefix 66"},
		{"no instruction", x86, "06 90909090", 5, "instruction at 0x1000 cannot be moved: decode x86-64 instruction at +0x0 (06 90 90 90 90): undefined opcode"},
		{"cut short", x86, "90 e800", 5, "instruction at 0x1001 cannot be moved: decode x86-64 instruction at +0x0 (e8 00): the bytes end before the instruction does"},
		{"branch to itself", arm64, "00000014", 4, "instruction at 0x1000 cannot be moved: it refers to 0x1000, which is overwritten"},
		{"branch into it", arm64, "600000b4 1f2003d5 1f2003d5 1f2003d5", 16, "instruction at 0x1000 cannot be moved: it refers to 0x100c, which is overwritten"},
		{"branch behind it", arm64, "800000b4 1f2003d5 1f2003d5 1f2003d5", 16, ""},
		{"call back into it", arm64, "00010094 1f2003d5", 8, "instruction at 0x1000 cannot be moved: the call returns into what is overwritten"},
		{"authenticated call", arm64, "1f093fd6", 4, "instruction at 0x1000 cannot be moved: it authenticates the address that it calls"},
		{"unallocated", arm64, "00000002", 4, "instruction at 0x1000 cannot be moved: decode arm64 instruction at +0x0 (00 00 00 02): unallocated encoding"},
		{"machine", elf.EM_RISCV, "00000000", 4, "no near jump on EM_RISCV"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v %s", tt.machine, tt.name), func(t *testing.T) {
			_, err := Displace(tt.machine, unhex(t, tt.code), 0x1000, tt.n)
			if text := fmt.Sprint(err); text != tt.want && (err != nil || tt.want != "") {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// FuzzDisplace moves whatever decodes. What comes out are instructions again,
// with fields where the references say.
func FuzzDisplace(f *testing.F) {
	f.Add(false, unhex(f, "85ff7401 90c3"), uint8(5))
	f.Add(false, unhex(f, "4883ec08 e800000000 c3"), uint8(5))
	f.Add(false, unhex(f, "e310 48c70500000000ffffffff"), uint8(5))
	f.Add(true, unhex(f, "6000005c 00000094"), uint8(4))
	f.Fuzz(func(t *testing.T, isArm bool, body []byte, n uint8) {
		m := elf.Machine(x86)
		if isArm {
			m = arm64
		}
		d, err := Displace(m, body, 0x40_0000_0000, int(n)%32)
		if err != nil {
			if known := (*DisplaceError)(nil); !errors.As(err, &known) {
				t.Fatalf("error %v", err)
			}
			return
		}
		end := len(d.Bytes)
		for _, r := range d.Refs {
			info, ok := elfpatch.RelocInfo(m, r.Type)
			if !ok || r.Off < 0 || r.Off+info.Size > len(d.Bytes) {
				t.Fatalf("reference %+v in %d bytes", r, len(d.Bytes))
			}
			if info.Size == wordLen {
				end = min(end, r.Off) // the return address of a call
			}
		}
		if err := disasm.Walk(m, d.Bytes[:end], func(int, disasm.Inst) bool { return true }); err != nil {
			t.Fatalf("% x: %v", d.Bytes, err)
		}
	})
}
