package manifest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

func (c *checker) target(at string, t *Target, member string) {
	c.word(at+".kind", t.Kind, targetKinds())
	c.word(at+".machine", t.Machine, machines())
	switch {
	case len(t.BuildID) == 0 && len(t.SHA256) == 0:
		c.add(at+".build_id", "is empty and there is no sha256: nothing identifies the file")
	case len(t.BuildID) > 64:
		c.add(at+".build_id", "has %d bytes, more than 64", len(t.BuildID))
	}
	if len(t.SHA256) != 0 {
		c.bytes(at+".sha256", t.SHA256, 32)
	}
	c.base(at+".name", t.Name)
	c.optional(at+".soname", t.Soname)
	c.payload(at+".payload", &t.Payload, member)

	c.count(at+".functions", len(t.Functions), 1, MaxList)
	c.count(at+".variables", len(t.Variables), 0, MaxList)
	c.count(at+".imports", len(t.Imports), 0, MaxList)
	c.count(at+".writes", len(t.Writes), 1, MaxList)
	c.functions(at+".functions", t)
	imports := c.imports(at+".imports", t)
	c.variables(at+".variables", t, imports)
	c.pieces(at+".pieces", t, imports)
	if t.Unwind != "" {
		c.word(at+".unwind", t.Unwind, []string{UnwindNeeded, UnwindOffered})
	}
	c.writes(at+".writes", t)
}

func (c *checker) payload(at string, p *Payload, member string) {
	if p.Member != member {
		c.add(at+".member", "is %.40q, not %q", p.Member, member)
	}
	if p.Size < MinPayload || p.Size > MaxPayload {
		c.add(at+".size", "%d is not within %d to %d", p.Size, MinPayload, MaxPayload)
	}
	c.bytes(at+".sha256", p.SHA256, 32)
}

func (c *checker) functions(list string, t *Target) {
	replacement := map[string]int{}
	for i := range t.Functions {
		f, at := &t.Functions[i], fmt.Sprintf("%s[%d]", list, i)
		c.text(at+".name", f.Name)
		c.base(at+".object", f.Object)
		c.text(at+".replacement", f.Replacement)
		if j, ok := replacement[f.Replacement]; ok {
			c.add(at+".replacement", "%.60q replaces functions[%d] too", f.Replacement, j)
		}
		replacement[f.Replacement] = i
		if f.Size == 0 {
			c.add(at+".size", "is 0")
		}
		c.extent(at+".size", f.Address, f.Size)
		if f.NewSize == 0 || f.NewSize > MaxPayload {
			c.add(at+".new_size", "%d is not within 1 to %d", f.NewSize, MaxPayload)
		}
		if _, ok := strategies()[f.Strategy]; !ok || f.Strategy == "filler" && t.Machine != MachineX86 {
			c.add(at+".strategy", "%.40q is not a strategy of %.20s", f.Strategy, t.Machine)
		}
		if f.Dispatch != "" {
			c.word(at+".dispatch", f.Dispatch, dispatches())
		}
		if (f.Strategy == "slot") != (f.Dispatch == DispatchSlot) {
			c.add(at+".strategy", "%.40q does not go with dispatch %.40q", f.Strategy, f.Dispatch)
		}
		c.bytes(at+".sha256", f.SHA256, 32)
		c.word(at+".proof", f.Proof, proofs())
		c.siteOf(at+".site", f.Site, f.Address, f.Size)
		c.count(at+".extra", len(f.Extra), 0, MaxList)
		for k, r := range f.Extra {
			if r.Size == 0 {
				c.add(fmt.Sprintf("%s.extra[%d].size", at, k), "is 0")
			}
			c.extent(fmt.Sprintf("%s.extra[%d].size", at, k), r.Address, r.Size)
		}
	}
	c.disjoint(list, "function", len(t.Functions), func(i int) (uint64, uint64) {
		return t.Functions[i].Address, t.Functions[i].Size
	})
}

// siteOf checks the patch site of the function of size bytes at addr.
func (c *checker) siteOf(at string, s Site, addr, size uint64) {
	c.word(at+".kind", s.Kind, siteKinds())
	if s.Address < addr || s.Address-addr >= size {
		c.add(at+".address", "%#x is outside the function at %#x, %#x bytes", s.Address, addr, size)
	}
	if s.Room < 1 || s.Room > MaxRoom {
		c.add(at+".room", "%d is not within 1 to %d", s.Room, MaxRoom)
	}
	if len(s.Expected) == 0 || len(s.Expected) > s.Room {
		c.add(at+".expected", "has %d bytes, not 1 to the room of %d", len(s.Expected), s.Room)
	}
	c.extent(at, s.Address, uint64(max(s.Room, 0)))
}

func (c *checker) imports(list string, t *Target) map[string]*Import {
	seen := make(map[string]*Import, len(t.Imports))
	for i := range t.Imports {
		im, at := &t.Imports[i], fmt.Sprintf("%s[%d]", list, i)
		c.text(at+".symbol", im.Symbol)
		if seen[im.Symbol] != nil {
			c.add(at+".symbol", "%.60q is imported twice", im.Symbol)
		}
		seen[im.Symbol] = im
		c.optional(at+".name", im.Name)
		c.optional(at+".version", im.Version)
		c.optional(at+".library", im.Library)
		empty := *im
		empty.Symbol, empty.Kind = "", ""
		switch im.Kind {
		case ImportTarget:
			empty.Address = 0
		case ImportTLSOffset:
			empty.Offset = 0
		case ImportDynamic:
			empty.Name, empty.Version, empty.Library = "", "", ""
			if im.Name == "" {
				c.add(at+".name", "is empty")
			}
		default:
			c.word(at+".kind", im.Kind, []string{ImportTarget, ImportTLSOffset, ImportDynamic})
			continue
		}
		if empty != (Import{}) {
			c.add(at, "has fields that an import of kind %q does not use", im.Kind)
		}
	}
	for i := range t.Functions {
		if r := t.Functions[i].Replacement; seen[r] != nil {
			c.add(list, "%.60q is a replacement and cannot be imported", r)
		}
	}
	return seen
}

func (c *checker) variables(list string, t *Target, imports map[string]*Import) {
	seen := map[string]bool{}
	for i := range t.Variables {
		v, at := &t.Variables[i], fmt.Sprintf("%s[%d]", list, i)
		c.text(at+".name", v.Name)
		c.text(at+".symbol", v.Symbol)
		c.text(at+".found", v.Found)
		c.extent(at+".size", v.Address, v.Size)
		if v.Uses < 0 {
			c.add(at+".uses", "%d is negative", v.Uses)
		}
		if seen[v.Symbol] {
			c.add(at+".symbol", "%.60q is listed twice", v.Symbol)
		}
		seen[v.Symbol] = true
		switch im := imports[v.Symbol]; {
		case im == nil:
			c.add(at+".symbol", "%.60q is not imported", v.Symbol)
		case im.Kind == ImportTarget && im.Address != v.Address:
			c.add(at+".address", "%#x is not the %#x of its import", v.Address, im.Address)
		}
	}
}

func (c *checker) writes(list string, t *Target) {
	count := make([]int, len(t.Functions))
	for i := range t.Writes {
		w, at := &t.Writes[i], fmt.Sprintf("%s[%d]", list, i)
		if w.Length < 1 || w.Length > MaxWrite {
			c.add(at+".length", "%d is not within 1 to %d", w.Length, MaxWrite)
			continue
		}
		c.bytes(at+".expected", w.Expected, w.Length)
		c.bytes(at+".template", w.Template, w.Length)
		c.extent(at+".length", w.Address, uint64(w.Length))
		if t.Machine == MachineARM64 && (w.Address%4 != 0 || w.Length%4 != 0) {
			c.add(at, "is not a whole number of arm64 instructions")
		}
		if w.Function < 0 || w.Function >= len(t.Functions) {
			c.add(at+".function", "%d is not within 0 to %d", w.Function, len(t.Functions)-1)
			continue
		}
		count[w.Function]++
		f := &t.Functions[w.Function]
		c.within(at, w, f)
		c.holes(at+".holes", w, t)
	}
	for i, n := range count {
		if want := strategies()[t.Functions[i].Strategy]; want != 0 && n != want {
			c.add(list, "%d belong to functions[%d]; strategy %q takes %d", n, i, t.Functions[i].Strategy, want)
		}
	}
	c.disjoint(list, "write", len(t.Writes), func(i int) (uint64, uint64) {
		return t.Writes[i].Address, uint64(max(t.Writes[i].Length, 0))
	})
}

// within checks that a write stays in the function, its site's room and the
// filler before it, and expects there what the site expects.
func (c *checker) within(at string, w *Write, f *Function) {
	s := &f.Site
	low := f.Address - min(f.Address, MaxFront)
	end := max(f.Address+f.Size, s.Address+uint64(max(s.Room, 0)))
	if w.Address < low || w.Address+uint64(w.Length) > end {
		c.add(at+".address", "%d bytes at %#x are outside the function and its filler", w.Length, w.Address)
	}
	if len(w.Expected) != w.Length {
		return
	}
	if w.Address >= s.Address && w.Address-s.Address < uint64(len(s.Expected)) {
		have := s.Expected[w.Address-s.Address:]
		n := min(len(have), w.Length)
		if !bytes.Equal(have[:n], w.Expected[:n]) {
			c.add(at+".expected", "%s contradicts the site's %s", w.Expected, s.Expected)
		}
	}
}

func (c *checker) holes(list string, w *Write, t *Target) {
	f, machine := &t.Functions[w.Function], t.Machine
	if len(w.Holes) == 0 && f.Strategy != "filler" {
		c.add(list, "is empty: the write leads nowhere")
	}
	end := 0
	for i, h := range w.Holes {
		at := fmt.Sprintf("%s[%d]", list, i)
		c.text(at+".symbol", h.Symbol)
		switch {
		case f.Dispatch != "" && !t.leadsTo(h.Symbol, w.Function):
			c.add(at+".symbol", "%.60q is no piece that a redirect of functions[%d] leads to", h.Symbol, w.Function)
		case f.Dispatch == "" && f.Strategy != "veneer" && h.Symbol != f.Replacement:
			c.add(at+".symbol", "%.60q is not the replacement %.60q", h.Symbol, f.Replacement)
		}
		k, ok := holeKinds()[h.Kind]
		if !ok || k.machine != "" && k.machine != machine {
			c.add(at+".kind", "%.40q is not a hole of %.20s", h.Kind, machine)
			continue
		}
		if h.Offset < end || h.Offset > w.Length-k.size {
			c.add(at+".offset", "%d does not leave %d bytes after %d in a template of %d", h.Offset, k.size, end, w.Length)
			continue
		}
		end = h.Offset + k.size
		if len(w.Template) == w.Length && !empty(w.Template[h.Offset:end], k.mask) {
			c.add(at, "the template is not zero there")
		}
		if k.machine == MachineARM64 && h.Offset%4 != 0 {
			c.add(at+".offset", "%d is not a multiple of 4", h.Offset)
		}
	}
}

// empty reports whether b is zero, but for the bits of mask in its last byte.
func empty(b []byte, mask byte) bool {
	for i, v := range b {
		if i == len(b)-1 {
			v &^= mask
		}
		if v != 0 {
			return false
		}
	}
	return true
}

func sameFile(a, b *Target) bool {
	return slices.Equal(a.BuildID, b.BuildID) && slices.Equal(a.SHA256, b.SHA256)
}

// sameFiles checks the targets that are one file, as they are in a merged
// package: each has to leave to the others what is theirs.
func (c *checker) sameFiles(targets []Target) {
	done := make([]bool, len(targets))
	for i := range targets {
		var functions, writes []place
		for j := i; j < len(targets); j++ {
			t, at := &targets[j], fmt.Sprintf("targets[%d]", j)
			if done[j] || !sameFile(&targets[i], t) {
				continue
			}
			done[j] = true
			if t.Kind != targets[i].Kind || t.Machine != targets[i].Machine {
				c.add(at, "is the same file as targets[%d], and of another kind or machine", i)
			}
			for k := range t.Functions {
				functions = append(functions, place{t.Functions[k].Address, t.Functions[k].Size, j, fmt.Sprintf("%s.functions[%d]", at, k)})
			}
			for k := range t.Writes {
				writes = append(writes, place{t.Writes[k].Address, uint64(max(t.Writes[k].Length, 0)), j, fmt.Sprintf("%s.writes[%d]", at, k)})
			}
		}
		c.apart(functions)
		c.apart(writes)
	}
}

// A place is an extent of the text of a file, and where the manifest has it.
type place struct {
	addr, size uint64
	target     int
	at         string
}

// apart checks that no extents of different targets share a byte; those of one
// target are compared elsewhere.
func (c *checker) apart(list []place) {
	slices.SortStableFunc(list, func(a, b place) int { return cmp.Compare(a.addr, b.addr) })
	for k := 1; k < len(list); k++ {
		a, b := &list[k-1], &list[k]
		if a.target != b.target && b.addr-a.addr < a.size {
			c.add(b.at, "overlaps %s, which is of the same file", a.at)
		}
	}
}

// disjoint checks that no two of n extents share a byte.
func (c *checker) disjoint(list, what string, n int, extent func(int) (uint64, uint64)) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, _ := extent(a)
		y, _ := extent(b)
		return cmp.Compare(x, y)
	})
	for k := 1; k < n; k++ {
		i, j := order[k-1], order[k]
		a, size := extent(i)
		if b, _ := extent(j); b-a < size {
			c.add(fmt.Sprintf("%s[%d]", list, j), "overlaps %s %d", what, i)
		}
	}
}
