package manifest

import (
	"fmt"
	"maps"
	"slices"
)

func dispatches() []string { return []string{DispatchGated, DispatchShared, DispatchSlot} }

// pieceKinds tells for each dispatch which pieces it has, and whether each
// function has one of its own.
func pieceKinds(dispatch, machine string) map[string]bool {
	switch dispatch {
	case DispatchGated:
		return map[string]bool{PieceEntry: true, PieceVersion: false}
	case DispatchShared:
		kinds := map[string]bool{PieceHandler: false, PieceTable: false}
		if machine == MachineARM64 {
			kinds[PieceEntry] = true
		}
		return kinds
	case DispatchSlot:
		return map[string]bool{PieceHandler: false, PieceRecord: true, PieceVersion: false}
	}
	return nil
}

// Dispatch is the one of the functions that are not direct; empty if all are.
func (t *Target) Dispatch() string {
	for i := range t.Functions {
		if d := t.Functions[i].Dispatch; d != "" {
			return d
		}
	}
	return ""
}

// Version is the symbol of the byte that switches the functions of a target:
// 0 before, 1 after. Empty if they switch as they are written.
func (t *Target) Version() string {
	for _, p := range t.Pieces {
		if p.Kind == PieceVersion {
			return p.Symbol
		}
	}
	return ""
}

// leadsTo reports whether a redirect of a function may lead to a symbol.
func (t *Target) leadsTo(symbol string, function int) bool {
	return slices.ContainsFunc(t.Pieces, func(p Piece) bool {
		own := (p.Kind == PieceEntry || p.Kind == PieceRecord) && p.Function == function
		return p.Symbol == symbol && (own || p.Kind == PieceHandler)
	})
}

// pieces checks that the pieces are those of the target's dispatch, each once.
func (c *checker) pieces(list string, t *Target, imports map[string]*Import) {
	c.count(list, len(t.Pieces), 0, 2*MaxList)
	dispatch := t.Dispatch()
	kinds := pieceKinds(dispatch, t.Machine)
	type key struct {
		kind     string
		function int
	}
	have := map[key]bool{}
	symbols := map[string]bool{}
	for i := range t.Functions {
		symbols[t.Functions[i].Replacement] = true
		if d := t.Functions[i].Dispatch; d != "" && d != dispatch {
			c.add(list, "functions[%d] has dispatch %.40q, another has %.40q", i, d, dispatch)
		}
	}
	for i, p := range t.Pieces {
		at := fmt.Sprintf("%s[%d]", list, i)
		c.text(at+".symbol", p.Symbol)
		if symbols[p.Symbol] || imports[p.Symbol] != nil {
			c.add(at+".symbol", "%.60q is a replacement, an import or another piece", p.Symbol)
		}
		symbols[p.Symbol] = true
		own, ok := kinds[p.Kind]
		switch {
		case !ok:
			c.add(at+".kind", "%.40q is no piece of dispatch %.40q", p.Kind, dispatch)
		case !own && p.Function != 0, p.Function < 0, p.Function >= len(t.Functions):
			c.add(at+".function", "%d is not within 0 to %d", p.Function, len(t.Functions)-1)
		case own && t.Functions[p.Function].Dispatch != dispatch:
			c.add(at+".function", "functions[%d] is direct", p.Function)
		case have[key{p.Kind, p.Function}]:
			c.add(at, "is there twice")
		}
		have[key{p.Kind, p.Function}] = true
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		own := kinds[kind]
		for i := range t.Functions {
			if i > 0 && !own {
				break
			}
			if (!own || t.Functions[i].Dispatch != "") && !have[key{kind, i}] {
				c.add(list, "lacks the %s of functions[%d]", kind, i)
			}
		}
	}
}
