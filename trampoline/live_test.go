package trampoline

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"livepatch/disasm"
)

func rounds(list []Round) string {
	var out []string
	for _, r := range list {
		var writes []string
		for _, e := range r {
			writes = append(writes, fmt.Sprintf("%x %x>%x", e.Addr, e.Old, e.New))
		}
		out = append(out, strings.Join(writes, " "))
	}
	return strings.Join(out, " | ")
}

func edit(t testing.TB, addr uint64, old, new string) Edit {
	return Edit{Addr: addr, Old: unhex(t, old), New: unhex(t, new)}
}

func TestLiveRounds(t *testing.T) {
	const nop, jump = "0f1f440000", "e9fb0f0000"
	for _, tc := range []struct {
		name    string
		machine elf.Machine
		edits   []Edit
		want    string // rounds, or an error
	}{
		{"apply", x86, []Edit{edit(t, 0x1000, nop, jump)},
			"1000 0f>cc | 1001 1f440000>fb0f0000 | 1000 cc>e9"},
		{"revert", x86, []Edit{edit(t, 0x1000, jump, nop)},
			"1000 e9>cc | 1001 fb0f0000>1f440000 | 1000 cc>0f"},
		{"retarget", x86, []Edit{edit(t, 0x1000, jump, "e9fb1f0000")},
			"1000 e9>cc | 1001 fb0f0000>fb1f0000 | 1000 cc>e9"},
		{"two, one by the other", x86, []Edit{edit(t, 0x100b, nop, jump), edit(t, 0x1010, "31c0", "ebf9")},
			"100b 0f>cc 1010 31>cc | 100c 1f440000>fb0f0000 1011 c0>f9 | 100b cc>e9 1010 cc>eb"},
		{"nothing", x86, []Edit{edit(t, 0x1000, jump, jump)}, ""},
		{"last place in a line", x86, []Edit{edit(t, 0x103b, nop, jump)},
			"103b 0f>cc | 103c 1f440000>fb0f0000 | 103b cc>e9"},
		{"over a line", x86, []Edit{edit(t, 0x103c, nop, jump)},
			"code at 0x103c cannot be changed while threads run: its 5 bytes lie in two lines of 64 bytes"},
		{"over a page", x86, []Edit{edit(t, 0x1fff, "31c0", "ebf9")},
			"code at 0x1fff cannot be changed while threads run: its 2 bytes lie in two lines of 64 bytes"},
		{"a debugger's", x86, []Edit{edit(t, 0x1000, "cc1f440000", jump)},
			"code at 0x1000 cannot be changed while threads run: it begins with a breakpoint"},
		{"no jump", x86, []Edit{edit(t, 0x1000, nop, "31c031c090")},
			"code at 0x1000 cannot be changed while threads run: neither before nor after is it a jump, to which a thread at the breakpoint could be sent"},
		{"a call", x86, []Edit{{0x1000, unhex(t, nop), unhex(t, "e8fb0f0000"), 0x1005}},
			"1000 0f>cc | 1001 1f440000>fb0f0000 | 1000 cc>e8"},
		{"other length", x86, []Edit{edit(t, 0x1000, nop, "e9fb0f000090")},
			"code at 0x1000 cannot be changed while threads run: 5 bytes would become 6"},

		{"nop to b", arm64, []Edit{edit(t, 0x1000, "1f2003d5", "00040014")}, "1000 1f2003d5>00040014"},
		{"b to nop", arm64, []Edit{edit(t, 0x1000, "00040014", "1f2003d5")}, "1000 00040014>1f2003d5"},
		{"b to b", arm64, []Edit{edit(t, 0x1000, "00040014", "00080014")}, "1000 00040014>00080014"},
		{"bti c stays", arm64, []Edit{edit(t, 0x1000, "5f2403d51f2003d5", "5f2403d500040014")}, "1004 1f2003d5>00040014"},
		{"a prologue", arm64, []Edit{edit(t, 0x1000, "fd7bbfa9", "00040014")},
			"code at 0x1000 cannot be changed while threads run: 0xa9bf7bfd is none of the instructions that may be exchanged"},
		{"paciasp to bti c and b", arm64, []Edit{edit(t, 0x1000, "3f2303d51f2003d5", "5f2403d500040014")},
			"code at 0x1000 cannot be changed while threads run: 2 instructions change, and a thread could execute some old and some new ones"},
		{"bti is not on the list", arm64, []Edit{edit(t, 0x1000, "5f2403d5", "00040014")},
			"code at 0x1000 cannot be changed while threads run: 0xd503245f is none of the instructions that may be exchanged"},
		{"half a word", arm64, []Edit{edit(t, 0x1002, "1f2003d5", "00040014")},
			"code at 0x1002 cannot be changed while threads run: it is no whole instructions"},
		{"nothing", arm64, nil, ""},
		{"another machine", elf.EM_RISCV, []Edit{edit(t, 0x1000, nop, jump)},
			"code at 0x0 cannot be changed while threads run: it is unknown how to on EM_RISCV"},
	} {
		list, err := LiveRounds(tc.machine, tc.edits)
		have := rounds(list)
		if err != nil {
			have = err.Error()
			if !errors.As(err, new(*LiveError)) {
				t.Errorf("%v %s: %T", tc.machine, tc.name, err)
			}
		}
		if have != tc.want {
			t.Errorf("%v %s:\nhave %s\nwant %s", tc.machine, tc.name, have, tc.want)
		}
	}
}

// At each place of an edit in memory: it is refused, or in every order of the
// writes of a round the first byte tells whether the rest is whole, and backwards
// the rounds lead to where they began.
func TestLiveRoundsAreWhole(t *testing.T) {
	old, jump := unhex(t, "4889f84829d0c3"), unhex(t, "e978563412")
	refused := 0
	for addr := uint64(0x1000); addr < 0x1040; addr++ {
		e := Edit{Addr: addr, Old: old[:5], New: jump}
		list, err := LiveRounds(x86, []Edit{e})
		if err != nil {
			refused++
			continue
		}
		mem := bytes.Clone(e.Old)
		play := func(w Edit, from, to []byte) {
			at := mem[w.Addr-addr:]
			if !bytes.HasPrefix(at, from) {
				t.Fatalf("%#x: %x is at %#x, not %x", addr, mem, w.Addr, from)
			}
			copy(at, to)
			if mem[0] != X86Breakpoint && !bytes.Equal(mem, e.Old) && !bytes.Equal(mem, e.New) {
				t.Errorf("%#x: a thread can meet %x", addr, mem)
			}
		}
		for _, r := range list {
			for _, w := range r {
				play(w, w.Old, w.New)
			}
		}
		if !bytes.Equal(mem, e.New) {
			t.Errorf("%#x: it ends as %x", addr, mem)
		}
		for _, r := range slices.Backward(list) {
			for _, w := range r {
				play(w, w.New, w.Old)
			}
		}
		if !bytes.Equal(mem, e.Old) {
			t.Errorf("%#x: taken back it is %x", addr, mem)
		}
	}
	if refused != 4 { // 60 to 63
		t.Errorf("%d places are refused", refused)
	}
}

func TestArm64Exchangeable(t *testing.T) {
	for text, want := range map[string]bool{
		"14000000 b": true, "17ffffff b": true, "94000001 bl": true, "97ffffff bl": true, "d4200000 brk": true, "d43fffe0 brk": true,
		"d4000002 hvc": true, "d4000003 smc": true, "d4000001 svc": true, "d41fffe1 svc": true,
		"d5033fdf isb": true, "d50330df isb #0": true, "d503201f nop": true,
		"54000000 b.eq": false, "d61f0200 br x16": false, "d503245f bti c": false, "d503203f yield": false, "d5033fbf dmb": false,
		"d4400000 hlt": false, "d4200001 unallocated": false, "d65f03c0 ret": false, "00000000 udf": false, "b4000000 cbz": false,
	} {
		var word uint32
		var name string
		if _, err := fmt.Sscanf(text, "%x %s", &word, &name); err != nil {
			t.Fatal(err)
		}
		if arm64Exchangeable(word) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
}

func TestX86TrapSites(t *testing.T) {
	const nop = "0f1f440000"
	have := X86TrapSites([]Edit{
		edit(t, 0x2010, "31c0", "ebf9"),             // through the filler before it
		edit(t, 0x200b, nop, "e9f00f0000"),          //
		edit(t, 0x1000, "e9fb0f0000", nop),          // taken away
		edit(t, 0x1800, "e9fb0f0000", "e9fb1f0000"), // led elsewhere
		edit(t, 0x3000, "ebfe", "9090"),             // to itself
	})
	want := []TrapSite{{0x1000, 0x2000}, {0x1800, 0x3800}, {0x200b, 0x3000}, {0x2010, 0x3000}, {0x3000, 0x3000}}
	if !slices.Equal(have, want) {
		t.Errorf("have %x\nwant %x", have, want)
	}
}

// What is said of the handler's stack follows its pushes and pops, and ends where
// the padding begins.
func TestX86TrapRows(t *testing.T) {
	code := X86TrapHandler(nil, 0, 0)
	rows, pushed := []Row{{}}, 0
	for at := 0; at < X86TrapEnd; {
		in, err := disasm.Decode(elf.EM_X86_64, code[at:])
		if err != nil {
			t.Fatalf("%#x: %v", at, err)
		}
		b := code[at]
		at += in.Len
		switch {
		case in.Len == 1 && b&^7 == 0x50: // push
			pushed += 8
		case in.Len == 1 && b&^7 == 0x58: // pop
			pushed -= 8
		default:
			continue
		}
		rows = append(rows, Row{Off: at, Pushed: pushed})
	}
	have := X86TrapRows()
	if !slices.Equal(have, rows) {
		t.Errorf("have %+v, want %+v", have, rows)
	}
	if gap := code[X86TrapEnd:X86TrapRestorer]; len(gap) == 0 || strings.Trim(string(gap), "\xcc") != "" || code[X86TrapEnd-1] == 0xcc {
		t.Errorf("%x in front of the restorer", gap)
	}
}

// The handler is executed.
func TestX86TrapHandler(t *testing.T) {
	r := runners[0]
	command := r.build(t, "trap.c", "-pthread")
	sites := func(n int) (list []TrapSite) {
		for i := range n {
			list = append(list, TrapSite{0x1_0000_0000 + 16*uint64(i), 0x2_0000_0000 + 16*uint64(i)})
		}
		return list
	}
	const usr1 = 1 << (10 - 1)
	for _, tc := range []struct {
		do   string
		n    int
		old  uint64
		want string // output, or the end
	}{
		{"hit", 0, 0, "alive"}, {"hit", 1, 0, "alive"}, {"hit", 2, 0, "alive"}, {"hit", 3, 0, "alive"}, {"hit", 1000, 1, "alive"},
		{"chain", 7, 2, "3 alive"}, {"chain", 0, 2, "3 alive"},
		{"sent", 7, 0, "trap"}, {"raised", 7, 0, "trap"}, // default
		{"sent", 7, 1, "alive"}, {"raised", 7, 1, "trap"}, // ignored
	} {
		t.Run(fmt.Sprintf("%s %d %d", tc.do, tc.n, tc.old), func(t *testing.T) {
			cmd := exec.Command(command[0], append(slices.Clone(command[1:]), tc.do, fmt.Sprint(tc.n),
				fmt.Sprintf("%x", X86TrapRestorer), fmt.Sprintf("%x", x86TrapOld))...)
			cmd.Stdin = bytes.NewReader(X86TrapHandler(sites(tc.n), tc.old, usr1|sigtrapBit))
			out, err := cmd.Output()
			have := strings.TrimSpace(string(out))
			if e := (*exec.ExitError)(nil); errors.As(err, &e) && e.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTRAP {
				have += "trap"
			} else if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if have != tc.want {
				t.Errorf("%q, not %q", have, tc.want)
			}
		})
	}
}

func TestDivided(t *testing.T) {
	for text, want := range map[string]bool{
		"0f1f440000": false, "e978563412": false, "ebf9": false, "4883ec08": false,
		"5589e54883": true, "9090": true, "488d": true, // the last is cut off
	} {
		if (Edit{Addr: 0x1000, Old: unhex(t, text)}).Divided(x86) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
	if (Edit{Addr: 0x1000, Old: unhex(t, "1f2003d5")}).Divided(arm64) || !(Edit{Addr: 0x1000, Old: unhex(t, "1f2003d51f2003d5")}).Divided(arm64) {
		t.Error("words")
	}
}
