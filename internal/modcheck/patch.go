package modcheck

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
)

// Flavours of livepatch modules: how they hold the list of what they patch.
const (
	FlavourStatic = "static"  // struct klp_patch and what it leads to are data of the module (the kernel's samples, livepatch)
	FlavourInTree = "in-tree" // struct klp_object_ext in .init.klp_objects, made into klp_patch by init (klp-build, 6.19 and newer)
	FlavourKpatch = "kpatch"  // records in .kpatch.funcs, made into klp_patch by init (kpatch-build)
)

// patch is what a module tells the livepatch core, however it is stored.
type patch struct {
	flavour string
	at      place // of struct klp_patch, or of the first record
	replace *bool // nil where init decides it
	objects []object
	states  []State
	faults  []fault // what is wrong with the structures
	read    int     // elements of arrays so far
}

// spend counts an element of an array and reports whether there may be more.
// Arrays of hostile files lead to each other.
func (p *patch) spend() bool {
	p.read++
	return p.read <= maxElements
}

type object struct {
	name  string // "vmlinux", or of a module
	at    place
	funcs []patched
	calls []callback
}

// patched is one klp_func.
type patched struct {
	name string
	pos  uint64
	to   place // its replacement
	ok   bool  // to is known
	at   place // of the structure
}

type callback struct {
	kind string
	to   place
	ok   bool
	at   place
}

type fault struct {
	at   place
	text string
}

func (p *patch) fault(at place, format string, args ...any) {
	p.faults = append(p.faults, fault{at, fmt.Sprintf(format, args...)})
}

// A layout has the sizes and offsets of the livepatch core's structures.
type layout struct {
	patch, object, fn, state int64 // sizes
	known                    bool  // from the target, not the usual ones
}

// usual is the layout of the x86-64 and arm64 kernels of Debian and, by their
// configuration, of most others; the members that a module fills have had the
// same offsets since 5.4 (include/linux/livepatch.h).
var usual = layout{patch: 200, object: 168, fn: 152, state: 24}

// Offsets of the members that a module fills.
const (
	patchMod, patchObjs, patchStates, patchReplace, patchFilled = 0, 8, 16, 24, 25
	objName, objFuncs, objCallbacks, objPostEnabled, objFilled  = 0, 8, 16, 48, 48
	fnName, fnNew, fnPos, fnFilled                              = 0, 8, 16, 24
	stateID, stateVersion                                       = 0, 8
)

// The external structures: include/linux/livepatch_external.h, 6.19.
const (
	extFuncSize                                             = 24
	extObjectSize                                           = 64
	extName, extFuncs, extCallbacks, extPostEnabled, extNum = 0, 8, 16, 48, 56
)

// The records of the old tool: 56 bytes a function, 16 a callback.
const (
	kpatchSize                                     = 56
	kpatchNew, kpatchPos, kpatchName, kpatchObject = 0, 32, 40, 48
	kpatchCallbackSize                             = 16
)

// callbackKinds are in the order of struct klp_callbacks.
var callbackKinds = []string{"pre_patch", "post_patch", "pre_unpatch", "post_unpatch"}

// maxElements bounds the arrays of a patch.
const maxElements = 1 << 16

// findPatch finds what the module patches; nil if it describes nothing.
func (m *module) findPatch(l layout) *patch {
	if s := m.f.Section(".kpatch.funcs"); s != nil {
		return m.kpatchPatch(s)
	}
	for _, name := range []string{".init.klp_objects", "__klp_objects"} {
		if s := m.f.Section(name); s != nil {
			return m.inTreePatch(s)
		}
	}
	at, ok := m.findStatic()
	if !ok {
		return nil
	}
	return m.staticPatch(at, l)
}

// findStatic finds struct klp_patch: a pointer to the module itself with a
// pointer to objects behind it. Where several places look like that, the one that code
// refers to is meant.
func (m *module) findStatic() (place, bool) {
	var found []place
	for _, r := range m.relas {
		if r.target == nil || r.target.Flags&elf.SHF_ALLOC == 0 || r.target.Flags&elf.SHF_EXECINSTR != 0 || r.target.Name == thisModule {
			continue
		}
		for _, e := range r.entries {
			if e.Type != abs64(m.f.Machine) || !m.isThisModule(ref{e, r}) {
				continue
			}
			at := place{r.target.Index, e.Offset}
			if objs, ok := m.pointer(at.plus(patchObjs)); ok && m.isObject(objs) {
				found = append(found, at)
			}
		}
	}
	switch len(found) {
	case 0:
		return place{}, false
	case 1:
		return found[0], true
	}
	return m.usedByCode(found), true
}

func (p place) plus(n int64) place { return place{p.sec, p.off + uint64(n)} }

func (m *module) isThisModule(r ref) bool {
	to, ok := m.to(r)
	return ok && to.off == 0 && m.section(to.sec).Name == thisModule
}

func (m *module) isObject(at place) bool {
	funcs, ok := m.pointer(at.plus(objFuncs))
	return ok && (m.isFunc(funcs) || m.hasCallback(at) && m.zero(funcs.plus(fnName), 8) && m.zero(funcs.plus(fnNew), 8))
}

// hasCallback reports whether one of an object's callbacks leads to code: an
// object may have nothing else.
func (m *module) hasCallback(at place) bool {
	for i := range int64(len(callbackKinds)) {
		if to, ok := m.pointer(at.plus(objCallbacks + 8*i)); ok && executable(m.section(to.sec)) {
			return true
		}
	}
	return false
}

// isFunc reports a klp_func: a pointer to a name and one to code.
func (m *module) isFunc(at place) bool {
	name, ok := m.pointer(at.plus(fnName))
	if !ok {
		return false
	}
	if _, ok := m.str(name); !ok {
		return false
	}
	to, ok := m.pointer(at.plus(fnNew))
	return ok && executable(m.section(to.sec))
}

// usedByCode returns the first of some places that code of the module refers
// to, as far as the addends of the usual instructions tell: the field of an instruction
// ends it, or bytes of another operand follow. Else it returns the first.
func (m *module) usedByCode(places []place) place {
	used := map[place]bool{}
	for _, p := range places {
		used[p] = false
	}
	for _, r := range m.relas {
		if !executable(r.target) {
			continue
		}
		for _, e := range r.entries {
			to, ok := m.to(ref{e, r})
			for _, n := range []int64{0, 4, 5, 6, 8} {
				if _, one := used[to.plus(n)]; ok && one {
					used[to.plus(n)] = true
				}
			}
		}
	}
	for _, p := range places {
		if used[p] {
			return p
		}
	}
	return places[0]
}

func (m *module) staticPatch(at place, l layout) *patch {
	p := &patch{flavour: FlavourStatic, at: at}
	if b := m.bytes(at.plus(patchReplace), 1); b == nil {
		p.fault(at, "struct klp_patch does not fit its section")
	} else {
		replace := b[0] != 0
		p.replace = &replace
		if b[0] > 1 {
			p.fault(at, "replace is %d", b[0])
		}
	}
	m.checkRest(p, at, patchFilled, l.patch)
	if first, ok := m.pointer(at.plus(patchObjs)); ok {
		m.staticObjects(p, first, l)
	} else {
		p.fault(at, "objs is no pointer")
	}
	if first, ok := m.pointer(at.plus(patchStates)); ok {
		m.staticStates(p, first, l)
	} else if !m.zero(at.plus(patchStates), 8) {
		p.fault(at, "states is no pointer")
	}
	return p
}

// stride returns the distance of array elements: that of the target, else the
// usual one unless relocations behind the first element show another.
func (m *module) stride(first place, usual int64, known bool, is func(place) bool) int64 {
	if known || len(m.within(first.plus(usual), uint64(usual))) > 0 && is(first.plus(usual)) {
		return usual
	}
	for d := int64(64); d < 2*usual; d += 8 {
		if is(first.plus(d)) {
			return d
		}
	}
	return usual
}

func (m *module) staticObjects(p *patch, first place, l layout) {
	size := m.stride(first, l.object, l.known, m.isObject)
	for i := int64(0); ; i++ {
		at := first.plus(i * size)
		funcs, hasFuncs := m.pointer(at.plus(objFuncs))
		name, hasName := m.pointer(at.plus(objName))
		if m.bytes(at, uint64(size)) == nil || !p.spend() {
			p.fault(first, "the array of objects has no end")
			return
		}
		if !hasFuncs && !hasName {
			if !m.zero(at, 16) {
				p.fault(at, "object %d has neither name nor functions, but is not the end of the array either", i)
			}
			return
		}
		o := object{name: vmlinux, at: at}
		if hasName {
			o.name = m.text(p, at, name, "the name of an object")
			if o.name == vmlinux {
				p.fault(at, "an object is named vmlinux; the kernel itself has no name")
			}
		} else if !m.zero(at.plus(objName), 8) {
			p.fault(at, "the name of object %d is no pointer", i)
		}
		if hasFuncs {
			o.funcs = m.staticFuncs(p, funcs, l)
		} else {
			p.fault(at, "object %s has no array of functions", o.name)
		}
		m.callbacks(p, &o, at.plus(objCallbacks))
		m.checkRest(p, at, objFilled, size)
		p.objects = append(p.objects, o)
	}
}

// text reads a string that a structure points to.
func (m *module) text(p *patch, at, str place, what string) string {
	s, ok := m.str(str)
	if !ok {
		p.fault(at, "%s has no end", what)
	} else if s == "" {
		p.fault(at, "%s is empty", what)
	}
	return s
}

func (m *module) staticFuncs(p *patch, first place, l layout) []patched {
	var list []patched
	size := m.stride(first, l.fn, l.known, m.isFunc)
	for i := int64(0); ; i++ {
		at := first.plus(i * size)
		b := m.bytes(at, uint64(size))
		if b == nil || !p.spend() {
			p.fault(first, "an array of functions has no end")
			return list
		}
		refs := m.within(at, fnFilled)
		if len(refs) == 0 && m.zero(at, fnFilled) {
			return list
		}
		list = append(list, m.patched(p, at))
		m.checkRest(p, at, fnFilled, size)
	}
}

// patched reads name, function and position, which begin klp_func and
// klp_func_ext alike.
func (m *module) patched(p *patch, at place) patched {
	f := patched{at: at, pos: le.Uint64(m.bytes(at.plus(fnPos), 8))}
	if name, ok := m.pointer(at.plus(fnName)); ok {
		f.name = m.text(p, at, name, "the name of a function")
	} else {
		p.fault(at, "a function has no name")
	}
	f.to, f.ok = m.pointer(at.plus(fnNew))
	if !f.ok {
		p.fault(at, "%s has no replacement in the module", f.name)
	}
	if _, ok := m.at(at.plus(fnPos)); ok {
		p.fault(at, "the position of %s is relocated", f.name)
	}
	return f
}

func (m *module) callbacks(p *patch, o *object, at place) {
	for i, kind := range callbackKinds {
		field := at.plus(int64(8 * i))
		if to, ok := m.pointer(field); ok {
			o.calls = append(o.calls, callback{kind, to, true, field})
		} else if _, ok := m.at(field); ok || !m.zero(field, 8) {
			o.calls = append(o.calls, callback{kind: kind, at: field})
			p.fault(field, "the %s callback of %s is no function of the module", kind, o.name)
		}
	}
}

func (m *module) staticStates(p *patch, first place, l layout) {
	seen := map[uint64]bool{}
	for i := int64(0); ; i++ {
		at := first.plus(i * l.state)
		b := m.bytes(at, uint64(l.state))
		if b == nil || !p.spend() {
			p.fault(first, "the array of states has no end")
			return
		}
		if _, ok := m.at(at.plus(stateID)); ok {
			p.fault(first, "the array of states has no end; what follows is read as a state")
			return
		}
		id := le.Uint64(b[stateID:])
		if id == 0 {
			return
		}
		if seen[id] {
			p.fault(at, "state %d is there twice", id)
			return
		}
		seen[id] = true
		p.states = append(p.states, State{id, le.Uint32(b[stateVersion:])})
	}
}

// checkRest reports members that the core fills and the module must leave zero.
func (m *module) checkRest(p *patch, at place, from, size int64) {
	if size <= from {
		return
	}
	if m.bytes(at, uint64(size)) == nil {
		p.fault(at, "a structure of %d bytes leaves its section", size)
	} else if !m.zero(at.plus(from), uint64(size-from)) || len(m.within(at.plus(from), uint64(size-from))) > 0 {
		p.fault(at, "members behind byte %d are not zero; they are the kernel's", from)
	}
}

func (m *module) zero(at place, size uint64) bool {
	for _, c := range m.bytes(at, size) {
		if c != 0 {
			return false
		}
	}
	return true
}

func (m *module) inTreePatch(s *elfpatch.Section) *patch {
	p := &patch{flavour: FlavourInTree, at: place{s.Index, 0}}
	if s.Size%extObjectSize != 0 || s.Size == 0 {
		p.fault(p.at, "%d bytes are no whole number of objects of %d", s.Size, extObjectSize)
	}
	for off := uint64(0); off+extObjectSize <= uint64(len(s.Data)) && p.spend(); off += extObjectSize {
		at := place{s.Index, off}
		o := object{name: vmlinux, at: at}
		if name, ok := m.pointer(at.plus(extName)); ok {
			o.name = m.text(p, at, name, "the name of an object")
		}
		n := int64(le.Uint32(s.Data[off+extNum:]))
		first, ok := m.pointer(at.plus(extFuncs))
		if !ok || n == 0 {
			p.fault(at, "object %s has no functions", o.name)
			n = 0
		}
		for i := int64(0); i < n; i++ {
			fn := first.plus(i * extFuncSize)
			if m.bytes(fn, extFuncSize) == nil || !p.spend() {
				p.fault(at, "object %s has %d functions, but not the room for them", o.name, n)
				break
			}
			o.funcs = append(o.funcs, m.patched(p, fn))
		}
		m.callbacks(p, &o, at.plus(extCallbacks))
		if !m.zero(at.plus(extPostEnabled), 1) {
			p.fault(at, "post_unpatch_enabled of object %s is set; it is the kernel's", o.name)
		}
		p.objects = append(p.objects, o)
	}
	return p
}

func (m *module) kpatchPatch(s *elfpatch.Section) *patch {
	p := &patch{flavour: FlavourKpatch, at: place{s.Index, 0}}
	if s.Size%kpatchSize != 0 {
		p.fault(p.at, "%d bytes are no whole number of records of %d", s.Size, kpatchSize)
	}
	objects := map[string]int{}
	find := func(name string, at place) *object {
		i, ok := objects[name]
		if !ok {
			i = len(p.objects)
			objects[name] = i
			p.objects = append(p.objects, object{name: name, at: at})
		}
		return &p.objects[i]
	}
	for off := uint64(0); off+kpatchSize <= uint64(len(s.Data)); off += kpatchSize {
		at := place{s.Index, off}
		f := patched{at: at, pos: le.Uint64(s.Data[off+kpatchPos:])}
		f.name = m.kpatchString(p, at, kpatchName, "the name of a function")
		owner := m.kpatchString(p, at, kpatchObject, "the name of an object")
		if f.to, f.ok = m.pointer(at.plus(kpatchNew)); !f.ok {
			p.fault(at, "%s has no replacement in the module", f.name)
		}
		o := find(owner, at)
		o.funcs = append(o.funcs, f)
	}
	for _, kind := range callbackKinds {
		s := m.f.Section(".kpatch.callbacks." + kind)
		if s == nil {
			continue
		}
		for off := uint64(0); off+kpatchCallbackSize <= uint64(len(s.Data)); off += kpatchCallbackSize {
			at := place{s.Index, off}
			c := callback{kind: kind, at: at}
			if c.to, c.ok = m.pointer(at); !c.ok {
				p.fault(at, "a %s callback is no function of the module", kind)
			}
			o := find(m.kpatchString(p, at, 8, "the name of an object"), at)
			if slices.ContainsFunc(o.calls, func(x callback) bool { return x.kind == kind }) {
				p.fault(at, "object %s has two %s callbacks", o.name, kind)
			}
			o.calls = append(o.calls, c)
		}
	}
	return p
}

func (m *module) kpatchString(p *patch, at place, off int64, what string) string {
	to, ok := m.pointer(at.plus(off))
	if !ok {
		p.fault(at, "%s is missing", what)
		return ""
	}
	return m.text(p, at, to, what)
}

// replacements are all places that the kernel is told to run.
func (p *patch) replacements() []place {
	var list []place
	for _, o := range p.objects {
		for _, f := range o.funcs {
			if f.ok {
				list = append(list, f.to)
			}
		}
	}
	return list
}

func (p *patch) object(name string) bool {
	return slices.ContainsFunc(p.objects, func(o object) bool { return o.name == name })
}

func splitSymbol(name string) (object, symbol string, pos string, ok bool) {
	rest, ok := strings.CutPrefix(name, klpSym)
	if !ok {
		return "", "", "", false
	}
	object, rest, ok = strings.Cut(rest, ".")
	if !ok {
		return "", "", "", false
	}
	i := strings.IndexByte(rest, ',')
	if i < 0 {
		return "", "", "", false
	}
	return object, rest[:i], rest[i+1:], true
}
