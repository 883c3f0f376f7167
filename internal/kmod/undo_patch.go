package kmod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
)

// readPatch reads the structures of the livepatch core, and what they tell of
// their own layouts. The members that a module fills have had the same
// offsets since 5.1 (include/linux/livepatch.h, 6.12), and struct module begins as it always has
// (include/linux/module.h, 6.12: state and list before the name).
func (u *undoer) readPatch() error {
	p := &patchReader{u: u, sec: u.in.Section(".data.livepatch")}
	module := u.in.Section(".gnu.linkonce.this_module")
	objects, patch := p.symbol("klp_objects"), p.symbol("klp_patch")
	if p.sec == nil || module == nil || objects.Name == "" || patch.Name == "" {
		return foreign("it has no struct klp_patch of livepatch's")
	}
	p.at = map[uint64]elfpatch.Rela{}
	for _, r := range u.tables[p.sec.Index] {
		p.at[r.Offset] = r
	}
	p.offsets = slices.Sorted(maps.Keys(p.at))
	n := uint64(0)
	for p.symbol(fmt.Sprintf("klp_funcs.%d", n)).Name != "" {
		n++
	}
	u.s.ABI = &kimage.ABI{Structs: map[string]kimage.Struct{
		"module": p.module(module), "klp_callbacks": words(32, "pre_patch", "post_patch", "pre_unpatch", "post_unpatch"),
	}}
	object := words(objects.Size/(n+1), "name", "funcs")
	object.Members["callbacks"] = kimage.Member{Offset: 16, Size: 32}
	u.s.ABI.Structs["klp_object"] = object
	for i := range n {
		o, err := p.object(i, objects.Value+i*object.Size)
		if err != nil {
			return err
		}
		u.s.Objects = append(u.s.Objects, o)
	}
	return p.patch(patch)
}

// words is the layout of a structure that begins with pointers.
func words(size uint64, names ...string) kimage.Struct {
	s := kimage.Struct{Size: size, Members: map[string]kimage.Member{}}
	for i, n := range names {
		s.Members[n] = kimage.Member{Offset: 8 * uint64(i), Size: 8}
	}
	return s
}

// patchReader reads the section of livepatch structures.
type patchReader struct {
	u   *undoer
	sec *elfpatch.Section
	at  map[uint64]elfpatch.Rela // relocations, by offset

	offsets []uint64 // of relocations, in order
}

func (p *patchReader) symbol(name string) elfpatch.Symbol {
	i, ok := p.u.named[name]
	if !ok || p.sec == nil || p.u.in.Symbols[i].Section != p.sec.Index {
		return elfpatch.Symbol{}
	}
	return p.u.in.Symbols[i]
}

// module is the layout of struct module, as far as it is filled.
func (p *patchReader) module(sec *elfpatch.Section) kimage.Struct {
	s := kimage.Struct{Size: sec.Size, Members: map[string]kimage.Member{"name": {Offset: 24, Size: moduleName}}}
	for _, r := range p.u.tables[sec.Index] {
		switch p.u.in.Symbols[r.Symbol].Name {
		case initName:
			s.Members["init"] = kimage.Member{Offset: r.Offset, Size: 8}
		case exitName:
			s.Members["exit"] = kimage.Member{Offset: r.Offset, Size: 8}
		}
	}
	return s
}

// name returns the name of the symbol that the pointer at off leads to.
func (p *patchReader) name(off uint64) (string, bool) {
	r, ok := p.at[off]
	if !ok {
		return "", false
	}
	return p.u.in.Symbols[r.Symbol].Name, true
}

// text returns the string that the pointer at off leads to.
func (p *patchReader) text(off uint64) (string, error) {
	r, ok := p.at[off]
	if !ok {
		return "", foreign("a name of its struct klp_patch is missing")
	}
	s := &p.u.in.Symbols[r.Symbol]
	if s.Section <= 0 || s.Section >= len(p.u.in.Sections) || s.Value >= uint64(len(p.u.in.Sections[s.Section].Data)) {
		return "", foreign("a name of its struct klp_patch leads nowhere")
	}
	text, _, _ := strings.Cut(string(p.u.in.Sections[s.Section].Data[s.Value:min(s.Value+4096, uint64(len(p.u.in.Sections[s.Section].Data)))]), "\x00")
	return text, nil
}

// number reads 8 bytes.
func (p *patchReader) number(off uint64) uint64 {
	if off > uint64(len(p.sec.Data)) || len(p.sec.Data)-int(off) < 8 {
		return 0
	}
	return le.Uint64(p.sec.Data[off:])
}

// object reads an entry of klp_objects and the functions that it leads to.
func (p *patchReader) object(i, at uint64) (o Object, err error) {
	if _, named := p.at[at]; named {
		if o.Name, err = p.text(at); err != nil {
			return o, err
		}
	}
	list := p.symbol(fmt.Sprintf("klp_funcs.%d", i))
	from, _ := slices.BinarySearch(p.offsets, list.Value)
	to, _ := slices.BinarySearch(p.offsets, list.Value+list.Size)
	n := uint64(max(to-from, 0) / 2) // two pointers each
	fn := words(list.Size/(n+1), "old_name", "new_func", "old_sympos")
	p.u.s.ABI.Structs["klp_func"] = fn
	for k := range n {
		off := list.Value + k*fn.Size
		f := Func{Sympos: int(p.number(off + 16))}
		if f.Name, err = p.text(off); err != nil {
			return o, err
		}
		f.Replacement, _ = p.name(off + 8)
		o.Funcs = append(o.Funcs, f)
	}
	for k, kind := range callbackKinds {
		if fn, ok := p.name(at + 16 + 8*uint64(k)); ok {
			if o.Callbacks == nil {
				o.Callbacks = map[CallbackKind]string{}
			}
			o.Callbacks[kind] = fn
		}
	}
	return o, nil
}

// patch reads struct klp_patch and the states.
func (p *patchReader) patch(sym elfpatch.Symbol) error {
	s := words(sym.Size, "mod", "objs", "states")
	s.Members["replace"] = kimage.Member{Offset: 24, Size: 1}
	p.u.s.ABI.Structs["klp_patch"] = s
	p.u.s.Replace = p.number(sym.Value+24)&0xff != 0
	_, has := p.at[sym.Value+16]
	list := p.symbol("klp_states")
	if !has || list.Name == "" {
		return nil
	}
	size := p.stateSize(list)
	if size == 0 {
		return foreign("its states have no end")
	}
	p.u.s.ABI.Structs["klp_state"] = kimage.Struct{Size: size, Members: map[string]kimage.Member{"id": {Offset: 0, Size: 8}, "version": {Offset: 8, Size: 4}}}
	for off := list.Value; off+2*size <= list.Value+list.Size; off += size {
		p.u.s.States = append(p.u.s.States, State{ID: p.number(off), Version: uint32(p.number(off + 8))})
	}
	return nil
}

// stateSize is the size of struct klp_state: that at which the last entry of
// the list, and none before it, has no number. It is 16 in the oldest kernels and grew.
func (p *patchReader) stateSize(list elfpatch.Symbol) uint64 {
	for size := uint64(16); size <= list.Size/2; size += 8 {
		if list.Size%size != 0 {
			continue
		}
		off := list.Value
		for off < list.Value+list.Size && p.number(off) != 0 {
			off += size
		}
		if off == list.Value+list.Size-size {
			return size
		}
	}
	return 0
}

// nameLimit gives names the room that the longest of the module needs: what
// its kernel reads was asked when it was made.
func (u *undoer) nameLimit() error {
	longest := minSymbolName - 1
	for _, b := range u.s.Bindings {
		longest = max(longest, len(b.Name))
	}
	for _, o := range u.s.Objects {
		for _, f := range o.Funcs {
			longest = max(longest, len(f.Name))
		}
	}
	u.s.ABI.Structs["kallsym_iter"] = kimage.Struct{Size: maxStruct, Members: map[string]kimage.Member{"name": {Size: uint64(longest) + 1}}}
	return nil
}
