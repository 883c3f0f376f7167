package modcheck

import (
	"debug/elf"
)

// A layout has the sizes and offsets of the livepatch core's structures.
type layout struct {
	patch, object, fn, state int64 // sizes
	known                    bool  // from the target, not the usual ones
}

// usual is the layout of the x86-64 and arm64 kernels of Debian and, by their
// configuration, of most others; the members that a module fills have had the
// same offsets since 5.4 (include/linux/livepatch.h).
var usual = layout{patch: 200, object: 168, fn: 152, state: 24}

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
