package elfpatch

// Relocations of arm64: ELF for the Arm 64-bit Architecture (AAELF64),
// chapter "Relocation", LP64 codes. The heading above each group of rows is
// that of its table there.
//
// Instructions are little-endian words; the relocation owns an immediate field
// in one: imm26 (b, bl), imm19 (b.cond, cbz, ldr literal), imm14 (tbz), the
// split imm of adr and adrp, imm12 (add, ldr and str, scaled by the access
// size) or imm16 (move wide). An address takes two instructions, page and low
// twelve bits, so one field rarely tells all of it: Reloc.Holds. Signed move
// wide relocations also own the bit that tells MOVZ from MOVN.
//
// 32-bit and 16-bit data are checked for either a signed or an unsigned
// reading, as the tables demand; the suffix _NC means that nothing is checked.

// Where an immediate stands in an instruction.
var (
	imm26 = [2]part{{0, 26}}
	imm19 = [2]part{{5, 19}}
	imm14 = [2]part{{5, 14}}
	imm12 = [2]part{{10, 12}}
	imm16 = [2]part{{5, 16}}
	immhl = [2]part{{29, 2}, {5, 19}} // immlo, immhi
)

var arm64Relocs = arm64Table()

// arm64Table is the table by type.
func arm64Table() []*Reloc {
	t := make([]*Reloc, arm64Rows[len(arm64Rows)-1].typ+1)
	for _, row := range arm64Rows {
		r := row.build()
		t[row.typ] = &r
	}
	return t
}

type arm64Row struct {
	typ  uint32
	name string
	kind RelocKind
	op   arm64Op
	lim  limits
}

// arm64Op is the shape of a field and the operation on the value.
type arm64Op struct {
	size  int
	pcrel bool
	page  bool
	insn  bool
	enc   encoding
}

var (
	opNone  = arm64Op{}
	opData8 = arm64Op{size: 8, enc: encoding{parts: [2]part{{0, 64}}}}
	opData4 = arm64Op{size: 4, enc: encoding{parts: [2]part{{0, 32}}}}
	opData2 = arm64Op{size: 2, enc: encoding{parts: [2]part{{0, 16}}}}
	opRel8  = pcrelative(opData8)
	opRel4  = pcrelative(opData4)
	opRel2  = pcrelative(opData2)
	opRel4s = arm64Op{size: 4, pcrel: true, enc: opData4.enc}
	opB26   = insn(pc, encoding{low: 2, parts: imm26})
	opB19   = insn(pc, encoding{low: 2, parts: imm19})
	opB14   = insn(pc, encoding{low: 2, parts: imm14})
	opAdr   = insn(pc, encoding{parts: immhl})
	opAdrp  = arm64Op{size: 4, pcrel: true, page: true, insn: true, enc: encoding{low: 12, parts: immhl}}
	opAddLo = insn(abs, encoding{parts: imm12})
	opAddHi = insn(abs, encoding{low: 12, parts: imm12})
)

func pcrelative(op arm64Op) arm64Op {
	op.pcrel = true
	return op
}

func insn(pcrel bool, enc encoding) arm64Op {
	return arm64Op{size: 4, pcrel: pcrel, insn: true, enc: enc}
}

// opLdst is the low part of an address in the scaled imm12 of a load or store
// of 1<<shift bytes.
func opLdst(shift uint8) arm64Op {
	width := 12 - shift
	return insn(abs, encoding{low: shift, parts: [2]part{{10, width}}})
}

// opLdst15 is an offset below 32 KiB in the imm12 of an 8-byte load.
var opLdst15 = insn(abs, encoding{low: 3, parts: imm12})

// opMov is group g (16 bits) of a value in a move wide instruction.
func opMov(g uint8, pcrel bool, f form) arm64Op {
	return insn(pcrel, encoding{low: 16 * g, parts: imm16, form: f})
}

func s(bits uint8) limits          { return limits{sign: signed, bits: bits} }
func u(bits uint8) limits          { return limits{sign: unsigned, bits: bits} }
func (l limits) by(n uint8) limits { l.step = n; return l }

func (row *arm64Row) build() Reloc {
	op := row.op
	r := Reloc{
		Name: "R_AARCH64_" + row.name, Kind: row.kind, Size: op.size, PCRel: op.pcrel, Page: op.page,
		Insn: op.insn, lim: row.lim, enc: op.enc,
	}
	r.Holds = r.holds()
	return r
}

var arm64Rows = []arm64Row{
	// Null relocation codes.
	{0, "NONE", KindNone, opNone, lim64},
	{256, "NULL", KindNone, opNone, lim64}, // withdrawn, to be read as NONE

	// Data relocations.
	{257, "ABS64", KindData, opData8, lim64},
	{258, "ABS32", KindData, opData4, lim32},
	{259, "ABS16", KindData, opData2, lim16},
	{260, "PREL64", KindData, opRel8, lim64},
	{261, "PREL32", KindData, opRel4, lim32},
	{262, "PREL16", KindData, opRel2, lim16},
	{314, "PLT32", KindBranch, opRel4s, lim32s},
	{315, "GOTPCREL32", KindGOT, opRel4s, lim32s},

	// Group relocations to create a 16-, 32-, 48- or 64-bit unsigned data value or address inline.
	{263, "MOVW_UABS_G0", KindData, opMov(0, abs, plain), u(16)},
	{264, "MOVW_UABS_G0_NC", KindData, opMov(0, abs, plain), lim64},
	{265, "MOVW_UABS_G1", KindData, opMov(1, abs, plain), u(32)},
	{266, "MOVW_UABS_G1_NC", KindData, opMov(1, abs, plain), lim64},
	{267, "MOVW_UABS_G2", KindData, opMov(2, abs, plain), u(48)},
	{268, "MOVW_UABS_G2_NC", KindData, opMov(2, abs, plain), lim64},
	{269, "MOVW_UABS_G3", KindData, opMov(3, abs, plain), lim64},

	// Group relocations to create a 16-, 32-, 48- or 64-bit signed data or offset value inline.
	{270, "MOVW_SABS_G0", KindData, opMov(0, abs, movSign), s(17)},
	{271, "MOVW_SABS_G1", KindData, opMov(1, abs, movSign), s(33)},
	{272, "MOVW_SABS_G2", KindData, opMov(2, abs, movSign), s(49)},

	// Relocations to generate 19-, 21- and 33-bit PC-relative addresses.
	{273, "LD_PREL_LO19", KindData, opB19, s(21).by(4)},
	{274, "ADR_PREL_LO21", KindData, opAdr, s(21)},
	{275, "ADR_PREL_PG_HI21", KindData, opAdrp, s(33)},
	{276, "ADR_PREL_PG_HI21_NC", KindData, opAdrp, lim64},
	{277, "ADD_ABS_LO12_NC", KindData, opAddLo, lim64},
	{278, "LDST8_ABS_LO12_NC", KindData, opLdst(0), lim64},
	{284, "LDST16_ABS_LO12_NC", KindData, opLdst(1), lim64.by(2)},
	{285, "LDST32_ABS_LO12_NC", KindData, opLdst(2), lim64.by(4)},
	{286, "LDST64_ABS_LO12_NC", KindData, opLdst(3), lim64.by(8)},
	{299, "LDST128_ABS_LO12_NC", KindData, opLdst(4), lim64.by(16)},

	// Relocations for control-flow instructions.
	{279, "TSTBR14", KindBranch, opB14, s(16).by(4)},
	{280, "CONDBR19", KindBranch, opB19, s(21).by(4)},
	{282, "JUMP26", KindBranch, opB26, s(28).by(4)},
	{283, "CALL26", KindBranch, opB26, s(28).by(4)},

	// Group relocations to create a 16-, 32-, 48- or 64-bit PC-relative offset inline.
	{287, "MOVW_PREL_G0", KindData, opMov(0, pc, movSign), s(17)},
	{288, "MOVW_PREL_G0_NC", KindData, opMov(0, pc, plain), lim64},
	{289, "MOVW_PREL_G1", KindData, opMov(1, pc, movSign), s(33)},
	{290, "MOVW_PREL_G1_NC", KindData, opMov(1, pc, plain), lim64},
	{291, "MOVW_PREL_G2", KindData, opMov(2, pc, movSign), s(49)},
	{292, "MOVW_PREL_G2_NC", KindData, opMov(2, pc, plain), lim64},
	{293, "MOVW_PREL_G3", KindData, opMov(3, pc, movSign), lim64},

	// Group relocations to create a 16-, 32-, 48- or 64-bit GOT-relative offset inline.
	{300, "MOVW_GOTOFF_G0", KindGOTRel, opMov(0, abs, movSign), s(17)},
	{301, "MOVW_GOTOFF_G0_NC", KindGOTRel, opMov(0, abs, plain), lim64},
	{302, "MOVW_GOTOFF_G1", KindGOTRel, opMov(1, abs, movSign), s(33)},
	{303, "MOVW_GOTOFF_G1_NC", KindGOTRel, opMov(1, abs, plain), lim64},
	{304, "MOVW_GOTOFF_G2", KindGOTRel, opMov(2, abs, movSign), s(49)},
	{305, "MOVW_GOTOFF_G2_NC", KindGOTRel, opMov(2, abs, plain), lim64},
	{306, "MOVW_GOTOFF_G3", KindGOTRel, opMov(3, abs, movSign), lim64},

	// GOT-relative data relocations.
	{307, "GOTREL64", KindGOTRel, opData8, lim64},
	{308, "GOTREL32", KindGOTRel, arm64Op{size: 4, enc: opData4.enc}, lim32s},

	// GOT-relative instruction relocations.
	{309, "GOT_LD_PREL19", KindGOT, opB19, s(21).by(4)},
	{310, "LD64_GOTOFF_LO15", KindGOTRel, opLdst15, u(15).by(8)},
	{311, "ADR_GOT_PAGE", KindGOT, opAdrp, s(33)},
	{312, "LD64_GOT_LO12_NC", KindGOT, opLdst(3), lim64.by(8)},
	{313, "LD64_GOTPAGE_LO15", KindGOTRel, opLdst15, u(15).by(8)}, // s: less the page of the table

	// General dynamic thread-local storage model.
	{512, "TLSGD_ADR_PREL21", KindTLSGD, opAdr, s(21)},
	{513, "TLSGD_ADR_PAGE21", KindTLSGD, opAdrp, s(33)},
	{514, "TLSGD_ADD_LO12_NC", KindTLSGD, opAddLo, lim64},
	{515, "TLSGD_MOVW_G1", KindGOTRel, opMov(1, abs, movSign), s(33)},
	{516, "TLSGD_MOVW_G0_NC", KindGOTRel, opMov(0, abs, plain), lim64},

	// Local dynamic thread-local storage model.
	{517, "TLSLD_ADR_PREL21", KindTLSGD, opAdr, s(21)},
	{518, "TLSLD_ADR_PAGE21", KindTLSGD, opAdrp, s(33)},
	{519, "TLSLD_ADD_LO12_NC", KindTLSGD, opAddLo, lim64},
	{520, "TLSLD_MOVW_G1", KindGOTRel, opMov(1, abs, movSign), s(33)},
	{521, "TLSLD_MOVW_G0_NC", KindGOTRel, opMov(0, abs, plain), lim64},
	{522, "TLSLD_LD_PREL19", KindTLSGD, opB19, s(21).by(4)},
	{523, "TLSLD_MOVW_DTPREL_G2", KindDTPRel, opMov(2, abs, movSign), s(49)},
	{524, "TLSLD_MOVW_DTPREL_G1", KindDTPRel, opMov(1, abs, movSign), s(33)},
	{525, "TLSLD_MOVW_DTPREL_G1_NC", KindDTPRel, opMov(1, abs, plain), lim64},
	{526, "TLSLD_MOVW_DTPREL_G0", KindDTPRel, opMov(0, abs, movSign), s(17)},
	{527, "TLSLD_MOVW_DTPREL_G0_NC", KindDTPRel, opMov(0, abs, plain), lim64},
	{528, "TLSLD_ADD_DTPREL_HI12", KindDTPRel, opAddHi, u(24)},
	{529, "TLSLD_ADD_DTPREL_LO12", KindDTPRel, opAddLo, u(12)},
	{530, "TLSLD_ADD_DTPREL_LO12_NC", KindDTPRel, opAddLo, lim64},
	{531, "TLSLD_LDST8_DTPREL_LO12", KindDTPRel, opLdst(0), u(12)},
	{532, "TLSLD_LDST8_DTPREL_LO12_NC", KindDTPRel, opLdst(0), lim64},
	{533, "TLSLD_LDST16_DTPREL_LO12", KindDTPRel, opLdst(1), u(12).by(2)},
	{534, "TLSLD_LDST16_DTPREL_LO12_NC", KindDTPRel, opLdst(1), lim64.by(2)},
	{535, "TLSLD_LDST32_DTPREL_LO12", KindDTPRel, opLdst(2), u(12).by(4)},
	{536, "TLSLD_LDST32_DTPREL_LO12_NC", KindDTPRel, opLdst(2), lim64.by(4)},
	{537, "TLSLD_LDST64_DTPREL_LO12", KindDTPRel, opLdst(3), u(12).by(8)},
	{538, "TLSLD_LDST64_DTPREL_LO12_NC", KindDTPRel, opLdst(3), lim64.by(8)},
	{572, "TLSLD_LDST128_DTPREL_LO12", KindDTPRel, opLdst(4), u(12).by(16)},
	{573, "TLSLD_LDST128_DTPREL_LO12_NC", KindDTPRel, opLdst(4), lim64.by(16)},

	// Initial exec thread-local storage model.
	{539, "TLSIE_MOVW_GOTTPREL_G1", KindGOTRel, opMov(1, abs, movSign), s(33)},
	{540, "TLSIE_MOVW_GOTTPREL_G0_NC", KindGOTRel, opMov(0, abs, plain), lim64},
	{541, "TLSIE_ADR_GOTTPREL_PAGE21", KindTLSIE, opAdrp, s(33)},
	{542, "TLSIE_LD64_GOTTPREL_LO12_NC", KindTLSIE, opLdst(3), lim64.by(8)},
	{543, "TLSIE_LD_GOTTPREL_PREL19", KindTLSIE, opB19, s(21).by(4)},

	// Local exec thread-local storage model.
	{544, "TLSLE_MOVW_TPREL_G2", KindTLS, opMov(2, abs, movSign), s(49)},
	{545, "TLSLE_MOVW_TPREL_G1", KindTLS, opMov(1, abs, movSign), s(33)},
	{546, "TLSLE_MOVW_TPREL_G1_NC", KindTLS, opMov(1, abs, plain), lim64},
	{547, "TLSLE_MOVW_TPREL_G0", KindTLS, opMov(0, abs, movSign), s(17)},
	{548, "TLSLE_MOVW_TPREL_G0_NC", KindTLS, opMov(0, abs, plain), lim64},
	{549, "TLSLE_ADD_TPREL_HI12", KindTLS, opAddHi, u(24)},
	{550, "TLSLE_ADD_TPREL_LO12", KindTLS, opAddLo, u(12)},
	{551, "TLSLE_ADD_TPREL_LO12_NC", KindTLS, opAddLo, lim64},
	{552, "TLSLE_LDST8_TPREL_LO12", KindTLS, opLdst(0), u(12)},
	{553, "TLSLE_LDST8_TPREL_LO12_NC", KindTLS, opLdst(0), lim64},
	{554, "TLSLE_LDST16_TPREL_LO12", KindTLS, opLdst(1), u(12).by(2)},
	{555, "TLSLE_LDST16_TPREL_LO12_NC", KindTLS, opLdst(1), lim64.by(2)},
	{556, "TLSLE_LDST32_TPREL_LO12", KindTLS, opLdst(2), u(12).by(4)},
	{557, "TLSLE_LDST32_TPREL_LO12_NC", KindTLS, opLdst(2), lim64.by(4)},
	{558, "TLSLE_LDST64_TPREL_LO12", KindTLS, opLdst(3), u(12).by(8)},
	{559, "TLSLE_LDST64_TPREL_LO12_NC", KindTLS, opLdst(3), lim64.by(8)},
	{570, "TLSLE_LDST128_TPREL_LO12", KindTLS, opLdst(4), u(12).by(16)},
	{571, "TLSLE_LDST128_TPREL_LO12_NC", KindTLS, opLdst(4), lim64.by(16)},

	// Thread-local storage descriptors.
	{560, "TLSDESC_LD_PREL19", KindTLSDesc, opB19, s(21).by(4)},
	{561, "TLSDESC_ADR_PREL21", KindTLSDesc, opAdr, s(21)},
	{562, "TLSDESC_ADR_PAGE21", KindTLSDesc, opAdrp, s(33)},
	{563, "TLSDESC_LD64_LO12", KindTLSDesc, opLdst(3), lim64.by(8)},
	{564, "TLSDESC_ADD_LO12", KindTLSDesc, opAddLo, lim64},
	{565, "TLSDESC_OFF_G1", KindGOTRel, opMov(1, abs, movSign), s(33)},
	{566, "TLSDESC_OFF_G0_NC", KindGOTRel, opMov(0, abs, plain), lim64},
	{567, "TLSDESC_LDR", KindNone, opNone, lim64}, // these three mark instructions for relaxation
	{568, "TLSDESC_ADD", KindNone, opNone, lim64},
	{569, "TLSDESC_CALL", KindNone, opNone, lim64},

	// Dynamic relocations.
	{1024, "COPY", KindDynamic, opNone, lim64},
	{1025, "GLOB_DAT", KindDynamic, opData8, lim64},
	{1026, "JUMP_SLOT", KindDynamic, opData8, lim64},
	{1027, "RELATIVE", KindDynamic, opData8, lim64},
	{1028, "TLS_DTPMOD64", KindDynamic, opData8, lim64},
	{1029, "TLS_DTPREL64", KindDTPRel, opData8, lim64},
	{1030, "TLS_TPREL64", KindTLS, opData8, lim64},
	{1031, "TLSDESC", KindDynamic, opNone, lim64}, // two words, filled by the loader
	{1032, "IRELATIVE", KindDynamic, opNone, lim64},
}
