package build

import (
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/check"
	"livepatch/internal/pobj"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// describe writes the manifest's entry of the target.
func (s *steps) describe(member string, l *pobj.Linked) (*manifest.Target, error) {
	f := s.target.File
	sum := sha256.Sum256(l.Object)
	t := &manifest.Target{
		Kind: check.Kind(f), Machine: machineName(f.Machine), Name: s.target.Name,
		Payload: manifest.Payload{Member: member, Size: int64(len(l.Object)), SHA256: sum[:]},
		Imports: l.Imports,
	}
	id, err := f.BuildID()
	if err != nil {
		return nil, err
	}
	if t.BuildID = id; len(id) == 0 {
		t.SHA256 = check.ReadOnlyDigest(f)
	}
	d, err := f.Dynamic()
	if err != nil {
		return nil, err
	}
	if d != nil {
		t.Soname = d.Soname
	}
	for i, p := range s.plans {
		fn := s.function(p, l)
		t.Functions = append(t.Functions, fn)
		for _, w := range p.plan.Writes {
			out := manifest.Write{
				Function: i, Address: w.Addr, Length: len(w.Bytes), Expected: w.Expected, Template: w.Bytes,
			}
			for _, h := range w.Holes {
				out.Holes = append(out.Holes, manifest.Hole{Offset: h.Off, Kind: string(h.Kind), Symbol: leadsTo(w.To, fn, l)})
			}
			t.Writes = append(t.Writes, out)
		}
	}
	for _, p := range s.pieces {
		t.Pieces = append(t.Pieces, manifest.Piece{Kind: string(p.Name.Kind), Symbol: l.Pieces[p.Name], Function: p.Name.Function})
	}
	t.Variables = s.variables(l)
	if l.Frames {
		t.Unwind = manifest.UnwindOffered
	}
	for _, p := range s.pairs {
		if p.cut != nil && p.cut.Unwinds != "" {
			t.Unwind = manifest.UnwindNeeded
		}
	}
	return t, nil
}

func machineName(m elf.Machine) string {
	if m == elf.EM_AARCH64 {
		return manifest.MachineARM64
	}
	return manifest.MachineX86
}

func (s *steps) function(p planned, l *pobj.Linked) manifest.Function {
	covered := 0 // bytes at the site that are overwritten
	for _, w := range p.plan.Writes {
		if w.Addr == p.site.Site {
			covered = len(w.Bytes)
		}
	}
	out := manifest.Function{
		Name: p.fn.Name, Object: p.pair.OrigName, Address: p.fn.Addr, Size: p.fn.Size,
		Site: manifest.Site{
			Kind: string(p.site.Kind), Address: p.site.Site,
			Expected: slices.Clone(manifest.Hex(p.site.Expected[:covered])), Room: p.site.Room,
		},
		Strategy:    string(p.plan.Strategy),
		Replacement: l.Names[p.part][p.repl],
		NewSize:     p.pair.cut.Object.Symbols[p.repl].Size,
		SHA256:      p.body[:],
		Proof:       string(p.fn.Found),
	}
	if s.way != trampoline.Direct {
		out.Dispatch = string(s.way)
	}
	for _, r := range p.fn.Extra {
		out.Extra = append(out.Extra, manifest.Range{Address: r.Addr, Size: r.Size})
	}
	return out
}

// variables lists what the payload shares with the target, by address.
func (s *steps) variables(l *pobj.Linked) []manifest.Variable {
	var out []manifest.Variable
	cuts := s.cuts()
	for _, sh := range l.Shared {
		p := cuts[sh.Part]
		e := p.cut.Externals[sh.External]
		known := s.parts[sh.Part].Externals[sh.External].Known
		v := manifest.Variable{Name: e.Name, Symbol: sh.Symbol, Address: sh.Value, Size: s.size(p, e.Orig, sh.Value)}
		place := known[match.Address]
		if sh.TLS {
			v.Address = 0 // the import holds the offset
			place = known[match.TPOffset]
		} else if s.executable(sh.Value) {
			continue // a function
		}
		v.Found, v.Uses = place.Found, place.Uses
		if !slices.ContainsFunc(out, func(o manifest.Variable) bool { return o.Symbol == v.Symbol }) {
			out = append(out, v)
		}
	}
	slices.SortStableFunc(out, func(a, b manifest.Variable) int {
		if c := cmp.Compare(a.Address, b.Address); c != 0 {
			return c
		}
		return cmp.Compare(a.Symbol, b.Symbol)
	})
	return out
}

// cuts returns the pairs that have a part, in the order of the parts.
func (s *steps) cuts() (out []*pairSteps) {
	for _, p := range s.pairs {
		if p.cut != nil {
			out = append(out, p)
		}
	}
	return out
}

// size is the extent of a variable: as the before object defines it, or as the
// target's symbol tables have it; 0 if neither knows.
func (s *steps) size(p *pairSteps, orig int, addr uint64) uint64 {
	if orig != 0 {
		if n := p.Orig.Symbols[orig].Size; n != 0 {
			return n
		}
	}
	tables := [][]elfpatch.Symbol{s.target.File.Symbols}
	if s.target.Debug != nil {
		tables = append(tables, s.target.Debug.Symbols)
	}
	for _, syms := range tables {
		for _, sym := range syms {
			if sym.Section != elfpatch.Undefined && sym.Value == addr && sym.Type == elf.STT_OBJECT {
				return sym.Size
			}
		}
	}
	dyn, err := s.target.File.DynSymbols()
	if err != nil {
		return 0
	}
	for _, sym := range dyn {
		if sym.Section != elfpatch.Undefined && sym.Value == addr && sym.Type == elf.STT_OBJECT {
			return sym.Size
		}
	}
	return 0
}

// executable reports whether an address is in the target's text.
func (s *steps) executable(addr uint64) bool {
	for _, seg := range s.target.File.Segments {
		if seg.Type == elf.PT_LOAD && seg.Flags&elf.PF_X != 0 && addr >= seg.VAddr && addr-seg.VAddr < seg.MemSize {
			return true
		}
	}
	return false
}
