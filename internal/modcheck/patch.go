package modcheck

import (
	"fmt"
	"slices"
	"strings"

	"livepatch/elfpatch"
)

// Flavours of livepatch modules: how they hold the list of what they patch.
const (
	FlavourStatic = "static"  // struct klp_patch and what it leads to are data of the module (the kernel's samples, livepatch)
	FlavourInTree = "in-tree" // struct klp_object_ext in .init.klp_objects, made into klp_patch by init (klp-build, 6.19 and newer)
	FlavourDirect = "direct"  // records of the module's own, for the base module of livepatch, which has ftrace call the replacements directly
	FlavourBase   = "base"    // that base module, which patches nothing itself
	FlavourKpatch = "kpatch"  // records in .kpatch.funcs, made into klp_patch by init (kpatch-build)
)

// patch is what a module tells the livepatch core, however it is stored.
type patch struct {
	flavour string
	at      place // of struct klp_patch, or of the first record
	replace *bool // nil where init decides it
	objects []object
	states  []State
	direct  *direct
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
	if m.isDirect() {
		return m.directPatch()
	}
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

func (p place) plus(n int64) place { return place{p.sec, p.off + uint64(n)} }

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
