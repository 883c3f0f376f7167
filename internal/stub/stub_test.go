package stub

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/elfpatch/btf"
	"livepatch/fentry"
)

const base = 0xffffffff81000000

// image makes a linked file of functions, given as hex, one behind the other, each
// aligned to 16 bytes.
func image(t *testing.T, m elf.Machine, funcs ...[2]string) *elfpatch.File {
	t.Helper()
	f := elfpatch.New(elf.ET_EXEC, m)
	text := f.AddSection(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Addr: base, Align: 16})
	for _, fn := range funcs {
		b, err := hex.DecodeString(strings.ReplaceAll(fn[1], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		f.AddSymbol(elfpatch.Symbol{Name: fn[0], Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: text.Index, Value: base + uint64(len(text.Data)), Size: uint64(len(b))})
		text.Data = append(text.Data, b...)
		for len(text.Data)%16 > 0 {
			text.Data = append(text.Data, 0xcc)
		}
	}
	text.Size = uint64(len(text.Data))
	return f
}

func TestReturns(t *testing.T) {
	c := newCode(image(t, elf.EM_X86_64,
		[2]string{"ret", "31c0 c3"},
		[2]string{returnThunk, "cc"},
		[2]string{"thunk", "e9 ebffffff"},      // jmp 0x10
		[2]string{"loop", "ebfe"},              // jmp to itself
		[2]string{"stops", "e8 00000000 0f0b"}, // call, ud2
		[2]string{"tail", "e9 dbffffff"},       // jmp loop
		[2]string{"circle", "e9 fbffffff"},     // jmp to itself, long
		[2]string{"pointer", "ffe0"},           // jmp *%rax
		[2]string{"away", "e9 00100000"},       // to where no function is
		[2]string{"some", "7405 e9 69ffffff e9 b4ffffff"},
	))
	for i, want := range []bool{true, true, true, false, false, false, false, true, true, true} {
		s := c.funcs[i]
		if got := c.returns(s.Value); got != want {
			t.Errorf("%s returns: %v, want %v", s.Name, got, want)
		}
	}
}

// What a stub does, by its instructions.
func TestAfter(t *testing.T) {
	for _, x := range []struct {
		machine elf.Machine
		lead    string // how the old function begins
		thunk   bool
		value   Value
		want    string
	}{
		{elf.EM_X86_64, "f30f1efa", false, Value{}, "endbr64; ret; int3"},
		{elf.EM_X86_64, "90", true, Value{true, 0}, "xor %eax,%eax; jmp 0x7; int3"},
		{elf.EM_X86_64, "90", false, Value{true, -1}, "mov $-0x1,%rax; ret; int3"},
		{elf.EM_X86_64, "90", false, Value{true, math.MinInt64}, "mov $-0x8000000000000000,%rax; ret; int3"},
		{elf.EM_AARCH64, "5f2403d5", false, Value{true, 0}, "bti c; mov x0, #0x0; ret"},
		{elf.EM_AARCH64, "1f2003d5", false, Value{true, -1}, "mov x0, #0xffffffffffffffff; ret"},
		{elf.EM_AARCH64, "1f2003d5", false, Value{true, -65537}, "mov x0, #0xfffffffffffeffff; ret"},
		{elf.EM_AARCH64, "1f2003d5", false, Value{true, 0x123456789}, "mov x0, #0x6789; movk x0, #0x2345, lsl #16; movk x0, #0x1, lsl #32; ret"},
		{elf.EM_AARCH64, "1f2003d5", false, Value{}, "ret"},
	} {
		funcs := [][2]string{{"f", x.lead}}
		if x.thunk {
			funcs = append(funcs, [2]string{returnThunk, "cc"})
		}
		o := &objects{code: newCode(image(t, x.machine, funcs...)), fn: Function{"f", base, 16}}
		old, _ := hex.DecodeString(x.lead)
		make := o.makeAfterX86
		if x.machine == elf.EM_AARCH64 {
			make = o.makeAfterARM64
		}
		if err := make(old, x.value); err != nil {
			t.Fatal(err)
		}
		var got []string
		code := o.after.Section(".text.f").Data
		err := disasm.Walk(x.machine, code, func(off int, in disasm.Inst) bool {
			got = append(got, strings.Join(strings.Fields(disasm.Text(x.machine, code[off:off+in.Len], uint64(off), nil)), " "))
			return true
		})
		if text := strings.Join(got, "; "); err != nil || text != x.want {
			t.Errorf("%v %v: %s (%v), want %s", x.machine, x.value, text, err, x.want)
		}
		if sites := o.after.Section(".return_sites"); x.thunk != (sites != nil) {
			t.Errorf("%v %v: return sites %v", x.machine, x.value, sites)
		}
	}
}

// The value that the instructions for arm64 make is the value that was asked for.
func TestLoadX0(t *testing.T) {
	for _, v := range []int64{0, 1, -1, -13, 0xffff, 0x10000, -0x10000, 1 << 40, -1 << 40, math.MaxInt64, math.MinInt64, 0x0001000200030004} {
		var x uint64
		for _, insn := range loadX0(Value{true, v}) {
			shift, imm := insn>>21&3*16, uint64(insn>>5&0xffff)
			switch insn &^ (3<<21 | 0xffff<<5) {
			case 0xd2800000:
				x = imm << shift
			case 0x92800000:
				x = ^(imm << shift)
			case 0xf2800000:
				x = x&^(0xffff<<shift) | imm<<shift
			default:
				t.Fatalf("%#x is no mov", insn)
			}
		}
		if int64(x) != v {
			t.Errorf("%#x: x0 is %#x", v, x)
		}
	}
}

func TestErrno(t *testing.T) {
	for name, want := range map[string]int{"EPERM": 1, "EAGAIN": 11, "EROFS": 30, "ELOOP": 40, "ENOMSG": 42, "EBFONT": 59, "EOPNOTSUPP": 95, "ETIMEDOUT": 110, "EHWPOISON": 133, "-": 0, "EWHAT": 0} {
		if got := Errno(name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}

// types makes type information: void f0(void), int f1(void), bool f2, u8 f3, struct s
// f4, enum e {0, 7} f5, void *f6, and what int is called f7.
func types(t *testing.T) *btf.Table {
	t.Helper()
	var b, str []byte
	str = append(str, 0)
	name := func(s string) uint32 {
		off := len(str)
		str = append(append(str, s...), 0)
		return uint32(off)
	}
	add := func(s string, kind, n, value uint32, tail ...uint32) {
		for _, v := range append([]uint32{name(s), kind<<24 | n, value}, tail...) {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
	}
	add("int", btf.Int, 0, 4, 1<<24|32)
	add("bool", btf.Int, 0, 1, 4<<24|8)
	add("u8", btf.Int, 0, 1, 8)
	add("s", btf.Struct, 0, 16)
	add("e", btf.Enum, 2, 4, name("A"), 0, name("B"), 7)
	add("", btf.Ptr, 0, 0)
	add("int_t", btf.Typedef, 0, 1)
	for i := range uint32(8) {
		add("", btf.FuncProto, 0, i)
		add("f"+string(rune('0'+i)), btf.Func, 0, 8+2*i)
	}
	head := []byte{0x9f, 0xeb, 1, 0}
	for _, v := range []int{24, 0, len(b), len(b), len(str)} {
		head = binary.LittleEndian.AppendUint32(head, uint32(v))
	}
	table, err := btf.Parse(append(append(head, b...), str...))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestUnfit(t *testing.T) {
	m := &Maker{types: types(t)}
	for _, x := range []struct {
		name  string
		value Value
		want  string // part of the reason; empty: none
	}{
		{"f0", Value{}, ""},
		{"f0", Value{true, -1}, "returns nothing"},
		{"f1", Value{}, "happens to be"},
		{"f1", Value{true, -1}, ""},
		{"f1.isra.0", Value{true, -1}, ""},
		{"f1", Value{true, 1 << 31}, "cannot be"},
		{"f2", Value{true, 1}, ""},
		{"f2", Value{true, -1}, "cannot be"},
		{"f3", Value{true, 255}, ""},
		{"f3", Value{true, -1}, "cannot be"},
		{"f4", Value{true, 0}, "a structure"},
		{"f5", Value{true, 7}, ""},
		{"f5", Value{true, 8}, "no member"},
		{"f6", Value{true, 0}, "look for NULL"},
		{"f6", Value{true, -12}, "an error"},
		{"f6", Value{true, 5}, "neither NULL"},
		{"f7", Value{true, -1}, ""},
		{"f7", Value{true, -1 << 40}, "cannot be"},
		{"g", Value{true, -1}, "does not describe"},
		{"__x64_sys_read", Value{true, -1}, ""},
		{"__x64_sys_read", Value{}, "does not describe"},
	} {
		if got := m.unfit(x.name, x.value); x.want == "" && got != "" || !strings.Contains(got, x.want) {
			t.Errorf("%s returns %v: %q, want %q", x.name, x.value, got, x.want)
		}
	}
	if got := (&Maker{}).unfit("f1", Value{true, 0}); !strings.Contains(got, "no type information") {
		t.Errorf("without types: %q", got)
	}
}

// The object of what the image has names what its calls lead to.
func TestBefore(t *testing.T) {
	f := image(t, elf.EM_X86_64,
		[2]string{"f", "0f1f440000 e8 16000000 eb00 c3"}, // nopl, call g, jmp, ret
		[2]string{"pad", "cc"},
		[2]string{"g", "c3"})
	o := &objects{code: newCode(f), fn: Function{"f", base, 13}, site: fentry.Func{Site: base, Size: 13}}
	if err := o.make(Value{}); err != nil {
		t.Fatal(err)
	}
	if o.calls["g"] != 1 || len(o.calls) != 1 {
		t.Errorf("it calls %v", o.calls)
	}
	rels, err := o.before.Relocations(o.before.Section(".text.f"))
	if err != nil || len(rels) != 2 {
		t.Fatalf("relocations %v, %v", rels, err)
	}
	for i, want := range []string{fentryName, "g"} {
		if got := o.before.Symbols[rels[i].Symbol].Name; got != want || rels[i].Offset != uint64(1+5*i) {
			t.Errorf("relocation %d is %s at %#x, want %s", i, got, rels[i].Offset, want)
		}
	}
}
