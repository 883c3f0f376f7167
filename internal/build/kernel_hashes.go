package build

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/kernel"
	"livepatch/elfpatch/match"
	"livepatch/internal/kmod"
	"livepatch/internal/refusal"
)

// checkTypeHashes refuses pointers to functions that stay where they are, if the word
// before the function is not the hash that calls through such pointers ask for: static
// functions have none unless their own object takes their address, and a patch may be the
// first to do so, or change what type they have. Only kernels for arm64 get so far
// (kmod refuses others).
func (k *kernelSteps) checkTypeHashes() error {
	if img := k.kernel.Image; img.Machine != elf.EM_AARCH64 || !traits(img, 0).CFI {
		return nil
	}
	for _, part := range k.parts {
		taken, err := addressesIn(part.part.Cut.Object)
		if err != nil {
			return err
		}
		for i, e := range part.part.Cut.Externals {
			if b, bound := part.part.Bindings[i]; bound && taken[e.Symbol] {
				k.checkTypeHash(part, e, b)
			}
		}
	}
	return nil
}

func (k *kernelSteps) checkTypeHash(part *kernelPart, e diff.External, b kmod.Binding) {
	want, asked := part.pair.hashOf(e)
	if !asked {
		return // it is no function, or nothing is known to call it through a pointer
	}
	have, ok := k.hashAt(part.target, e.Name, b)
	if !ok || have == want {
		return // of a module that is not given; what other objects see is global, and has a hash
	}
	k.refusals = append(k.refusals, refusal.New(refusal.TypeHash, part.pair.OrigName+": "+e.Name,
		"the patch takes its address, and calls through it ask for the type %#08x; before the running function stands %#08x", want, have))
}

// hashOf is the hash by which the patched object calls a function through pointers:
// the word of data before it, or what clang says of one of another object.
func (p *pairSteps) hashOf(e diff.External) (uint32, bool) {
	at := -1
	p.eachPatched(func(orig, patched int) {
		if orig == e.Orig && orig != 0 {
			at = patched
		}
	})
	f := p.Patched
	for i := range f.Symbols {
		s := &f.Symbols[i]
		switch {
		case s.Section == elfpatch.Absolute && s.Name == "__kcfi_typeid_"+e.Name:
			return uint32(s.Value), true
		case at < 0 || s.Section != f.Symbols[at].Section || !strings.HasPrefix(s.Name, "$d") || f.Symbols[at].Value < kernel.TypeHashSize || s.Value != f.Symbols[at].Value-kernel.TypeHashSize:
		case s.Section > 0 && f.Symbols[at].Type == elf.STT_FUNC && f.Symbols[at].Value <= uint64(len(f.Sections[s.Section].Data)):
			return binary.LittleEndian.Uint32(f.Sections[s.Section].Data[s.Value:]), true
		}
	}
	return 0, false
}

// hashAt is the word before a function of the kernel or of a target.
func (k *kernelSteps) hashAt(t *kernelTarget, name string, b kmod.Binding) (uint32, bool) {
	file, addr := k.image.target.File, b.Address
	switch {
	case b.Kind == kmod.Export:
		i, err := global(k.image.table, name, match.Place{}, false)
		if err != nil {
			return 0, false
		}
		addr = k.image.table.Symbol(i).Addr
	case b.Object == t.name:
		file = t.target.File
	case b.Object != k.image.name:
		return 0, false
	}
	word, ok := file.ReadAddr(addr-kernel.TypeHashSize, kernel.TypeHashSize)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint32(word), true
}

// addressesIn are the symbols of an object whose addresses its code or data takes.
func addressesIn(f *elfpatch.File) (map[int]bool, error) {
	taken := map[int]bool{}
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Type == elf.SHT_RELA {
			continue
		}
		list, err := f.Relocations(s)
		if err != nil {
			return nil, fmt.Errorf("read the cut object: section %s: %w", s.Name, err)
		}
		for _, r := range list {
			if info, ok := elfpatch.RelocInfo(f.Machine, r.Type); ok && info.Kind != elfpatch.KindBranch {
				taken[int(r.Symbol)] = true
			}
		}
	}
	return taken, nil
}
