package live

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Functions f at 0x100 and g at 0x200, code as the file holds it: the low byte
// of each address. A short name says what a patch does: "f" a jump of five bytes
// at the entry, "F" the same through five bytes in front of it.
func patchOf(name string, sequence uint64, functions string, requires ...*Record) *Record {
	r := &Record{Control: Control{State: Applied, Sequence: sequence}, Name: name, Digest: [32]byte{byte(sequence)}, Base: 0x1000 * sequence, Sizes: [3]uint64{0x400, 0x400, 0}}
	for _, o := range requires {
		r.Requires = append(r.Requires, o.Digest)
	}
	for i, letter := range functions {
		entry := map[rune]uint64{'f': 0x100, 'F': 0x100, 'g': 0x200, 'G': 0x200}[letter]
		r.Functions = append(r.Functions, Function{Name: strings.ToLower(string(letter)), Old: entry, OldSize: 0x40, New: r.Base + 0x400 + uint64(i)*0x40, NewSize: 0x20})
		jump := Write{Function: i, Addr: entry, New: []byte{0xe9, byte(sequence), 0, 0, 0}}
		if letter < 'a' {
			jump.Addr -= 5
			r.Writes = append(r.Writes, jump)
			jump = Write{Function: i, Addr: entry, New: []byte{0xeb, 0xf9}}
		}
		r.Writes = append(r.Writes, jump)
	}
	for i := range r.Writes {
		w := &r.Writes[i]
		for j := range w.New {
			w.Old = append(w.Old, byte(w.Addr+uint64(j)))
		}
	}
	return r
}

// switched is such a patch that one byte of its own switches.
func switched(name string, sequence uint64, functions string) *Record {
	r := patchOf(name, sequence, functions)
	r.Writes = append(r.Writes, Write{Function: Whole, Addr: r.Base + 0x800, Old: []byte{0}, New: []byte{1}})
	return r
}

func applied(list ...*Record) Set { return Set{Applied: list} }

func TestPlan(t *testing.T) {
	gate, other := switched("gate", 5, "fg"), switched("other", 6, "f")
	a, b := patchOf("a", 1, "fg"), patchOf("b", 2, "f")
	front, both := patchOf("front", 3, "F"), patchOf("both", 4, "fg")
	for _, tc := range []struct {
		name          string
		before, after []*Record
		want          string
	}{
		{"nothing", nil, nil, ""},
		{"apply", nil, []*Record{a}, "a f 100:0001020304>e901000000; a g 200:0001020304>e901000000"},
		{"revert", []*Record{a}, nil, "a g 200:e901000000>0001020304; a f 100:e901000000>0001020304"},
		{"on top", []*Record{a}, []*Record{a, b}, "b f 100:e901000000>e902000000"},
		{"from the top", []*Record{b, a}, []*Record{a}, "a f 100:e902000000>e901000000"},
		{"from beneath", []*Record{a, b}, []*Record{b}, "a g 200:e901000000>0001020304"},
		{"retarget to all", []*Record{a}, []*Record{both}, "both f 100:e901000000>e904000000; both g 200:e901000000>e904000000"},
		{"retarget to less", []*Record{a}, []*Record{b}, "b f 100:e901000000>e902000000; a g 200:e901000000>0001020304"},
		{"in front", nil, []*Record{front}, "front f fb:fbfcfdfeff>e903000000; front f 100:0001>ebf9"},
		{"no more in front", []*Record{front}, nil, "front f 100:ebf9>0001; front f fb:e903000000>fbfcfdfeff"},
		{"to in front", []*Record{b}, []*Record{front}, "front f fb:fbfcfdfeff>e903000000; front f 100:e902>ebf9; b f 102:000000>020304"},
		{"switched", nil, []*Record{gate}, "gate f 100:0001020304>e905000000; gate g 200:0001020304>e905000000; gate patch gate 5800:00>01"},
		{"switched back", []*Record{gate}, nil, "gate patch gate 5800:01>00; gate g 200:e905000000>0001020304; gate f 100:e905000000>0001020304"},
		{"switched, two images", nil, []*Record{other, switched("more", 7, "g")},
			"other f 100:0001020304>e906000000; more g 200:0001020304>e907000000; other patch other 6800:00>01; more patch more 7800:00>01"},
		{"switched in place of another", []*Record{a}, []*Record{gate},
			"gate patch gate 5800:00>01; gate f 100:e901000000>e905000000; gate g 200:e901000000>e905000000"},
		{"one switched in place of another", []*Record{gate}, []*Record{other},
			"other patch other 6800:00>01; other f 100:e905000000>e906000000; gate patch gate 5800:01>00; gate g 200:e905000000>0001020304"},
		{"switched on top", []*Record{gate}, []*Record{gate, other}, "other patch other 6800:00>01; other f 100:e905000000>e906000000"},
		{"switched from the top", []*Record{gate, other}, []*Record{gate}, "gate f 100:e906000000>e905000000; other patch other 6800:01>00"},
		{"from in front", []*Record{front}, []*Record{b}, "b f 100:ebf9020304>e902000000; front f fb:e903000000>fbfcfdfeff"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var list []string
			for _, s := range Plan(applied(tc.before...), applied(tc.after...)) {
				list = append(list, fmt.Sprintf("%s %s %x:%x>%x", s.Record.Name, s.Name(), s.Addr, s.Old, s.New))
			}
			if got := strings.Join(list, "; "); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// Whatever is applied and taken away in whatever order, memory is in the end
// what the set says, and the file's when the set is empty; and on the way each
// function is what it was or what it becomes, and nothing else.
func TestPlanAlwaysArrives(t *testing.T) {
	all := []*Record{patchOf("a", 1, "fg"), patchOf("b", 2, "F"), patchOf("c", 3, "gf"), patchOf("d", 4, "G")}
	file := func() text {
		m := text{}
		for addr := uint64(0xf0); addr < 0x300; addr++ {
			m[addr] = byte(addr)
		}
		return m
	}
	subset := func(bits int) (set []*Record) {
		for i, r := range all {
			if bits>>i&1 != 0 {
				set = append(set, r)
			}
		}
		return set
	}
	entry := func(m text, at uint64) string {
		if m[at] == 0xeb {
			return fmt.Sprintf("%x", m.get(at-5, 5))
		}
		return fmt.Sprintf("%x", m.get(at, 5))
	}
	for from := range 1 << len(all) {
		for to := range 1 << len(all) {
			m, want := file(), file()
			for _, s := range Plan(Set{}, applied(subset(from)...)) {
				m.put(s.Addr, s.New)
			}
			for _, s := range Plan(Set{}, applied(subset(to)...)) {
				want.put(s.Addr, s.New)
			}
			begin := [2]string{entry(m, 0x100), entry(m, 0x200)}
			end := [2]string{entry(want, 0x100), entry(want, 0x200)}
			for _, s := range Plan(applied(subset(from)...), applied(subset(to)...)) {
				if !slices.Equal(m.get(s.Addr, len(s.Old)), s.Old) {
					t.Fatalf("%04b to %04b: step at %#x expects %x", from, to, s.Addr, s.Old)
				}
				m.put(s.Addr, s.New)
				for i, now := range [2]string{entry(m, 0x100), entry(m, 0x200)} {
					if now != begin[i] && now != end[i] {
						t.Fatalf("%04b to %04b: entry %d is %s on the way from %s to %s", from, to, i, now, begin[i], end[i])
					}
				}
			}
			for addr, b := range want {
				if m[addr] != b {
					t.Fatalf("%04b to %04b: %#x holds %#x, not %#x", from, to, addr, m[addr], b)
				}
			}
		}
	}
}

func TestClaims(t *testing.T) {
	a := patchOf("a", 1, "f")
	b := patchOf("b", 2, "f", a)
	other := patchOf("other", 3, "g")
	for _, tc := range []struct {
		r    *Record
		set  []*Record
		want string
	}{
		{patchOf("n", 9, "g"), []*Record{a}, ""},
		{patchOf("n", 9, "fg"), []*Record{a, other}, "f of a; g of other"},
		{patchOf("n", 9, "f", a), []*Record{a}, ""},
		{patchOf("n", 9, "f", b), []*Record{a, b}, ""}, // through b
		{patchOf("n", 9, "f", a), []*Record{a, b}, "f of b"},
		{patchOf("n", 9, "fg", b), []*Record{a, b, other}, "g of other"},
		{patchOf("n", 9, "f", other), []*Record{a, other}, "f of a"},
	} {
		var list []string
		for _, c := range Claims(tc.r, tc.set) {
			list = append(list, c.Function+" of "+c.Owner.Name)
		}
		if got := strings.Join(list, "; "); got != tc.want {
			t.Errorf("on %v: %q, want %q", names(tc.set), got, tc.want)
		}
	}
	// Bodies that overlap without being the same function.
	n := patchOf("n", 9, "f", a)
	n.Functions[0].Old += 8
	if got := Claims(n, []*Record{a}); len(got) != 1 || got[0].Owner != a {
		t.Errorf("conflicts %+v", got)
	}
	if got := Missing(b, []*Record{other}); len(got) != 1 || got[0] != a.Digest {
		t.Errorf("missing %v", got)
	}
	if got := Missing(b, []*Record{a}); len(got) != 0 {
		t.Errorf("missing %v", got)
	}
}

func TestAbove(t *testing.T) {
	a := patchOf("a", 1, "f")
	b := patchOf("b", 2, "g", a)
	c := patchOf("c", 3, "g", b)
	d := patchOf("d", 4, "f")
	set := []*Record{d, c, b, a}
	for r, want := range map[*Record]string{a: "b c d", b: "c", c: "", d: ""} {
		if got := strings.Join(names(Above(r, set)), " "); got != want {
			t.Errorf("above %s: %q, want %q", r.Name, got, want)
		}
	}
}

func TestLeaving(t *testing.T) {
	a, b := patchOf("a", 1, "fg"), patchOf("b", 2, "f")
	a.Functions[0].Outlined = []Extent{{0x900, 0x10}}
	for _, tc := range []struct {
		name          string
		before, after []*Record
		want          string
	}{
		{"apply", nil, []*Record{a}, "f (outlined) 900-910, f 100-105 written, f 100-140, g 200-205 written, g 200-240"},
		{"revert", []*Record{a}, nil, "f 100-105 written, g 200-205 written, new f 1400-1420, new g 1440-1460, patch a 1400-1440, patch a 1440-1800"},
		{"on top", []*Record{a}, []*Record{a, b}, "f 100-105 written, new f 1400-1420, patch a 1400-1440, patch a 1440-1800"},
		{"from the top", []*Record{a, b}, []*Record{a}, "f 100-105 written, new f 2400-2420, patch b 2400-2800"},
		{"nothing", []*Record{a}, []*Record{a}, ""},
	} {
		var list []string
		for _, r := range Leaving(applied(tc.before...), applied(tc.after...), Plan(applied(tc.before...), applied(tc.after...))) {
			line := fmt.Sprintf("%s %x-%x", r.Name, r.Start, r.End)
			if r.Written {
				line += " written"
			}
			list = append(list, line)
		}
		slices.Sort(list)
		if got := strings.Join(list, ", "); got != tc.want {
			t.Errorf("%s: got  %s\nwant %s", tc.name, got, tc.want)
		}
	}
}
