package kimage

import "livepatch/elfpatch/btf"

// Funcs are the functions that a kernel's BTF describes, by the number of their
// type. That is how the kernel names the function that a BPF program is
// attached to.
func Funcs(b []byte) (map[uint32]string, error) {
	t, err := btf.Parse(b)
	if err != nil {
		return nil, err
	}
	funcs := map[uint32]string{}
	for i := range t.Len() {
		id := uint32(i) + 1
		if typ, ok := t.Type(id); ok && typ.Kind == btf.Func && typ.Name != "" {
			funcs[id] = typ.Name
		}
	}
	return funcs, nil
}
