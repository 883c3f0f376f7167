package build

import (
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
	"livepatch/trampoline"
)

// onlyDescribes are sections that name places in code without leading there.
var onlyDescribes = map[string]bool{
	".eh_frame": true, ".gcc_except_table": true, "__patchable_function_entries": true, "__mcount_loc": true,
}

// entersSite refuses a function into whose overwritten bytes something of the
// before object points: an outlined part that jumps back, a table of labels.
// Branches of the function itself are the finder's business.
func entersSite(p *pairSteps, fn match.Func, plan trampoline.Plan) error {
	end := uint64(0)
	for _, w := range plan.Writes {
		if e := w.Addr + uint64(len(w.Bytes)); e > fn.Addr {
			end = max(end, e-fn.Addr)
		}
	}
	sym := p.Orig.Symbols[fn.Symbol]
	tables, err := findTables(p.Orig)
	if err != nil {
		return fmt.Errorf("read %s: %w", p.OrigName, err)
	}
	for _, sec := range p.Orig.Sections {
		if sec.Flags&elf.SHF_ALLOC == 0 || onlyDescribes[sec.Name] {
			continue
		}
		rels, err := p.Orig.Relocations(sec)
		if err != nil {
			return fmt.Errorf("read %s: %w", p.OrigName, err)
		}
		for _, r := range rels {
			to := p.Orig.Symbols[r.Symbol]
			if to.Section != sym.Section || r.Symbol == 0 {
				continue
			}
			off := to.Value + uint64(r.Addend) + tail(p.Orig, sec, r) - tables.depth(sec, r) - sym.Value
			if off > 0 && off < end {
				return refusal.New(refusal.BranchIntoSite, fmt.Sprintf("%s: %s+%#x", p.OrigName, fn.Name, off),
					"%s+%#x leads into the bytes that the redirect overwrites", sec.Name, r.Offset)
			}
		}
	}
	return nil
}

// tables are the places in data that code refers to, by section, sorted.
type tables struct {
	machine elf.Machine
	places  map[int][]uint64
}

func findTables(f *elfpatch.File) (tables, error) {
	t := tables{f.Machine, map[int][]uint64{}}
	for _, sec := range f.Sections {
		if sec.Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		rels, err := f.Relocations(sec)
		if err != nil {
			return tables{}, err
		}
		for _, r := range rels {
			if to := f.Symbols[r.Symbol]; to.Section > 0 {
				t.places[to.Section] = append(t.places[to.Section], to.Value+uint64(r.Addend)+tail(f, sec, r))
			}
		}
	}
	for _, places := range t.places {
		slices.Sort(places)
	}
	return t, nil
}

// depth is how far a PC-relative entry of a table in data lies from the start
// of its table. The entries of a switch count from there (".long .L3 - .Ltable"),
// so their relocations have that distance in the addend.
func (t tables) depth(sec *elfpatch.Section, r elfpatch.Rela) uint64 {
	info, ok := elfpatch.RelocInfo(t.machine, r.Type)
	if !ok || !info.PCRel || sec.Flags&elf.SHF_EXECINSTR != 0 {
		return 0
	}
	i, exact := slices.BinarySearch(t.places[sec.Index], r.Offset)
	if exact || i == 0 {
		return 0
	}
	return r.Offset - t.places[sec.Index][i-1]
}

// tail is what the addend of a PC-relative field of x86-64 code lacks: such a
// field counts from the end of the instruction, which a branch ends with.
func tail(f *elfpatch.File, sec *elfpatch.Section, r elfpatch.Rela) uint64 {
	info, ok := elfpatch.RelocInfo(f.Machine, r.Type)
	if ok && f.Machine == elf.EM_X86_64 && info.PCRel && sec.Flags&elf.SHF_EXECINSTR != 0 {
		return uint64(info.Size)
	}
	return 0
}
