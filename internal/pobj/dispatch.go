package pobj

import (
	"debug/elf"
	"fmt"

	"livepatch/elfpatch"
	"livepatch/trampoline"
)

var pieceAreas = map[trampoline.Area]area{trampoline.Text: text, trampoline.Const: rodata, trampoline.Data: data}

// dispatch adds the pieces and returns their names.
func (l *linker) dispatch(d Dispatch) map[trampoline.Place]string {
	names := map[trampoline.Place]string{}
	syms := map[trampoline.Place]int{}
	l.pieces = syms
	at := make([]uint64, len(d.Pieces))
	for i, p := range d.Pieces {
		a := pieceAreas[p.Area]
		at[i] = l.mem[a].grow(uint64(len(p.Bytes)), l.pieceAlign(p), p.Bytes, l.filler(a))
		typ := elf.STT_OBJECT
		if a == text {
			typ = elf.STT_FUNC
		}
		names[p.Name] = l.unique(l.pieceName(d, p.Name))
		syms[p.Name] = l.addSymbol(symbol{elfpatch.Symbol{
			Name: names[p.Name], Type: typ, Bind: elf.STB_LOCAL, Value: at[i], Size: uint64(len(p.Bytes)),
		}, a})
	}
	for i, p := range d.Pieces {
		m := &l.mem[pieceAreas[p.Area]]
		for _, r := range p.Refs {
			m.rels = append(m.rels, elfpatch.Rela{
				Offset: at[i] + uint64(r.Off), Type: r.Type, Symbol: uint32(l.pieceRef(d, syms, r.To)), Addend: r.Addend,
			})
		}
	}
	return names
}

// pieceAlign keeps words that change in one cache line, and entries of x86-64
// where compilers put them.
func (l *linker) pieceAlign(p trampoline.Piece) uint64 {
	switch {
	case p.Area != trampoline.Text:
		return wordSize
	case l.m == elf.EM_AARCH64:
		return 4
	}
	return textAlign
}

func (l *linker) pieceName(d Dispatch, p trampoline.Place) string {
	if p.Kind == trampoline.Entry || p.Kind == trampoline.Record {
		f := d.Functions[p.Function]
		return l.names[f.Part][f.Symbol] + "@" + string(p.Kind)
	}
	return "livepatch@" + string(p.Kind)
}

func (l *linker) pieceRef(d Dispatch, syms map[trampoline.Place]int, to trampoline.Place) int {
	switch to.Kind {
	case trampoline.InTarget:
		return l.importTarget(fmt.Sprintf("target@%#x", to.Addr), to.Addr)
	case trampoline.Replacement:
		f := d.Functions[to.Function]
		return l.symOf[f.Part][f.Symbol]
	}
	sym, ok := syms[to]
	if !ok {
		panic(fmt.Sprintf("BUG: a piece refers to %+v, which is none", to))
	}
	return sym
}
