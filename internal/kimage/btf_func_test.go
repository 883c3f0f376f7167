package kimage

import (
	"maps"
	"testing"

	"livepatch/elfpatch/btf"
)

func TestFuncs(t *testing.T) {
	strings := "\x00f\x00g\x00"
	var types []byte
	add := func(name, kind, value uint32) {
		for _, v := range []uint32{name, kind << 24, value} {
			types = le.AppendUint32(types, v)
		}
	}
	add(0, btf.FuncProto, 0)
	add(1, btf.Func, 1)
	add(3, btf.Typedef, 1)
	add(3, btf.Func, 1)
	add(99, btf.Func, 1) // a name that is not there
	b := le.AppendUint16(nil, btf.Magic)
	b = append(b, 1, 0)
	for _, v := range []uint32{btf.HeaderMin, 0, uint32(len(types)), uint32(len(types)), uint32(len(strings))} {
		b = le.AppendUint32(b, v)
	}
	b = append(append(b, types...), strings...)
	got, err := Funcs(b)
	if err != nil || !maps.Equal(got, map[uint32]string{2: "f", 4: "g"}) {
		t.Errorf("%v, %v", got, err)
	}
	for n := range len(b) {
		if got, err := Funcs(b[:n]); err == nil {
			t.Errorf("%d bytes: %v", n, got)
		}
	}
}
