package btf

import "testing"

// info makes type information of 4-byte words and strings.
func info(words []uint32, strings string) []byte {
	b := []byte{0x9f, 0xeb, 1, 0}
	for _, v := range []int{HeaderMin, 0, 4 * len(words), 4 * len(words), len(strings)} {
		b = le.AppendUint32(b, uint32(v))
	}
	for _, w := range words {
		b = le.AppendUint32(b, w)
	}
	return append(b, strings...)
}

// The kernel has int (type 1); the module a function (3) of the prototype 2, which
// returns it.
var (
	kernelInfo = info([]uint32{1, Int << 24, 4, 1<<24 | 32}, "\x00int\x00")
	moduleInfo = info([]uint32{0, FuncProto << 24, 1, 5, Func << 24, 2}, "f\x00")
)

// The numbers of a module's types and strings go on from those of the kernel.
func TestSplit(t *testing.T) {
	base, err := Parse(kernelInfo)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseSplit(base, moduleInfo)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := m.Type(3)
	proto, ok2 := m.Type(f.Value)
	result, ok3 := m.Type(proto.Value)
	if !ok || !ok2 || !ok3 || f.Kind != Func || f.Name != "f" || proto.Kind != FuncProto || result.Name != "int" || m.Base() != 1 || m.Len() != 3 {
		t.Errorf("%+v returns %+v; %d types, %d below", f, result, m.Len(), m.Base())
	}
	for _, id := range []uint32{0, 4, 1 << 31} {
		if x, ok := m.Type(id); ok {
			t.Errorf("type %d is %+v", id, x)
		}
	}
	if n, ok := m.SizeOf(1); n != 4 || !ok {
		t.Errorf("size %d", n)
	}
	if got := m.Name(1 << 20); got != "" {
		t.Errorf("name %q", got)
	}
}

// Whatever the bytes, what is read can be used.
func FuzzSplit(f *testing.F) {
	f.Add(kernelInfo, moduleInfo)
	f.Add(moduleInfo, kernelInfo)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		base, err := Parse(a)
		if err != nil {
			return
		}
		m, err := ParseSplit(base, b)
		if err != nil {
			return
		}
		for id := range m.Len() + 2 {
			typ, ok := m.Type(uint32(id))
			if ok != (id > 0 && id <= m.Len()) {
				t.Fatalf("type %d of %d: %t", id, m.Len(), ok)
			}
			m.SizeOf(typ.Value)
		}
	})
}
