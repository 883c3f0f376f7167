package diff

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/refusal"
)

// refuseAll notes every reason for which the change cannot be patched.
func (c *comparison) refuseAll() {
	c.refuseData()
	c.refuseRemoved()
	c.refuseAmbiguous()
	c.refuseIndirect()
	c.refuseStartup()
	c.refuseCollected()
	c.refuseAliases()
	c.refuseCode()
	c.refuseCodeAddresses()
	if c.opt.Kernel {
		c.refuseKernel()
	}
}

// leastCommon is the share of the functions of the smaller object that must be
// in both, as a fraction: 1/leastCommon.
const leastCommon = 3

// unrelated returns a refusal for objects that share too few functions, or,
// without functions, too few variables.
func (c *comparison) unrelated() error {
	for _, kind := range []pieceKind{function, variable} {
		old, common := countNamed(c.orig, kind)
		now, _ := countNamed(c.patched, kind)
		n := min(old, now)
		if n == 0 {
			continue
		}
		if common*leastCommon >= n {
			return nil
		}
		what := "functions"
		if kind == variable {
			what = "variables"
		}
		return refusal.List{refusal.New(refusal.ObjectsUnrelated, c.opt.Name,
			"it has %d %s, the patched object has %d, and %d are in both", old, what, now, common)}
	}
	return nil
}

func countNamed(s *side, kind pieceKind) (all, common int) {
	for _, p := range s.pieces {
		if p.kind == kind && p.sym != 0 && p.parent == nil {
			all++
			if p.twin != nil {
				common++
			}
		}
	}
	return all, common
}

// refuseData refuses new initial values, sizes and kinds of live variables.
func (c *comparison) refuseData() {
	for _, b := range c.patched.pieces {
		a := b.twin
		switch {
		case b.kind == function, b.special != nil, b.ignored:
		case a == nil:
			if b.tls && b.kind == variable {
				c.refuse(refusal.TLSNew, b.name, "it is a new thread-local variable; running threads have no room for it")
			}
			c.refuseConverted(b)
		case b.live && a.size != b.size && b.kind == variable:
			c.refuse(refusal.DataResized, b.name, "its size changed from %d to %d bytes; the running copy keeps the old one", a.size, b.size)
		case b.live && c.why[b] != nil && c.holdsLabel(a):
			// refused as such
		case b.live && c.why[b] != nil:
			c.refuse(refusal.DataChanged, where(b, c.why[b].Off), "initial value changed (%s); the running copy keeps the old one", change(c.why[b]))
		case !b.live && c.why[b] != nil && b.kind == variable && c.patched.isOrphan(b) && len(c.patched.secs[b.sec].pieces) > 1:
			c.refuse(refusal.AddressAmbiguous, b.name, "the constant changed, and which code uses it cannot be told (compile with -fdata-sections)")
		case !b.live && c.why[b] != nil && b.kind == variable && !c.patched.isStatic(b) && !c.isHidden(b):
			c.refuse(refusal.DataChanged, where(b, c.why[b].Off),
				"the constant changed (%s), and other files of the target may use the running copy, which keeps the old value", change(c.why[b]))
		}
	}
}

// refuseConverted refuses a variable that was there under the same name but was
// of another kind: thread-local, writable, or constant.
func (c *comparison) refuseConverted(b *piece) {
	if b.kind != variable || b.sym == 0 || isNumbered(b.name) {
		return
	}
	for _, a := range c.removedNamed(b.name) {
		if a.live && b.live && !b.tls {
			c.refuse(refusal.DataChanged, b.name, "it was thread-local and is no longer; the running copies cannot become one")
		} else if a.live && !b.live {
			c.refuse(refusal.DataChanged, b.name, "it was writable and became constant; the running copy keeps its value")
		}
	}
}

// removedNamed lists the variables of the original object that are gone, by
// name.
func (c *comparison) removedNamed(name string) []*piece {
	if c.removed == nil {
		c.removed = map[string][]*piece{}
		for _, a := range c.orig.pieces {
			if a.kind == variable && a.twin == nil {
				c.removed[a.name] = append(c.removed[a.name], a)
			}
		}
	}
	return c.removed[name]
}

func (c *comparison) isHidden(b *piece) bool {
	v := elf.SymVis(c.patched.symbol(b).Other & 3)
	return v == elf.STV_HIDDEN || v == elf.STV_INTERNAL
}

func where(p *piece, off uint64) string {
	if off == 0 {
		return p.name
	}
	return fmt.Sprintf("%s+%#x", p.name, off)
}

func change(d *Difference) string {
	if d.In != "" {
		return fmt.Sprintf("%s: %s -> %s", d.In, d.Old, d.New)
	}
	return fmt.Sprintf("%s -> %s", d.Old, d.New)
}

// refuseRemoved refuses static variables that are gone while the state that
// they held is still wanted: by a function that stays in the target as it is,
// or, to all appearance, under another name.
func (c *comparison) refuseRemoved() {
	for _, a := range c.orig.pieces {
		if a.twin != nil || !a.live || a.kind != variable || !c.orig.isStatic(a) {
			continue
		}
		var changed, staying *piece
		for _, u := range c.orig.usersOf(a) {
			u = owner(u)
			switch {
			case u.kind != function:
			case u.twin != nil:
				changed = u
			case !c.orig.isStatic(u):
				staying = u
			}
		}
		if changed == nil {
			continue
		}
		if staying != nil {
			c.refuse(refusal.StaticRemoved, a.name, "it is gone from %s, but %s, which stays in the target, refers to it", changed.name, staying.name)
			continue
		}
		if b := c.successor(a, changed.twin); b != nil {
			c.refuse(refusal.StaticRemoved, a.name, "%s no longer refers to it but to %s, which is new; the state of the running program would be lost", changed.name, b.name)
		}
	}
}

// owner is the function that an outlined part belongs to, else the piece.
func owner(p *piece) *piece {
	if p.parent != nil {
		return p.parent
	}
	return p
}

// successor finds the new static variable that looks like a renamed one.
func (c *comparison) successor(a, user *piece) *piece {
	var found *piece
	eachUse(user, func(b *piece) {
		if b.kind == variable && b.twin == nil && b.live && b.tls == a.tls && b.size == a.size && c.patched.isStatic(b) &&
			found == nil && c.sameContents(a, b) {
			found = b
		}
	})
	return found
}

func (c *comparison) sameContents(a, b *piece) bool {
	return len(a.refs) == len(b.refs) && firstByte(c.orig.data(a), c.patched.data(b), 0, a.size) < 0
}

// refuseAmbiguous refuses guesses about static variables, unless the function
// that they were made for turned out to be the same with them.
func (c *comparison) refuseAmbiguous() {
	for _, user := range c.orig.pieces {
		if user.kind == function && user.parent == nil && c.isReplaced(user) {
			c.doubtNames(user)
		}
	}
	for _, g := range c.ambiguous {
		if g.user.twin != nil && c.why[g.user.twin] != nil {
			c.refuse(refusal.AddressAmbiguous, g.user.name,
				"it uses several static variables called %q; whether %s became %s cannot be told", stem(g.orig.name), g.orig.name, g.patched.name)
		}
	}
}

// refuseIndirect refuses changes of indirect functions: their resolvers ran
// when the target was loaded.
func (c *comparison) refuseIndirect() {
	old, now := c.orig.indirect(), c.patched.indirect()
	for _, name := range sortedKeys(now) {
		b, a := now[name], old[name]
		switch {
		case a == nil && c.originalNamed(name) != 0:
			c.refuse(refusal.IFUNCChanged, name, "it became an indirect function")
		case a == nil:
			c.refuse(refusal.IFUNCChanged, name, "it is a new indirect function; nobody would run its resolver")
		case b.twin != a:
			c.refuse(refusal.IFUNCChanged, name, "it has another resolver, %s", b.name)
		case c.why[b] != nil:
			c.refuse(refusal.IFUNCChanged, name, "its resolver %s changed (+%#x: %s); it ran when the target was loaded", b.name, c.why[b].Off, change(c.why[b]))
		}
	}
	for _, name := range sortedKeys(old) {
		if now[name] == nil && c.patchedHas(name) {
			c.refuse(refusal.IFUNCChanged, name, "it is no longer an indirect function")
		}
	}
}

func (s *side) indirect() map[string]*piece {
	all := map[string]*piece{}
	for i, sym := range s.f.Symbols {
		if sym.Type == elf.STT_GNU_IFUNC && s.bySym[i] != nil {
			all[sym.Name] = s.bySym[i]
		}
	}
	return all
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *comparison) patchedHas(name string) bool {
	return slices.ContainsFunc(c.patched.pieces, func(p *piece) bool { return p.name == name && p.sym != 0 })
}

// refuseStartup refuses new functions that run when a program starts or ends.
func (c *comparison) refuseStartup() {
	old := c.orig.startup()
	for _, name := range c.patched.startup() {
		if k := slices.Index(old, name); k >= 0 {
			old = slices.Delete(old, k, k+1)
			continue
		}
		c.refuse(refusal.Unsupported, name, "it is a new constructor or destructor, which would not run")
	}
}

// startup names the functions in the tables of constructors and destructors.
func (s *side) startup() []string {
	var names []string
	for i, sec := range s.f.Sections {
		table := sec.Type == elf.SHT_INIT_ARRAY || sec.Type == elf.SHT_FINI_ARRAY || sec.Type == elf.SHT_PREINIT_ARRAY ||
			strings.HasPrefix(sec.Name, ".ctors") || strings.HasPrefix(sec.Name, ".dtors")
		if !table {
			continue
		}
		for _, r := range s.secs[i].rels {
			ref := s.explicit(r, 0)
			s.settle(&ref)
			if ref.to != nil {
				names = append(names, stem(ref.to.name))
			} else {
				names = append(names, s.refText(&ref))
			}
		}
	}
	return names
}

// refuseCode refuses changed code that cannot be handled.
func (c *comparison) refuseCode() {
	for _, b := range c.patched.pieces {
		if b.kind != function || c.status(b) == Same {
			continue
		}
		if b.twin != nil && b.parent == nil && (b.sym == 0 || b.twin.sym == 0) {
			c.refuse(refusal.Unsupported, b.name, "code without a symbol changed")
		}
		if b.broken {
			c.refuse(refusal.Unsupported, b.name, "not all of it are instructions")
		}
	}
}
