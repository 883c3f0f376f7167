package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/refusal"
)

// undoer takes a module apart that Emit has made.
type undoer struct {
	in   *elfpatch.File
	ops  *machine
	s    Spec
	out  *elfpatch.File
	secs map[int]*elfpatch.Section // of out, by the index in in
	syms []uint32                  // of out, by the index in in; 0 if not (yet) there

	named  map[string]int          // the last symbol of each name: those that Emit makes follow those of the object
	tables map[int][]elfpatch.Rela // ordinary relocations by section of in
	crcs   map[string]uint32       // versions of imports
	bound  map[string]uint32       // symbols of out for imports and livepatch symbols, by their names there
}

// ownSections are those that Emit adds to a module, whatever is in it.
var ownSections = map[string]bool{
	".init.text": true, ".exit.text": true, ".gnu.linkonce.this_module": true, "__versions": true, "__version_ext_crcs": true,
	"__version_ext_names": true, ".modinfo": true, ".note.gnu.build-id": true, ".rodata.livepatch": true, ".data.livepatch": true,
	".plt": true, ".init.plt": true, ".text.ftrace_trampoline": true, ".init.text.ftrace_trampoline": true,
}

// Undo returns what a module was made from, signed or not: Emit of it makes
// the same module, less the signature, which is tried here, so that nothing is lost and nothing is
// taken for something else. What a Spec says of exports beyond their versions
// is not in a module, nor are the layouts of structures that it does not have. The error
// is a refusal.List for a module that Emit has not made.
func Undo(module []byte) (Spec, error) {
	body, _ := Unsigned(module)
	f, err := elfpatch.Parse(body)
	if err != nil {
		return Spec{}, fmt.Errorf("undo: %w", err)
	}
	u := &undoer{
		in: f, ops: machines[f.Machine], out: elfpatch.New(elf.ET_REL, f.Machine), secs: map[int]*elfpatch.Section{}, syms: make([]uint32, len(f.Symbols)),
		named: map[string]int{}, tables: map[int][]elfpatch.Rela{}, crcs: map[string]uint32{}, bound: map[string]uint32{},
	}
	if u.ops == nil || f.Type != elf.ET_REL {
		return Spec{}, foreign("it is %v for %v", f.Type, f.Machine)
	}
	if why := u.tooMuch(); why != "" {
		return Spec{}, foreign("%s", why)
	}
	for i, s := range f.Symbols {
		u.named[s.Name] = i
	}
	for _, step := range []func() error{u.readInfo, u.readVersions, u.readRelocations, u.readTraits, u.readPatch, u.unlink, u.nameLimit} {
		if err := step(); err != nil {
			return Spec{}, err
		}
	}
	// From here on everything that the module holds is in the Spec.
	again, err := Emit(u.s)
	if err != nil {
		return Spec{}, foreign("it cannot be made again: %v", err)
	}
	g, err := elfpatch.Parse(again)
	if err != nil {
		return Spec{}, fmt.Errorf("undo: %w", err)
	}
	if why := differentModules(f, g); why != "" {
		return Spec{}, foreign("made again it is another: %s", why)
	}
	return u.s, nil
}

// The limits of what is taken apart: far beyond what a patch needs.
const (
	maxUndoSymbols = 1 << 18
	maxUndoName    = 512
)

// tooMuch says what of a file no module of livepatch has; "" if nothing.
func (u *undoer) tooMuch() string {
	if len(u.in.Symbols) > maxUndoSymbols {
		return fmt.Sprintf("it has %d symbols", len(u.in.Symbols))
	}
	for i := range u.in.Symbols {
		if n := len(u.in.Symbols[i].Name); n > maxUndoName {
			return fmt.Sprintf("symbol %d has a name of %d bytes", i, n)
		}
	}
	for i, s := range u.in.Sections {
		if len(s.Name) > maxUndoName {
			return fmt.Sprintf("section %d has a name of %d bytes", i, len(s.Name))
		}
	}
	return ""
}

func foreign(format string, args ...any) error {
	return refusal.List{refusal.New(refusal.MergeKernel, "module", "livepatch has not made it: "+format, args...)}
}

// Unsigned returns a module without the signature at its end, and whether
// there was one.
func Unsigned(module []byte) ([]byte, bool) {
	body, ok := bytes.CutSuffix(module, []byte(signatureMark))
	if !ok || len(body) < 12 {
		return module, false
	}
	n := uint64(binary.BigEndian.Uint32(body[len(body)-4:]))
	if n > uint64(len(body)-12) {
		return module, false
	}
	return body[:len(body)-12-int(n)], true
}

// readInfo reads .modinfo.
func (u *undoer) readInfo() error {
	sec := u.in.Section(".modinfo")
	if sec == nil {
		return foreign("it has no .modinfo")
	}
	for _, entry := range strings.Split(strings.TrimSuffix(string(sec.Data), "\x00"), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "license":
			u.s.License = value
		case "import_ns":
			u.s.ImportNS = append(u.s.ImportNS, value)
		case "depends":
			if value != "" {
				u.s.Depends = strings.Split(value, ",")
			}
		case "srcversion":
			u.s.Srcversion = value
		case "retpoline":
			u.s.Retpoline = true
		case "name":
			u.s.Name = value
		case "vermagic":
			u.s.Vermagic = value
		case "livepatch":
		default:
			u.s.Info = append(u.s.Info, entry)
		}
	}
	return nil
}

// readVersions reads the versions of imports, in each form that is there.
func (u *undoer) readVersions() error {
	if sec := u.in.Section("__versions"); sec != nil {
		u.s.Versions |= BasicVersions
		const size = 8 + versionName
		for d := sec.Data; len(d) >= size; d = d[size:] {
			name, _, _ := bytes.Cut(d[8:size], []byte{0})
			u.crcs[string(name)] = le.Uint32(d)
		}
	}
	crcs, names := u.in.Section("__version_ext_crcs"), u.in.Section("__version_ext_names")
	if crcs == nil || names == nil {
		return nil
	}
	u.s.Versions |= ExtendedVersions
	text := names.Data
	for d := crcs.Data; len(d) >= 4; d = d[4:] {
		name, rest, ok := bytes.Cut(text, []byte{0})
		if !ok {
			return foreign("__version_ext_names ends too soon")
		}
		u.crcs[string(name)], text = le.Uint32(d), rest
	}
	return nil
}

// readRelocations reads those that the module's loader applies.
func (u *undoer) readRelocations() error {
	for i, sec := range u.in.Sections {
		if i == 0 || sec.Flags&elf.SHF_ALLOC == 0 || sec.Type == elf.SHT_RELA {
			continue
		}
		for _, r := range u.in.Sections {
			if r.Type != elf.SHT_RELA || int(r.Info) != i || r.Flags&flagLivepatch != 0 {
				continue
			}
			list, err := u.decode(r)
			if err != nil {
				return err
			}
			u.tables[i] = append(u.tables[i], list...)
		}
	}
	return nil
}

// decode reads a section of relocations.
func (u *undoer) decode(sec *elfpatch.Section) (list []elfpatch.Rela, err error) {
	for d := sec.Data; len(d) >= relaSize; d = d[relaSize:] {
		r := elfpatch.Rela{Offset: le.Uint64(d), Type: le.Uint32(d[8:]), Symbol: le.Uint32(d[12:]), Addend: int64(le.Uint64(d[16:]))}
		if int64(r.Symbol) >= int64(len(u.in.Symbols)) {
			return nil, foreign("%s refers to symbol %d of %d", sec.Name, r.Symbol, len(u.in.Symbols))
		}
		list = append(list, r)
	}
	return list, nil
}

// readTraits reads off the module's own functions how its kernel is built.
func (u *undoer) readTraits() error {
	init, ok := u.named[initName]
	if !ok {
		return foreign("it has no %s", initName)
	}
	before := u.in.Symbols[init].Value
	if u.s.Hashes.Init, u.s.CFI = u.hashBefore(initName); u.s.CFI {
		u.s.Hashes.Exit, _ = u.hashBefore(exitName)
		before -= min(before, codeAlign)
	}
	u.s.Padding = int(min(before, maxPadding+1))
	if sec := u.in.Section(".exit.text"); sec != nil {
		for _, r := range u.tables[sec.Index] {
			u.s.Rethunk = u.s.Rethunk || u.in.Symbols[r.Symbol].Name == returnThunk
		}
	}
	if sec := u.in.Section(".orc_unwind_ip"); sec != nil {
		u.s.ORC = slices.ContainsFunc(u.tables[sec.Index], u.aboutOwn)
	}
	return nil
}

// hashBefore returns the word of data before a function, the hash of its type.
func (u *undoer) hashBefore(name string) (hash uint32, ok bool) {
	s := &u.in.Symbols[u.named[name]]
	if s.Section <= 0 || s.Section >= len(u.in.Sections) || s.Value < kernel.TypeHashSize || s.Value > uint64(len(u.in.Sections[s.Section].Data)) {
		return 0, false
	}
	at := s.Value - kernel.TypeHashSize
	if !slices.ContainsFunc(u.in.Symbols, func(m elfpatch.Symbol) bool { return m.Name == "$d" && m.Section == s.Section && m.Value == at }) {
		return 0, false
	}
	return le.Uint32(u.in.Sections[s.Section].Data[at:]), true
}

// aboutOwn reports an entry of a table about init or exit.
func (u *undoer) aboutOwn(r elfpatch.Rela) bool {
	name := u.in.Symbols[r.Symbol].Name
	return name == initName || name == exitName
}

// unlink makes the object that the module was made from.
func (u *undoer) unlink() error {
	u.copySections()
	for i, s := range u.in.Symbols {
		if i == 0 || s.Section == elfpatch.Undefined || s.Section == shnLivepatch {
			continue
		}
		if s.Section > 0 {
			to := u.secs[s.Section]
			if to == nil {
				continue
			}
			s.Section = to.Index
		}
		u.syms[i] = uint32(u.out.AddSymbol(s))
	}
	u.s.Bindings = map[string]Binding{}
	for name, crc := range u.crcs {
		u.s.Bindings[name] = Binding{Kind: Export, Name: name, CRC: crc, HasCRC: true}
	}
	for i, s := range u.in.Symbols {
		if _, ok := u.s.Bindings[s.Name]; i > 0 && !ok && s.Section == elfpatch.Undefined && s.Bind == elf.STB_GLOBAL {
			u.s.Bindings[s.Name] = Binding{Kind: Export, Name: s.Name}
		}
	}
	for from := range u.in.Sections {
		to := u.secs[from]
		if to == nil {
			continue
		}
		rels, err := u.unbind(from)
		if err != nil {
			return err
		}
		if err := u.out.SetRelocations(to, rels); err != nil {
			return foreign("%v", err)
		}
	}
	u.s.Object = u.out
	return nil
}

// copySections takes over all sections but those that Emit added.
func (u *undoer) copySections() {
	for i, s := range u.in.Sections {
		if i == 0 || s.Flags&elf.SHF_ALLOC == 0 || s.Type == elf.SHT_RELA || ownSections[s.Name] {
			continue
		}
		c := *s
		c.Link, c.Data = 0, slices.Clone(u.withoutOwn(s))
		if len(c.Data) == 0 && len(s.Data) > 0 {
			continue // the table is there for the module's own functions
		}
		u.secs[i] = u.out.AddSection(c)
	}
	for i, to := range u.secs {
		if from := u.in.Sections[i]; from.Flags&elf.SHF_LINK_ORDER != 0 && u.secs[int(from.Link)] != nil {
			to.Link = uint32(u.secs[int(from.Link)].Index)
		}
	}
}

// withoutOwn are the contents of a section less the entries at its end that
// are about init and exit.
func (u *undoer) withoutOwn(s *elfpatch.Section) []byte {
	places := u.tables[s.Index]
	if ip := u.in.Section(".orc_unwind_ip"); s.Name == ".orc_unwind" && ip != nil {
		places = u.tables[ip.Index]
	}
	rest := len(places)
	for rest > 0 && u.aboutOwn(places[rest-1]) {
		rest--
	}
	if rest == len(places) {
		return s.Data
	}
	return s.Data[:len(s.Data)/len(places)*rest]
}

// unbind returns the relocations of a section as Emit found them: all ordinary,
// and to undefined symbols where what they refer to is the kernel's.
func (u *undoer) unbind(from int) (out []elfpatch.Rela, err error) {
	for _, r := range u.tables[from] {
		if u.aboutOwn(r) {
			continue
		}
		if s := &u.in.Symbols[r.Symbol]; r.Symbol != 0 && s.Section == elfpatch.Undefined {
			b := u.s.Bindings[s.Name]
			if s.Bind == elf.STB_WEAK {
				b = Binding{Kind: Absent}
			}
			r.Symbol = u.undefined(s.Name, b, s)
		} else if r.Symbol = u.syms[r.Symbol]; r.Symbol == 0 && s.Name != "" {
			return nil, foreign("%s refers to %s", u.in.Sections[from].Name, s.Name)
		}
		out = append(out, r)
	}
	for _, sec := range u.in.Sections {
		if sec.Type != elf.SHT_RELA || sec.Flags&flagLivepatch == 0 || int(sec.Info) != from {
			continue
		}
		name, _ := strings.CutPrefix(sec.Name, ".klp.rela.")
		with, _, _ := strings.Cut(name, ".")
		list, err := u.decode(sec)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			s := &u.in.Symbols[r.Symbol]
			b, ok := parseKLPSymbol(s.Name)
			if !ok {
				return nil, foreign("%s refers to %q", sec.Name, s.Name)
			}
			b.For = with
			r.Symbol = u.undefined(s.Name+"@"+with, b, s)
			out = append(out, r)
		}
	}
	return out, nil
}

// parseKLPSymbol takes ".klp.sym.OBJECT.NAME,POSITION" apart.
func parseKLPSymbol(name string) (Binding, bool) {
	rest, ok := strings.CutPrefix(name, ".klp.sym.")
	object, rest, found := strings.Cut(rest, ".")
	i := strings.LastIndexByte(rest, ',')
	if !ok || !found || i < 0 {
		return Binding{}, false
	}
	pos, err := strconv.Atoi(rest[i+1:])
	return Binding{Kind: KLP, Object: object, Name: rest[:i], Pos: pos}, err == nil
}

// undefined returns the undefined symbol for something that is bound.
func (u *undoer) undefined(name string, b Binding, like *elfpatch.Symbol) uint32 {
	sym, ok := u.bound[name]
	if !ok {
		bind := elf.STB_GLOBAL
		if b.Kind == Absent {
			bind = elf.STB_WEAK
		}
		sym = uint32(u.out.AddSymbol(elfpatch.Symbol{Name: name, Type: like.Type, Bind: bind}))
		u.bound[name], u.s.Bindings[name] = sym, b
	}
	return sym
}
