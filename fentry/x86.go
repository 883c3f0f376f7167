package fentry

// Entries of x86-64.
//
// With -fcf-protection a function that may be called indirectly begins with
// endbr64, which does nothing else; it stays and the site is behind it. A
// function compiled with -pg -mfentry continues with call __fentry__, which the
// kernel turns into a five-byte NOP; position-independent code calls through
// the GOT instead (ff 15), which the linker may turn into addr32 call (67 e8).
// NOPs before the entry are call padding, -fpatchable-function-entry=N,M or
// alignment: five of them take a jump to which two bytes at the entry lead.
// Between functions GNU tools put NOPs of many lengths, LLVM's linker int3.

import (
	"bytes"
	"debug/elf"
	"encoding/binary"

	"livepatch/disasm"
)

var (
	x86Endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}       // endbr64
	x86Nop5    = []byte{0x0f, 0x1f, 0x44, 0x00, 0x00} // nopl 0(%rax,%rax)
)

const x86Int3 = 0xcc

func x86Entry(b []byte) entry {
	if bytes.HasPrefix(b, x86Endbr64) {
		return entry{landing: "endbr64", gap: len(x86Endbr64)}
	}
	return entry{}
}

// x86Call is a form of call __fentry__: its opcode bytes, then a 32-bit field.
var x86Calls = [][]byte{
	{0xe8},       // call __fentry__
	{0x67, 0xe8}, // addr32 call __fentry__
	{0xff, 0x15}, // call *__fentry__@GOTPCREL(%rip)
}

// x86FentrySite recognises the call of __fentry__, or the NOP in its place.
func (fd *Finder) x86FentrySite(t *text, site, limit int) (Kind, bool) {
	b := t.bytes[site:limit]
	for _, op := range x86Calls {
		n := len(op)
		if len(b) < n+4 || !bytes.HasPrefix(b, op) {
			continue
		}
		if fd.file.Type == elf.ET_REL {
			return FentryCall, fd.refersToFentry(t, site+n)
		}
		target := t.at(site+n+4) + uint64(int32(binary.LittleEndian.Uint32(b[n:])))
		if op[0] == 0xff {
			return FentryCall, fd.slots[target]
		}
		return FentryCall, fd.fentry[target]
	}
	if bytes.HasPrefix(b, x86Nop5) {
		return FentryNop, true
	}
	return "", false
}

// refersToFentry says whether the first relocation of a function is the one of
// its call of __fentry__. R_X86_64_NONE is left where the call became a NOP.
func (fd *Finder) refersToFentry(t *text, off int) bool {
	for _, r := range t.reloc(off, off+1) {
		if int(r.Symbol) < len(fd.file.Symbols) && fd.file.Symbols[r.Symbol].Name == fentryName {
			return true
		}
	}
	return false
}

// x86FillerAt returns the length of the instruction at the front of b and
// whether it is filler.
func x86FillerAt(b []byte) (int, bool) {
	if b[0] == x86Int3 {
		return 1, true
	}
	in, err := disasm.Decode(elf.EM_X86_64, b)
	if err != nil {
		return 0, false
	}
	return in.Len, in.Nop
}
