package modcheck

import (
	"bytes"
	"debug/elf"
	"strconv"
	"strings"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// Modules that do without a livepatch core import these from the base module,
// whose version of them, and the number in their names, is that of the records
// that they exchange.
const (
	baseName      = "livepatch_direct"
	directEnable  = "livepatch_direct_enable_2"
	directSet     = "livepatch_direct_set_2"
	sharedEnable  = "livepatch_shared_enable_2"
	sharedSet     = "livepatch_shared_set_2"
	directVersion = 0x4c504402
)

// The records of such a module: docs/module-format.md. A record of the patch is
// at livepatch_patch, those of the functions follow each other.
const (
	recCount, recFuncs, recStride, recLeave, recNotes, recID, recIDSize, recSize = 8, 16, 24, 32, 56, 64, 72, 88
	recSite, recTrampoline, recPrev, recName, recFunc                            = 8, 16, 24, 56, 64

	// Of the shared dispatch, whose functions have no trampolines.
	recReplaces                                         = 3
	entrySite, entryReplacement, entryName, entryStride = 0, 8, 16, 32
)

// direct is what the record of a patch says beside its functions.
type direct struct {
	at          place // the record
	shared      bool  // the shared dispatch
	leave       place
	trampolines []place // by function
	records     []place
}

// isDirect reports a module that hands its patch to the base module.
func (m *module) isDirect() bool { return m.imported(directEnable) || m.imported(sharedEnable) }

// site is where the record of a function has its place.
func (d *direct) site() int64 {
	if d.shared {
		return entrySite
	}
	return recSite
}

// isBase reports the base module.
func (m *module) isBase() bool {
	return m.moduleName() == baseName && m.f.Section("__ksymtab_gpl") != nil
}

// addBase makes the exports of the base module known, and its code where it is
// given.
func (t *target) addBase() {
	for _, name := range []string{directEnable, directSet, sharedEnable, sharedSet} {
		t.exports[name] = []kimage.Export{{Name: name, CRC: directVersion, HasCRC: t.traits.versioned, GPL: true, Module: baseName}}
	}
	t.objects[baseName] = &image{name: baseName, named: func(string) []int { return nil }}
	if b := t.set.Base; b != nil {
		t.objects[baseName] = &image{name: baseName, symbols: b.Symbols, named: b.Named, file: b.Linked, module: b}
	}
}

// defined returns the place of a symbol that the module defines.
func (m *module) defined(name string) (place, bool) {
	for i, s := range m.f.Symbols {
		if i > 0 && s.Name == name && m.section(s.Section) != nil {
			return place{s.Section, s.Value}, true
		}
	}
	return place{}, false
}

// directPatch reads the records of a module that ftrace calls directly.
func (m *module) directPatch() *patch {
	p := &patch{flavour: FlavourDirect, direct: &direct{shared: m.imported(sharedEnable)}, objects: []object{{name: vmlinux}}}
	d := p.direct
	at, ok := m.defined("livepatch_patch")
	b := m.bytes(at, recSize)
	if !ok || b == nil {
		p.fault(at, "there is no record of the patch")
		return p
	}
	d.at, p.at = at, at
	var okLeave, okFuncs, okList bool
	if d.leave, okLeave = m.pointer(at.plus(recLeave)); d.shared {
		replaces := b[recReplaces] != 0
		okLeave, p.replace = true, &replaces // there is no old body to go on with: the handler leaves the call alone
	}
	first, okFuncs := m.pointer(at.plus(recFuncs))
	text, okList := m.defined("livepatch_functions")
	if okList {
		text, okList = m.pointer(text)
	}
	list, okText := m.str(text)
	if !okLeave || !okFuncs || !okList || !okText {
		p.fault(at, "the record of the patch does not lead to its functions, their names and the way back")
		return p
	}
	names := strings.Fields(list)
	n, stride := le.Uint64(b[recCount:]), le.Uint64(b[recStride:])
	if n != uint64(len(names)) || !d.shared && stride < recFunc || d.shared && stride != entryStride || stride > 1<<16 {
		p.fault(at, "the record of the patch has %d functions of %d bytes each, and %d names", n, stride, len(names))
		return p
	}
	for i, name := range names {
		if !p.spend() {
			p.fault(at, "%d functions are too many", n)
			break
		}
		m.directFunction(p, first.plus(int64(i)*int64(stride)), name)
	}
	if d.shared {
		m.sharedOrder(p)
	}
	return p
}

// sharedOrder asks whether the places ascend, for they are searched by halves.
// All are distances from one symbol.
func (m *module) sharedOrder(p *patch) {
	var last ref
	for i, at := range p.direct.records {
		r, ok := m.at(at.plus(entrySite))
		if !ok || i > 0 && (r.Symbol != last.Symbol || r.Addend <= last.Addend) {
			p.fault(at, "the place of %s is not behind that of the function before it", p.objects[0].funcs[i].name)
		}
		last = r
	}
}

// directFunction reads the record of a function, whose name is "name,position".
func (m *module) directFunction(p *patch, at place, text string) {
	f := patched{at: at}
	name, position, _ := strings.Cut(text, ",")
	pos, err := strconv.ParseUint(position, 10, 32)
	f.name, f.pos = name, pos
	d := p.direct
	nameAt := int64(recName)
	if d.shared {
		nameAt = entryName
	}
	own, ok := m.pointer(at.plus(nameAt))
	if s, okText := m.str(own); err != nil || !ok || !okText || s != name {
		p.fault(at, "the record is of %q, the list of functions says %q", s, text)
	}
	if d.shared {
		if f.to, f.ok = m.pointer(at.plus(entryReplacement)); !f.ok {
			p.fault(at, "%s has no replacement in the module", name)
		}
		d.records, p.objects[0].funcs = append(d.records, at), append(p.objects[0].funcs, f)
		return
	}
	to, ok := m.pointer(at.plus(recTrampoline))
	if !ok {
		p.fault(at, "%s has no trampoline in the module", name)
	}
	if r, there := m.at(to.plus(int64(jumpField[m.f.Machine]))); ok && there {
		if f.to, f.ok = m.to(r); f.ok && m.f.Machine == elf.EM_X86_64 {
			f.to = f.to.plus(4)
		}
	}
	if !f.ok {
		p.fault(at, "the trampoline of %s leads to no replacement", name)
	}
	d.trampolines, d.records = append(d.trampolines, to), append(d.records, at)
	p.objects[0].funcs = append(p.objects[0].funcs, f)
}

// jumpField is where a trampoline has the relocation of its jump to the
// replacement.
var jumpField = map[elf.Machine]uint64{elf.EM_X86_64: 18, elf.EM_AARCH64: 20}

// A piece is code as it has to be, its relocated fields zero, and where these
// lead: to the record of the patch, the record of the function, the
// replacement, or the return thunk.
type piece struct {
	code []byte
	refs []pieceRef
}

type pieceRef struct {
	off    uint64
	typ    uint32
	to     pieceTarget
	addend int64
}

type pieceTarget uint8

const (
	toPatch pieceTarget = iota
	toRecord
	toReplacement
	toThunk
)

// x86Pieces are the trampoline and the way back into the old function, with or
// without return thunks.
func x86Pieces(thunk bool) (trampoline, leave piece) {
	trampoline = piece{[]byte{
		0xf3, 0x0f, 0x1e, 0xfa, // endbr64
		0x80, 0x3d, 0, 0, 0, 0, 0, // cmpb $0, gate(%rip)
		0x74, 9, // je 1f
		0x48, 0x83, 0xc4, 8, // add $8, %rsp
		0xe9, 0, 0, 0, 0, // jmp replacement
		0xff, 0x35, 0, 0, 0, 0, // 1: push prev(%rip)
	}, []pieceRef{
		{6, uint32(elf.R_X86_64_PC32), toPatch, -5},
		{18, uint32(elf.R_X86_64_PLT32), toReplacement, -4},
		{24, uint32(elf.R_X86_64_PC32), toRecord, recPrev - 4},
	}}
	leave = piece{code: bytes.Clone(endbr64)}
	for _, p := range []*piece{&trampoline, &leave} {
		if !thunk {
			p.code = append(p.code, 0xc3, 0xcc) // ret; int3
			continue
		}
		p.refs = append(p.refs, pieceRef{uint64(len(p.code) + 1), uint32(elf.R_X86_64_PLT32), toThunk, -4})
		p.code = append(p.code, 0xe9, 0, 0, 0, 0, 0xcc) // jmp __x86_return_thunk; int3
	}
	return trampoline, leave
}

func arm64Pieces() (trampoline, leave piece) {
	words := func(list ...uint32) (b []byte) {
		for _, w := range list {
			b = le.AppendUint32(b, w)
		}
		return b
	}
	trampoline = piece{words(
		btiC,
		0x90000010, // adrp x16, gate
		0x39400210, // ldrb w16, [x16, :lo12:gate]
		0x34000070, // cbz w16, 1f
		0xaa0903fe, // mov x30, x9
		0x14000000, // b replacement
		0x90000010, // 1: adrp x16, prev
		0xf9400210, // ldr x16, [x16, :lo12:prev]
		0xd61f0200, // br x16
	), []pieceRef{
		{4, uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), toPatch, 0},
		{8, uint32(elf.R_AARCH64_LDST8_ABS_LO12_NC), toPatch, 0},
		{20, uint32(elf.R_AARCH64_JUMP26), toReplacement, 0},
		{24, uint32(elf.R_AARCH64_ADR_PREL_PG_HI21), toRecord, recPrev},
		{28, uint32(elf.R_AARCH64_LDST64_ABS_LO12_NC), toRecord, recPrev},
	}}
	return trampoline, piece{code: words(
		btiC,
		0xaa1e03f0, // mov x16, x30
		0xaa0903fe, // mov x30, x9
		0xd65f0200, // ret x16
	)}
}

// checkDirect asks of a module that ftrace calls directly whether each
// trampoline is what it must be, byte for byte, and whether the record leads to
// the kernel that it is for.
func (c *checker) checkDirect() {
	if c.patch == nil || c.patch.direct == nil || len(c.patch.faults) > 0 {
		return
	}
	d := c.patch.direct
	defer c.checkPinned(d)
	if d.shared {
		c.ok(whatEntry, "", "%s in a table for one handler, behind one gate", count(len(d.records), "function"))
		return
	}
	trampoline, leave := arm64Pieces()
	if c.f.Machine == elf.EM_X86_64 {
		trampoline, leave = x86Pieces(c.imported("__x86_return_thunk"))
	}
	before := c.refusals(whatEntry)
	for i, at := range d.trampolines {
		c.checkPiece(at, trampoline, d.records[i], c.patch.objects[0].funcs[i].to)
	}
	c.checkPiece(d.leave, leave, place{}, place{})
	if c.refusals(whatEntry) == before {
		c.ok(whatEntry, "", "%s with a landing pad, behind one gate", count(len(d.trampolines), "trampoline"))
	}
}

func (c *checker) checkPiece(at place, p piece, record, replacement place) {
	bad := func(format string, args ...any) {
		c.refuse(refusal.LandingPadMissing, whatEntry, c.name(at), format, args...)
	}
	if !executable(c.section(at.sec)) || !bytes.Equal(c.bytes(at, uint64(len(p.code))), p.code) {
		bad("it is not the code that ftrace has to call")
		return
	}
	refs := c.within(at, uint64(len(p.code)))
	if len(refs) != len(p.refs) {
		bad("%d fields are relocated, %d have to be", len(refs), len(p.refs))
		return
	}
	for i, r := range refs {
		want := p.refs[i]
		to, _ := c.to(r)
		s, _ := c.symbol(r.Symbol)
		ok := r.Offset == at.off+want.off && r.Type == want.typ
		switch want.to {
		case toThunk:
			ok = ok && s.Section == 0 && s.Name == "__x86_return_thunk" && r.Addend == want.addend
		case toPatch:
			ok = ok && to == c.patch.direct.at.plus(want.addend)
		case toRecord:
			ok = ok && to == record.plus(want.addend)
		case toReplacement:
			ok = ok && to == replacement.plus(want.addend)
		}
		if !ok {
			bad("the field at +%#x leads to %s%+d", r.Offset-at.off, s.Name, r.Addend)
		}
	}
}

// checkPinned asks where the record expects the kernel's build-id, and which
// sites it names.
func (c *checker) checkPinned(d *direct) {
	o := c.target.object(vmlinux)
	if o == nil || o.kernel == nil || o.file == nil {
		c.later(whatKernel, "", "no image given says whether the distances to symbols that are not exported are right")
		return
	}
	before := c.refusals(whatKernel)
	id, ok := c.pointer(d.at.plus(recID))
	n := le.Uint64(c.bytes(d.at, recSize)[recIDSize:])
	have := c.bytes(id, min(n, 64))
	if !ok || !bytes.Equal(have, o.kernel.BuildID) {
		c.refuse(refusal.WrongTarget, whatKernel, "", "the module is for build-id %x, the kernel has %x", have, o.kernel.BuildID)
	}
	if at, ok := c.kernelAddress(d.at.plus(recNotes)); !ok || !c.holds(o.file, at, o.kernel.BuildID) {
		c.refuse(refusal.WrongTarget, whatKernel, "", "the kernel has no build-id where the module looks for it")
	}
	o.readSites()
	for i, f := range c.patch.objects[0].funcs {
		_, s := c.old(vmlinux, f)
		at, ok := c.kernelAddress(d.records[i].plus(d.site()))
		if s != nil && (!ok || !o.siteIs(s, at)) {
			c.refuse(refusal.NoFtraceSite, whatKernel, f.name, "the module would redirect %#x, which is not the site of the function at %#x", at, s.Addr)
		}
	}
	if c.refusals(whatKernel) == before {
		c.ok(whatKernel, "", "the build-id and the sites are where the module looks for them")
	}
}

func (c *checker) holds(f *elfpatch.File, at uint64, want []byte) bool {
	b, ok := f.ReadAddr(at, len(want))
	return ok && len(want) > 0 && bytes.Equal(b, want)
}

// siteIs reports whether ftrace knows an address as the site of a function: on
// arm64 the table has the first instruction before it, or that before the
// function (arch/arm64/kernel/ftrace.c, ftrace_call_adjust, 6.12).
func (o *image) siteIs(s *kimage.Symbol, at uint64) bool {
	if at < s.Addr || at >= s.Addr+max(s.Size, 1) || o.noSites != "" {
		return false
	}
	table := []uint64{at}
	if o.file.Machine == elf.EM_AARCH64 {
		table = []uint64{at - 4, s.Addr - ftraceSlot}
	}
	for _, entry := range table {
		if o.hasSite(entry) {
			return o.file.Machine != elf.EM_AARCH64 || at == s.Addr+4 || at == s.Addr+8
		}
	}
	return false
}

// kernelAddress is the address in the image that a relocated pointer leads to.
func (c *checker) kernelAddress(at place) (uint64, bool) {
	r, ok := c.at(at)
	if !ok || r.Type != abs64(c.f.Machine) {
		return 0, false
	}
	return c.distance(r, 0)
}

// distance is where a relocation to an exported function of the kernel leads:
// with an addend, somewhere else in it.
func (c *checker) distance(r ref, add int64) (uint64, bool) {
	s, ok := c.symbol(r.Symbol)
	o := c.target.object(vmlinux)
	if !ok || s.Section != 0 || o == nil || o.file == nil {
		return 0, false
	}
	if e, ok := c.export(s.Name); !ok || e.Module != vmlinux {
		return 0, false
	}
	base, ok := o.addr(s.Name)
	return base + uint64(r.Addend+add), ok
}

// anchored is the function of the kernel that a module of the direct flavour
// finds by its distance from an exported one.
func (c *checker) anchored(r ref, add int64) (foreign, bool) {
	if c.patch == nil || c.patch.direct == nil || r.Addend+add == 0 {
		return foreign{}, false
	}
	at, ok := c.distance(r, add)
	if !ok {
		return foreign{}, false
	}
	k := c.target.object(vmlinux).kernel
	if k == nil {
		return foreign{}, false
	}
	for _, i := range k.At(at) {
		return foreign{vmlinux, k.Symbols[i].Name, uint64(k.Sympos(i))}, true
	}
	return foreign{}, false
}
