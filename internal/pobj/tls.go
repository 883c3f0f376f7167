package pobj

import (
	"bytes"
	"debug/elf"
	"encoding/binary"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
)

// Thread-local variables. The payload is no module of its own to the dynamic
// loader, so that it can only use what the target has: its offsets from the
// thread pointer (executables), and its GOT words. Where the target's linker
// turned a sequence into a cheaper one, there are no words for the dearer model,
// and the payload's code is rewritten in the same way.

// threadLocal handles the relocations of thread-local access at i.
func (w *work) threadLocal(i int, e *External, info elfpatch.Reloc) (int, error) {
	r := w.rels[i]
	tp, fixed := e.Known[match.TPOffset]
	switch info.Kind {
	case elfpatch.KindNone:
		return 1, w.marker(r, e)
	case elfpatch.KindTLS:
		if fixed {
			w.emit(r.Offset, r.Type, w.shareTLS(e, tp.Value), r.Addend)
			return 1, nil
		}
	case elfpatch.KindTLSIE:
		if s, ok := e.Known[match.TPSlot]; ok {
			return 1, w.throughSlot(r, w.l.importTarget(e.Name+"@gottpoff", s.Value), 0)
		}
		if fixed {
			s := w.l.slotFor(w.l.tpOffType(), w.shareTLS(e, tp.Value))
			return 1, w.throughSlot(r, s.sym, s.addend)
		}
	case elfpatch.KindTLSGD:
		return w.generalDynamic(i, e)
	case elfpatch.KindTLSDesc:
		return 1, w.descriptor(r, e)
	case elfpatch.KindDTPRel:
		return 1, w.moduleOffset(r, e)
	default:
		return 1, w.refuse(refusal.Unsupported, r.Offset, "%s to %s cannot be linked into a payload", info.Name, e.Name)
	}
	return 1, w.noModel(r.Offset, e)
}

func (w *work) noModel(off uint64, e *External) error {
	if len(e.Known) == 0 {
		return w.unknown(off, e)
	}
	return w.refuse(refusal.TLSModel, off, "the target does not reach the thread-local %s in this way", e.Name)
}

func (w *work) shareTLS(e *External, off uint64) int {
	sym := w.l.importTLS(e.Name, int64(off))
	w.l.share(Shared{w.part, w.ext[e.Symbol], w.l.syms[sym].Name, off, true})
	return sym
}

// moduleOffset writes the offset in the module's block, which linking fixed.
func (w *work) moduleOffset(r elfpatch.Rela, e *External) error {
	info, _ := elfpatch.RelocInfo(w.l.m, r.Type)
	if w.localDynamic && r.Type == uint32(elf.R_X86_64_DTPOFF32) {
		tp, ok := e.Known[match.TPOffset]
		if !ok {
			return w.noModel(r.Offset, e)
		}
		w.emit(r.Offset, uint32(elf.R_X86_64_TPOFF32), w.shareTLS(e, tp.Value), r.Addend)
		return nil
	}
	d, ok := e.Known[match.DTPOffset]
	if !ok {
		return w.noModel(r.Offset, e)
	}
	return elfpatch.ApplyReloc(w.l.m, r.Type, w.bytes(r.Offset, info.Size), 0, d.Value, r.Addend)
}

// The sequences of x86-64 and what replaces them, as in package match.
var (
	leaTLSGD = []byte{0x66, 0x48, 0x8d, 0x3d}                   //                data16 lea x@tlsgd(%rip),%rdi
	leaTLSLD = []byte{0x48, 0x8d, 0x3d}                         //                lea x@tlsld(%rip),%rdi
	loadTP   = []byte{0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0} // mov %fs:0,%rax
	leaRAX   = []byte{0x48, 0x8d, 0x80, 0, 0, 0, 0}             // lea x@tpoff(%rax),%rax
	addRAX   = []byte{0x48, 0x03, 0x05, 0, 0, 0, 0}             // add x@gottpoff(%rip),%rax
)

// generalDynamic handles the general and the local dynamic model.
func (w *work) generalDynamic(i int, e *External) (int, error) {
	r := w.rels[i]
	use, suffix := match.TLSPair, "@tlsgd"
	if r.Type == uint32(elf.R_X86_64_TLSLD) && w.l.m == elf.EM_X86_64 {
		use, suffix = match.TLSModule, "@tlsld"
	}
	if pair, ok := e.Known[use]; ok {
		return 1, w.throughSlot(r, w.l.importTarget(e.Name+suffix, pair.Value), 0)
	}
	if w.l.m != elf.EM_X86_64 || i+1 >= len(w.rels) {
		return 1, w.noModel(r.Offset, e)
	}
	if use == match.TLSModule {
		return w.localExecLD(i, e)
	}
	return w.localExecGD(i, e)
}

func (w *work) localExecGD(i int, e *External) (int, error) {
	r := w.rels[i]
	lo := r.Offset - uint64(len(leaTLSGD))
	b := w.bytes(lo, 16)
	if r.Offset < uint64(len(leaTLSGD)) || b == nil || !bytes.HasPrefix(b, leaTLSGD) || w.rels[i+1].Offset != lo+12 {
		return 1, w.noModel(r.Offset, e)
	}
	if tp, ok := e.Known[match.TPOffset]; ok {
		copy(b[copy(b, loadTP):], leaRAX)
		w.emit(lo+12, uint32(elf.R_X86_64_TPOFF32), w.shareTLS(e, tp.Value), 0)
		return 2, nil
	}
	if s, ok := e.Known[match.TPSlot]; ok {
		copy(b[copy(b, loadTP):], addRAX)
		w.emit(lo+12, uint32(elf.R_X86_64_PC32), w.l.importTarget(e.Name+"@gottpoff", s.Value), -4)
		return 2, nil
	}
	return 1, w.noModel(r.Offset, e)
}

func (w *work) localExecLD(i int, e *External) (int, error) {
	r := w.rels[i]
	lo := r.Offset - uint64(len(leaTLSLD))
	n := int(w.rels[i+1].Offset-lo) + 4
	b := w.bytes(lo, n)
	if r.Offset < uint64(len(leaTLSLD)) || n != 12 && n != 13 || b == nil || !bytes.HasPrefix(b, leaTLSLD) {
		return 1, w.noModel(r.Offset, e)
	}
	pad := n - len(loadTP)
	for k := range pad {
		b[k] = 0x66
	}
	copy(b[pad:], loadTP)
	w.localDynamic = true
	return 2, nil
}

const (
	nopARM64    = 0xd503201f
	movzG1ARM64 = 0xd2a00000 // movz x, #imm, lsl #16
	movkG0ARM64 = 0xf2800000 // movk x, #imm
	ldrARM64    = 0xf9400000 // ldr x, [x, #imm]
)

// model is how the target reaches a variable that the payload's code reaches
// through a descriptor.
func (e *External) model() (match.Use, match.Place, bool) {
	for _, use := range []match.Use{match.TLSDesc, match.TPOffset, match.TPSlot} {
		if p, ok := e.Known[use]; ok {
			return use, p, true
		}
	}
	return 0, match.Place{}, false
}

// descriptor handles the fields of a descriptor sequence.
func (w *work) descriptor(r elfpatch.Rela, e *External) error {
	use, place, ok := e.model()
	switch {
	case !ok:
		return w.noModel(r.Offset, e)
	case use == match.TLSDesc:
		return w.throughSlot(r, w.l.importTarget(e.Name+"@tlsdesc", place.Value), 0)
	case w.l.m == elf.EM_X86_64:
		return w.descriptorX86(r, e, use, place.Value)
	}
	return w.descriptorARM64(r, e, use, place.Value)
}

func (w *work) descriptorX86(r elfpatch.Rela, e *External, use match.Use, value uint64) error {
	b := w.bytes(r.Offset-3, 3)
	if r.Offset < 3 || b == nil || b[0]&0xf8 != 0x48 || b[1] != 0x8d || b[2]&0xc7 != 5 || r.Addend != -4 {
		return w.noModel(r.Offset, e)
	}
	if use == match.TPSlot { // lea x@tlsdesc(%rip),%r  ->  mov x@gottpoff(%rip),%r
		b[1] = 0x8b
		w.emit(r.Offset, uint32(elf.R_X86_64_PC32), w.l.importTarget(e.Name+"@gottpoff", value), r.Addend)
		return nil
	}
	// lea x@tlsdesc(%rip),%r  ->  mov $x@tpoff,%r
	b[0], b[1], b[2] = b[0]&^4|b[0]&4>>2, 0xc7, 0xc0|b[2]>>3&7
	w.emit(r.Offset, uint32(elf.R_X86_64_TPOFF32), w.shareTLS(e, value), r.Addend+4)
	return nil
}

func (w *work) descriptorARM64(r elfpatch.Rela, e *External, use match.Use, value uint64) error {
	b := w.bytes(r.Offset, 4)
	insn := binary.LittleEndian.Uint32(b)
	rd, rn := insn&31, insn>>5&31
	switch elf.R_AARCH64(r.Type) {
	case elf.R_AARCH64_TLSDESC_ADR_PAGE21:
		if use == match.TPSlot {
			w.emit(r.Offset, uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), w.l.importTarget(e.Name+"@gottpoff", value), 0)
			return nil
		}
		binary.LittleEndian.PutUint32(b, movzG1ARM64|rd)
		w.emit(r.Offset, uint32(elf.R_AARCH64_TLSLE_MOVW_TPREL_G1), w.shareTLS(e, value), r.Addend)
	case elf.R_AARCH64_TLSDESC_LD64_LO12_NC:
		if use == match.TPSlot {
			binary.LittleEndian.PutUint32(b, ldrARM64|rn<<5|rn)
			w.emit(r.Offset, uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC), w.l.importTarget(e.Name+"@gottpoff", value), 0)
			return nil
		}
		binary.LittleEndian.PutUint32(b, movkG0ARM64|rn)
		w.emit(r.Offset, uint32(elf.R_AARCH64_TLSLE_MOVW_TPREL_G0_NC), w.shareTLS(e, value), r.Addend)
	case elf.R_AARCH64_TLSDESC_ADD_LO12_NC:
		binary.LittleEndian.PutUint32(b, nopARM64)
	default:
		return w.noModel(r.Offset, e)
	}
	return nil
}

// marker handles relocations without a field: the call of a descriptor
// disappears with the rest of its sequence.
func (w *work) marker(r elfpatch.Rela, e *External) error {
	x86 := w.l.m == elf.EM_X86_64 && r.Type == uint32(elf.R_X86_64_TLSDESC_CALL)
	arm := w.l.m == elf.EM_AARCH64 && r.Type == uint32(elf.R_AARCH64_TLSDESC_CALL)
	use, _, ok := e.model()
	switch {
	case !x86 && !arm || ok && use == match.TLSDesc:
		return nil
	case !ok:
		return errMissing // refused with the rest of the sequence
	case x86:
		if b := w.bytes(r.Offset, 2); b != nil && b[0] == 0xff && b[1] == 0x10 { // call *(%rax)
			b[0], b[1] = 0x66, 0x90 // xchg %ax,%ax
			return nil
		}
	case arm:
		if b := w.bytes(r.Offset, 4); b != nil {
			binary.LittleEndian.PutUint32(b, nopARM64)
			return nil
		}
	}
	return w.noModel(r.Offset, e)
}
