package elfpatch

import "debug/elf"

// Relocations of x86-64: System V ABI, AMD64 Architecture Processor
// Supplement, section 4.4.1 "Relocation Types" (table 4.9) and 4.4.2 for the
// large model. Fields are whole little-endian numbers. The place of a
// PC-relative field is its own first byte, not the end of the instruction:
// compilers put the difference (-4 and more) into the addend. Linkers may
// rewrite the instruction around GOTPCRELX, GOTTPOFF, TLSGD, TLSLD and
// descriptor fields (relaxation), so that there the opcode bytes before the
// field, and the meaning of the field, can differ in linked code.
//
// The ABI leaves open how 16- and 8-bit values are checked; both a signed and
// an unsigned reading are allowed here, as by linkers.

var (
	lim8   = limits{sign: either, bits: 8}
	lim16  = limits{sign: either, bits: 16}
	lim8s  = limits{sign: signed, bits: 8}
	lim16s = limits{sign: signed, bits: 16}
	lim32s = limits{sign: signed, bits: 32}
	lim32u = limits{sign: unsigned, bits: 32}
	lim32  = limits{sign: either, bits: 32}
	lim64  = limits{}
)

const (
	abs = false
	pc  = true
)

var x86Relocs = x86Table()

// x86Table is the table by type, with what follows from the columns filled in.
func x86Table() []*Reloc {
	t := make([]*Reloc, x86Rows[len(x86Rows)-1].typ+1)
	for _, row := range x86Rows {
		r := &Reloc{Name: row.name, Kind: row.kind, Size: row.size, PCRel: row.pcrel, lim: row.lim}
		r.enc = encoding{parts: [2]part{{0, uint8(8 * row.size)}}}
		r.Holds = r.holds()
		t[row.typ] = r
	}
	return t
}

var x86Rows = []struct {
	typ   elf.R_X86_64
	name  string
	kind  RelocKind
	size  int
	pcrel bool
	lim   limits
}{
	{0, "R_X86_64_NONE", KindNone, 0, abs, lim64},
	{1, "R_X86_64_64", KindData, 8, abs, lim64},
	{2, "R_X86_64_PC32", KindData, 4, pc, lim32s},
	{3, "R_X86_64_GOT32", KindGOTRel, 4, abs, lim32s},
	{4, "R_X86_64_PLT32", KindBranch, 4, pc, lim32s},
	{5, "R_X86_64_COPY", KindDynamic, 0, abs, lim64},
	{6, "R_X86_64_GLOB_DAT", KindDynamic, 8, abs, lim64},
	{7, "R_X86_64_JMP_SLOT", KindDynamic, 8, abs, lim64},
	{8, "R_X86_64_RELATIVE", KindDynamic, 8, abs, lim64},
	{9, "R_X86_64_GOTPCREL", KindGOT, 4, pc, lim32s},
	{10, "R_X86_64_32", KindData, 4, abs, lim32u},
	{11, "R_X86_64_32S", KindData, 4, abs, lim32s},
	{12, "R_X86_64_16", KindData, 2, abs, lim16},
	{13, "R_X86_64_PC16", KindData, 2, pc, lim16s},
	{14, "R_X86_64_8", KindData, 1, abs, lim8},
	{15, "R_X86_64_PC8", KindData, 1, pc, lim8s},
	{16, "R_X86_64_DTPMOD64", KindDynamic, 8, abs, lim64},
	{17, "R_X86_64_DTPOFF64", KindDTPRel, 8, abs, lim64},
	{18, "R_X86_64_TPOFF64", KindTLS, 8, abs, lim64},
	{19, "R_X86_64_TLSGD", KindTLSGD, 4, pc, lim32s},
	{20, "R_X86_64_TLSLD", KindTLSGD, 4, pc, lim32s},
	{21, "R_X86_64_DTPOFF32", KindDTPRel, 4, abs, lim32s},
	{22, "R_X86_64_GOTTPOFF", KindTLSIE, 4, pc, lim32s},
	{23, "R_X86_64_TPOFF32", KindTLS, 4, abs, lim32s},
	{24, "R_X86_64_PC64", KindData, 8, pc, lim64},
	{25, "R_X86_64_GOTOFF64", KindGOTRel, 8, abs, lim64},
	{26, "R_X86_64_GOTPC32", KindGOTBase, 4, pc, lim32s},
	{27, "R_X86_64_GOT64", KindGOTRel, 8, abs, lim64},
	{28, "R_X86_64_GOTPCREL64", KindGOT, 8, pc, lim64},
	{29, "R_X86_64_GOTPC64", KindGOTBase, 8, pc, lim64},
	{30, "R_X86_64_GOTPLT64", KindGOTRel, 8, abs, lim64},
	{31, "R_X86_64_PLTOFF64", KindGOTRel, 8, abs, lim64},
	{32, "R_X86_64_SIZE32", KindSize, 4, abs, lim32u},
	{33, "R_X86_64_SIZE64", KindSize, 8, abs, lim64},
	{34, "R_X86_64_GOTPC32_TLSDESC", KindTLSDesc, 4, pc, lim32s},
	{35, "R_X86_64_TLSDESC_CALL", KindNone, 0, abs, lim64},
	{36, "R_X86_64_TLSDESC", KindDynamic, 0, abs, lim64}, // two words, filled by the loader
	{37, "R_X86_64_IRELATIVE", KindDynamic, 0, abs, lim64},
	{38, "R_X86_64_RELATIVE64", KindDynamic, 8, abs, lim64},
	{39, "R_X86_64_PC32_BND", KindData, 4, pc, lim32s}, // withdrawn, still in old objects
	{40, "R_X86_64_PLT32_BND", KindBranch, 4, pc, lim32s},
	{41, "R_X86_64_GOTPCRELX", KindGOT, 4, pc, lim32s},
	{42, "R_X86_64_REX_GOTPCRELX", KindGOT, 4, pc, lim32s},
	{43, "R_X86_64_CODE_4_GOTPCRELX", KindGOT, 4, pc, lim32s}, // 43 to 51: APX instructions
	{44, "R_X86_64_CODE_4_GOTTPOFF", KindTLSIE, 4, pc, lim32s},
	{45, "R_X86_64_CODE_4_GOTPC32_TLSDESC", KindTLSDesc, 4, pc, lim32s},
	{46, "R_X86_64_CODE_5_GOTPCRELX", KindGOT, 4, pc, lim32s},
	{47, "R_X86_64_CODE_5_GOTTPOFF", KindTLSIE, 4, pc, lim32s},
	{48, "R_X86_64_CODE_5_GOTPC32_TLSDESC", KindTLSDesc, 4, pc, lim32s},
	{49, "R_X86_64_CODE_6_GOTPCRELX", KindGOT, 4, pc, lim32s},
	{50, "R_X86_64_CODE_6_GOTTPOFF", KindTLSIE, 4, pc, lim32s},
	{51, "R_X86_64_CODE_6_GOTPC32_TLSDESC", KindTLSDesc, 4, pc, lim32s},
}
