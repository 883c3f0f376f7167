package check

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"maps"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
	"livepatch/manifest"
	"livepatch/trampoline"
)

const (
	pageSize  = 4096
	maxMemory = 1 << 30 // bytes that a payload may take
	maxAlign  = 1 << 16
)

// frames is the section that tells how functions are unwound.
const frames = ".eh_frame"

// far stands for the address of a dynamic import: somewhere that no 32-bit
// displacement reaches.
const far = 0x7e00_0000_0000

// checkPayload links the payload as a loader would, directly behind the
// target's image, and checks that every relocation can be represented and
// every redirect leads to its replacement.
func (c *checker) checkPayload() {
	o, err := elfpatch.Parse(c.payload)
	if err == nil && (o.Type != elf.ET_REL || o.Machine != c.elf.Machine) {
		err = fmt.Errorf("%v for %v, not %v for %v", o.Type, o.Machine, elf.ET_REL, c.elf.Machine)
	}
	if err != nil {
		c.refuse(refusal.Unsupported, "payload", c.target.Payload.Member, "%v", err)
		return
	}
	l := &layout{checker: c, object: o, imports: map[string]*manifest.Import{}}
	for i := range c.target.Imports {
		l.imports[c.target.Imports[i].Symbol] = &c.target.Imports[i]
	}
	if c.target.Unwind != "" && o.Section(frames) == nil {
		c.refuse(refusal.Unsupported, "payload", frames, "the payload lacks it, and the manifest says what it is for")
	}
	l.place()
	l.symbols()
	l.relocate()
	l.redirects()
}

// A layout is a payload at a place in the address space of the target.
type layout struct {
	*checker
	object  *elfpatch.File
	imports map[string]*manifest.Import
	addr    map[int]uint64    // of the allocated sections, by index
	linked  map[int][]byte    // their bytes, with relocations applied
	defined map[string]uint64 // addresses of the symbols that the payload defines
}

// place puts the sections behind the image: code, read-only data, data, each
// kind on pages of its own.
func (l *layout) place() {
	l.addr, l.linked = map[int]uint64{}, map[int][]byte{}
	at := imageEnd(l.elf)
	limit := at + maxMemory
	for _, want := range []elf.SectionFlag{elf.SHF_EXECINSTR, 0, elf.SHF_WRITE} {
		at = alignUp(at, pageSize)
		for _, s := range l.object.Sections {
			if s.Flags&elf.SHF_ALLOC == 0 || s.Flags&(elf.SHF_EXECINSTR|elf.SHF_WRITE) != want {
				continue
			}
			if s.Align > maxAlign || s.Align&(s.Align-1) != 0 || s.Size > limit-at {
				l.refuse(refusal.Unsupported, "payload", s.Name, "the section has %#x bytes, aligned to %#x", s.Size, s.Align)
				continue
			}
			at = alignUp(at, max(s.Align, 1))
			l.addr[s.Index], l.linked[s.Index] = at, bytes.Clone(s.Data)
			at += s.Size
			limit = max(limit, at) // alignment may pass it by less than maxAlign
		}
	}
	for _, s := range l.object.Sections {
		const both = elf.SHF_EXECINSTR | elf.SHF_WRITE
		if s.Flags&elf.SHF_ALLOC != 0 && s.Flags&both == both {
			l.refuse(refusal.Unsupported, "payload", s.Name, "the section is writable and executable")
		}
	}
}

// imageEnd is the first page behind the image.
func imageEnd(f *elfpatch.File) uint64 {
	end := uint64(0)
	for _, s := range f.Segments {
		if s.Type == elf.PT_LOAD && s.MemSize < far && s.VAddr < far {
			end = max(end, s.VAddr+s.MemSize)
		}
	}
	return alignUp(end, pageSize)
}

func alignUp(x, align uint64) uint64 { return (x + align - 1) / align * align }

// symbols checks that the undefined symbols are the imports, and the
// replacements are functions of the size that the manifest states.
func (l *layout) symbols() {
	l.defined = map[string]uint64{}
	size := map[string]uint64{}
	undefined := map[string]bool{}
	for i := range l.object.Symbols {
		s := &l.object.Symbols[i]
		switch addr, placed := l.addr[s.Section]; {
		case i == 0 || s.Type == elf.STT_FILE:
		case s.Section == elfpatch.Undefined:
			undefined[s.Name] = true
			if l.imports[s.Name] == nil {
				l.refuse(refusal.SymbolNotFound, "payload", s.Name, "undefined in the payload, and not imported")
			}
		case placed && s.Type != elf.STT_SECTION:
			l.defined[s.Name] = addr + s.Value
			size[s.Name] = s.Size
		}
	}
	for i := range l.target.Imports {
		if name := l.target.Imports[i].Symbol; !undefined[name] {
			l.refuse(refusal.Unsupported, "payload", name, "imported, but not an undefined symbol of the payload")
		}
	}
	for i := range l.target.Functions {
		f := &l.target.Functions[i]
		if _, ok := l.defined[f.Replacement]; !ok {
			l.refuse(refusal.SymbolNotFound, "payload", f.Replacement, "the replacement is not in the payload")
		} else if size[f.Replacement] != f.NewSize {
			l.refuse(refusal.Unsupported, "payload", f.Replacement, "%d bytes, the manifest says %d", size[f.Replacement], f.NewSize)
		}
	}
}

func (l *layout) relocate() {
	count, bad := 0, 0
	for _, s := range l.object.Sections {
		if _, ok := l.addr[s.Index]; !ok {
			continue
		}
		list, err := l.object.Relocations(s)
		if err != nil {
			l.refuse(refusal.Unsupported, "payload", s.Name, "%v", err)
			bad++
			continue
		}
		for _, r := range list {
			count++
			if code, err := l.relocation(s, r); err != nil {
				bad++
				l.refuse(code, "payload", fmt.Sprintf("%s+%#x", s.Name, r.Offset), "%v", err)
			}
		}
	}
	if bad == 0 {
		l.ok("payload", l.target.Payload.Member, "%s, %s", plural(count, "relocation"), plural(len(l.addr), "section"))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// relocation applies one relocation.
func (l *layout) relocation(s *elfpatch.Section, r elfpatch.Rela) (refusal.Code, error) {
	info, ok := elfpatch.RelocInfo(l.object.Machine, r.Type)
	if !ok {
		return refusal.Unsupported, fmt.Errorf("relocation type %d is unknown", r.Type)
	}
	if info.Size == 0 {
		return "", nil
	}
	if r.Offset > uint64(len(s.Data)) || uint64(len(s.Data))-r.Offset < uint64(info.Size) {
		return refusal.Unsupported, fmt.Errorf("%s lies outside the section", info.Name)
	}
	if int(r.Symbol) >= len(l.object.Symbols) {
		return refusal.Unsupported, fmt.Errorf("%s refers to symbol %d of %d", info.Name, r.Symbol, len(l.object.Symbols))
	}
	sym := &l.object.Symbols[r.Symbol]
	value, err := l.value(sym, &info)
	if err != nil {
		return refusal.Unsupported, err
	}
	field := l.linked[s.Index][r.Offset : r.Offset+uint64(info.Size)]
	err = elfpatch.ApplyReloc(l.object.Machine, r.Type, field, l.addr[s.Index]+r.Offset, value, r.Addend)
	var reach *elfpatch.RangeError
	switch {
	case errors.As(err, &reach):
		return refusal.OutOfReach, fmt.Errorf("%s: %w", sym.Name, err)
	case err != nil:
		return refusal.Unsupported, err
	}
	return "", nil
}

// value is what a relocation takes for its symbol.
func (l *layout) value(sym *elfpatch.Symbol, info *elfpatch.Reloc) (uint64, error) {
	if info.Kind != elfpatch.KindData && info.Kind != elfpatch.KindBranch && info.Kind != elfpatch.KindTLS {
		return 0, fmt.Errorf("%s against %s needs a table that the loader does not make", info.Name, sym.Name)
	}
	if sym.Section != elfpatch.Undefined {
		addr, ok := l.addr[sym.Section]
		if sym.Section != elfpatch.Absolute && !ok {
			return 0, fmt.Errorf("%s against %s, which is not loaded", info.Name, sym.Name)
		}
		return addr + sym.Value, nil
	}
	im := l.imports[sym.Name]
	switch {
	case im == nil:
		return 0, fmt.Errorf("%s against %q, which is not imported", info.Name, sym.Name)
	case (im.Kind == manifest.ImportTLSOffset) != (info.Kind == elfpatch.KindTLS):
		return 0, fmt.Errorf("%s against %s, an import of kind %s", info.Name, sym.Name, im.Kind)
	case im.Kind == manifest.ImportTLSOffset:
		return uint64(im.Offset), nil
	case im.Kind == manifest.ImportDynamic && info.Size != 8:
		return 0, fmt.Errorf("%s against %s, a dynamic import that may be anywhere", info.Name, sym.Name)
	case im.Kind == manifest.ImportDynamic:
		return far, nil
	}
	return im.Address, nil
}

// redirects fills the templates and follows them to the replacements.
func (l *layout) redirects() {
	m := l.object.Machine
	dispatched := patches{}
	for i := range l.target.Functions {
		f := &l.target.Functions[i]
		want, ok := l.defined[f.Replacement]
		if !ok {
			continue
		}
		code, err := l.written(i)
		if err != nil {
			l.refuse(refusal.OutOfReach, "redirect", f.Name, "%v", err)
			continue
		}
		if f.Dispatch != "" {
			maps.Copy(dispatched, code)
			continue
		}
		read := func(addr uint64, n int) []byte { return code.read(l, addr, n) }
		got, ok := trampoline.Follow(m, f.Site.Address, read)
		switch {
		case f.Strategy == string(trampoline.Veneer):
			l.ok("redirect", f.Name, "%s through a veneer", f.Strategy)
		case !ok || got != want:
			l.refuse(refusal.Unsupported, "redirect", f.Name, "the writes lead to %#x, not to the replacement at %#x", got, want)
		default:
			l.ok("redirect", f.Name, "%s, leads to %s", f.Strategy, f.Replacement)
		}
	}
	l.dispatched(dispatched)
}

// dispatched checks the redirects that do not lead to their replacements by
// themselves.
func (l *layout) dispatched(writes patches) {
	way := l.target.Dispatch()
	if way == "" {
		return
	}
	err := Dispatch(l.target, Memory{
		Machine: l.object.Machine,
		Old:     func(addr uint64, n int) []byte { return patches{}.read(l, addr, n) },
		Read: func(addr uint64, n int) []byte {
			for i, start := range l.addr {
				if b := l.linked[i]; addr >= start && addr-start < uint64(len(b)) {
					b = b[addr-start:]
					return bytes.Clone(b[:min(n, len(b))])
				}
			}
			return writes.read(l, addr, n)
		},
		Symbol: func(name string) (uint64, bool) { addr, ok := l.defined[name]; return addr, ok },
	})
	if err != nil {
		l.refuse(refusal.Unsupported, "redirect", way, "%v", err)
		return
	}
	for i := range l.target.Functions {
		if f := &l.target.Functions[i]; f.Dispatch != "" {
			l.ok("redirect", f.Name, "%s, %s, leads to %s", f.Strategy, way, f.Replacement)
		}
	}
}

// patches are the bytes that would be written for a function.
type patches map[uint64][]byte

// read returns n bytes at addr after the writes, for following jumps.
func (p patches) read(l *layout, addr uint64, n int) []byte {
	old, ok := l.elf.ReadAddr(addr, n)
	for !ok && n > 1 { // near the end of a segment
		n--
		old, ok = l.elf.ReadAddr(addr, n)
	}
	if !ok {
		return nil
	}
	b := append([]byte(nil), old...)
	for at, w := range p {
		for i, v := range w {
			if k := at + uint64(i) - addr; k < uint64(n) {
				b[k] = v
			}
		}
	}
	return b
}

func (l *layout) written(function int) (patches, error) {
	out := patches{}
	for i := range l.target.Writes {
		w := &l.target.Writes[i]
		if w.Function != function {
			continue
		}
		t := trampoline.Template{Addr: w.Address, Expected: w.Expected, Bytes: w.Template}
		var target uint64
		for _, h := range w.Holes {
			t.Holes = append(t.Holes, trampoline.Hole{Off: h.Offset, Kind: trampoline.HoleKind(h.Kind)})
			target = l.defined[h.Symbol]
		}
		b, err := t.Fill(target, 0)
		if err != nil {
			return nil, err
		}
		out[w.Address] = b
	}
	return out, nil
}
