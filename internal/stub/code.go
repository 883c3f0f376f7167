package stub

import (
	"cmp"
	"debug/elf"
	"slices"

	"livepatch/disasm"
	"livepatch/elfpatch"
)

// code is the code of a linked file by its symbols.
type code struct {
	f      *elfpatch.File
	funcs  []elfpatch.Symbol // by address
	names  map[string]int    // how many there are of a name
	kernel *code             // what a module runs in; nil for the image
}

func newCode(f *elfpatch.File) *code {
	c := &code{f: f, names: map[string]int{}}
	for _, s := range f.Symbols {
		if s.Type == elf.STT_FUNC && s.Size > 0 && s.Section > 0 {
			c.funcs = append(c.funcs, s)
			c.names[s.Name]++
		}
	}
	slices.SortStableFunc(c.funcs, func(a, b elfpatch.Symbol) int { return cmp.Compare(a.Value, b.Value) })
	return c
}

// has reports whether the file, or the kernel that it runs in, has a function of a name.
func (c *code) has(name string) bool {
	return c.names[name] > 0 || c.kernel != nil && c.kernel.has(name)
}

// covering is the function that covers an address.
func (c *code) covering(addr uint64) (elfpatch.Symbol, bool) {
	i, exact := slices.BinarySearchFunc(c.funcs, addr, func(s elfpatch.Symbol, addr uint64) int { return cmp.Compare(s.Value, addr) })
	if !exact {
		i--
	}
	if i < 0 || addr-c.funcs[i].Value >= c.funcs[i].Size {
		return elfpatch.Symbol{}, false
	}
	return c.funcs[i], true
}

// named is the one function that begins at an address, if no other has its name.
func (c *code) named(addr uint64) (string, bool) {
	s, ok := c.covering(addr)
	return s.Name, ok && s.Value == addr && c.names[s.Name] == 1
}

// maxVisits bounds how many functions are looked at to see whether one returns.
const maxVisits = 256

// returns reports whether a function has a way back to its caller, or one that
// cannot be seen: through a register, or by code that the file does not hold.
func (c *code) returns(addr uint64) bool {
	seen := map[uint64]bool{}
	queue := []uint64{addr}
	for len(queue) > 0 {
		s, ok := c.covering(queue[0])
		queue = queue[1:]
		if seen[s.Value] && ok {
			continue
		}
		seen[s.Value] = true
		b, in := c.f.ReadAddr(s.Value, int(s.Size))
		if !ok || !in || s.Name == returnThunk || len(seen) > maxVisits {
			return true
		}
		found := false
		err := disasm.Walk(c.f.Machine, b, func(off int, in disasm.Inst) bool {
			switch in.Flow {
			case disasm.Return, disasm.IndirectJump:
				found = true
			case disasm.Jump, disasm.CondJump:
				if to := s.Value + uint64(off) + uint64(in.PCOff); to-s.Value >= s.Size {
					queue = append(queue, to)
				}
			}
			return !found
		})
		if found || err != nil {
			return true
		}
	}
	return false
}
