package match

import (
	"debug/elf"
	"fmt"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// A ref is what one linked field, or two that belong together, says about a
// symbol.
type ref struct {
	off    int // of the field, from the start of the function
	sym    int
	addend int64
	use    Use
	// value is S+A as far as mask says that the field shows it; arm64 code
	// names an address in two halves.
	value, mask uint64
	fromEnd     bool // PC-relative to the end of an instruction, which addend makes up for
	tail        int  // the bytes from the field to that end, where they matter
}

const (
	whole = ^uint64(0)
	page  = ^uint64(0xfff)
	low12 = uint64(0xfff)
)

// symbolValue is S: what the ref says about the symbol itself. An addend that
// chose another entry of the GOT is not part of the entry's address.
func (r ref) symbolValue() uint64 {
	if r.entryOf() != 0 {
		return r.value
	}
	return r.value - uint64(r.addend)
}

// entryOf is the distance from the symbol of what the GOT entry of the ref
// stands for. On x86-64 the addend only makes up for the place of the field.
func (r ref) entryOf() int64 {
	if r.fromEnd || !inGOT(r.use) {
		return 0
	}
	return r.addend
}

// inGOT reports the uses that are the address of an entry of the GOT.
func inGOT(u Use) bool {
	switch u {
	case Slot, TPSlot, TLSPair, TLSModule, TLSDesc:
		return true
	}
	return false
}

// A miss is the first place where the target is not the object's code.
type miss struct {
	addr uint64 // of the function in the target
	off  int
	text string // empty: bytes differ
}

// A fit is a place of the target that holds the code of a function.
type fit struct {
	addr   uint64
	size   uint64 // there
	refs   []ref
	masked Masked
	at     []int // of elastic comparisons: by offset in the object, that of the same instruction here; -1 in between
}

// window is a function of the object laid over a stretch of the target.
type window struct {
	m    elf.Machine
	old  []byte          // of the object
	new  []byte          // of the target, as many bytes
	addr uint64          // of new[0]
	rels []elfpatch.Rela // offsets from the start, sorted
	obj  *object
	img  *image

	f      *function // the function, for elastic comparisons
	sites  []site    // inside the window, by offset
	masked Masked    // what the comparison let through so far

	localDynamic bool   // an earlier local-dynamic sequence became local-exec
	gotPage      uint64 // page of the GOT as an earlier adrp shows it
}

// A span is the bytes [lo, hi) of the window that n relocations account for,
// and what they show. A span without bytes leaves them to the plain comparison.
type span struct {
	lo, hi, n int
	refs      []ref
	kind      Kind
}

// compare walks the relocations in order. All bytes between their fields must
// be equal, and in each field the bits that the relocation does not own, unless
// the target holds one of the documented rewrites of the linker there, or a
// table names the place as one that kernels rewrite.
func (w *window) compare() ([]ref, *miss) {
	refs, m := w.walk()
	if m != nil {
		return nil, m
	}
	if refs, m = w.join(refs); m != nil {
		return nil, m
	}
	return refs, w.agreeAlone(refs)
}

// walk compares byte by byte and returns what the fields show.
func (w *window) walk() ([]ref, *miss) {
	var refs []ref
	pos, k := 0, 0
	for i := 0; i < len(w.rels) || k < len(w.sites); {
		var sp *span
		var m *miss
		at := len(w.old)
		if i < len(w.rels) {
			at = int(w.rels[i].Offset)
		}
		if k < len(w.sites) && int(w.sites[k].off) <= at {
			k++
			if sp = w.atSite(w.sites[k-1], i); sp == nil {
				continue
			}
		} else if sp, m = w.rewritten(i); sp == nil && m == nil {
			sp, m = w.field(i)
		}
		if m != nil {
			if d := w.firstDiff(pos, min(m.off, at)); d >= 0 {
				m = w.missAt(d, "")
			}
			return nil, m
		}
		if sp.lo < pos {
			return nil, w.missAt(sp.lo, "two relocations overlap")
		}
		if d := w.firstDiff(pos, sp.lo); d >= 0 {
			return nil, w.missAt(d, "")
		}
		if sp.hi > sp.lo {
			w.masked[sp.kind]++
		}
		refs = append(refs, sp.refs...)
		pos = sp.hi
		i += sp.n
	}
	if d := w.firstDiff(pos, len(w.old)); d >= 0 {
		return nil, w.missAt(d, "")
	}
	return refs, nil
}

// rewritten returns the span of a rewrite of the linker at relocation i, nil
// when the target holds the instruction as it was.
func (w *window) rewritten(i int) (*span, *miss) {
	if w.m == elf.EM_X86_64 {
		return w.rewrittenX86(i)
	}
	return w.rewrittenARM64(i)
}

// field compares the field of relocation i and reads it.
func (w *window) field(i int) (*span, *miss) {
	r := w.rels[i]
	off := int(r.Offset)
	info, ok := elfpatch.RelocInfo(w.m, r.Type)
	if !ok {
		return nil, w.missAt(off, fmt.Sprintf("relocation type %d is not known", r.Type))
	}
	mask := elfpatch.FieldMask(w.m, r.Type)
	if info.Size == 0 {
		return &span{lo: off, hi: off, n: 1}, nil // a marker
	}
	if off+info.Size > len(w.old) {
		return nil, w.missAt(off, "the field of "+info.Name+" extends past the function")
	}
	for k, m := range mask {
		if (w.old[off+k]^w.new[off+k])&^m != 0 {
			return nil, w.missAt(off+k, "")
		}
	}
	use, shown, ok := w.useOf(r, info)
	if !ok {
		return nil, w.missAt(off, "code with "+info.Name+" relocations cannot be matched")
	}
	value, ok := elfpatch.LinkedTarget(w.m, r.Type, w.new[off:off+info.Size], w.addr+r.Offset)
	if !ok {
		return nil, w.missAt(off, "a field of "+info.Name+" cannot be read back")
	}
	if info.Page && w.obj.symbolName(int(r.Symbol)) == "_GLOBAL_OFFSET_TABLE_" {
		w.gotPage = value & page
	}
	sp := &span{lo: off, hi: off + info.Size, n: 1, kind: w.kindOfField(int(r.Symbol))}
	sp.refs = []ref{{off: off, sym: int(r.Symbol), addend: r.Addend, use: use, value: value & shown, mask: shown,
		fromEnd: w.m == elf.EM_X86_64 && info.PCRel}}
	return sp, nil
}

// useOf says how a relocation names its symbol, and which bits of S+A its field
// shows.
func (w *window) useOf(r elfpatch.Rela, info elfpatch.Reloc) (Use, uint64, bool) {
	if w.m == elf.EM_X86_64 {
		return w.useX86(r, info)
	}
	return w.useARM64(info)
}

func useOfKind(k elfpatch.RelocKind) (Use, bool) {
	switch k {
	case elfpatch.KindData:
		return Address, true
	case elfpatch.KindBranch:
		return Branch, true
	case elfpatch.KindGOT:
		return Slot, true
	case elfpatch.KindTLS:
		return TPOffset, true
	case elfpatch.KindTLSIE:
		return TPSlot, true
	case elfpatch.KindTLSGD:
		return TLSPair, true
	case elfpatch.KindTLSDesc:
		return TLSDesc, true
	case elfpatch.KindDTPRel:
		return DTPOffset, true
	}
	return 0, false
}

func (w *window) missAt(off int, text string) *miss { return &miss{addr: w.addr, off: off, text: text} }

// firstDiff returns the first differing offset in [lo, hi), -1 without one.
func (w *window) firstDiff(lo, hi int) int {
	for i := lo; i < hi; i++ {
		if w.old[i] != w.new[i] {
			return i
		}
	}
	return -1
}

// join puts the halves of addresses together. Fields that name the same place
// must show the same bits.
func (w *window) join(refs []ref) ([]ref, *miss) {
	type key struct {
		sym    int
		addend int64
		use    Use
	}
	at := map[key]int{}
	var out []ref
	for _, r := range refs {
		if r.mask == whole {
			out = append(out, r)
			continue
		}
		k := key{r.sym, r.addend, r.use}
		j, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, r)
			continue
		}
		if both := r.mask & out[j].mask; (r.value^out[j].value)&both != 0 {
			return nil, w.missAt(r.off, fmt.Sprintf("%s and the field at +%#x disagree", w.obj.symbolName(r.sym), out[j].off))
		}
		out[j].value |= r.value
		out[j].mask |= r.mask
	}
	return out, nil
}

// tail is the number of bytes from a field to the end of its instruction.
func (w *window) tail(off int) int {
	end := off
	_ = disasm.Walk(w.m, w.old, func(at int, in disasm.Inst) bool {
		end = at + in.Len
		return end <= off
	})
	return max(end-off, 0)
}

// agreeAlone checks what can be checked without knowing any other function:
// names of dynamic symbols behind PLT and GOT, contents of merged strings.
func (w *window) agreeAlone(refs []ref) *miss {
	for i, r := range refs {
		if r.mask != whole {
			continue
		}
		if sec := w.obj.defined(r.sym); r.fromEnd && sec != nil && pieces(sec) && w.obj.f.Symbols[r.sym].Type == elf.STT_SECTION {
			r.tail = w.tail(r.off)
			refs[i].tail = r.tail
		}
		if text := w.obj.contradicts(r, w.img); text != "" {
			return w.missAt(r.off, text)
		}
	}
	return nil
}
