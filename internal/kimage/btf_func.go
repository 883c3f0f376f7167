package kimage

// Funcs are the functions that a kernel's BTF describes, by the number of their
// type. That is how the kernel names the function that a BPF program is
// attached to.
func Funcs(btf []byte) (map[uint32]string, error) {
	t, err := parseBTF(btf)
	if err != nil {
		return nil, err
	}
	funcs := map[uint32]string{}
	for i := range t.at {
		id := uint32(i) + 1
		if typ, ok := t.typ(id); ok && typ.kind == btfFunc && typ.name != "" {
			funcs[id] = typ.name
		}
	}
	return funcs, nil
}
