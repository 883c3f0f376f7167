package types

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// The limits of one comparison. A kernel object has some 20,000 types; names and
// numbers of hostile ones end somewhere.
const (
	maxTypes   = 1 << 18
	maxChanges = 1000
)

// comparison walks two graphs in step.
type comparison struct {
	a, b  graph
	seen  map[[2]ref]bool
	queue [][2]ref
	found map[Change]bool       // without their users
	calls map[[2]ref]difference // of functions called through pointers
	out   *Result
	user  string
}

// function compares what a function uses and what can be reached from there.
func (c *comparison) function(f Func) error {
	x, err := c.a.function(f.Orig)
	if err != nil {
		return fmt.Errorf("before: %w", err)
	}
	y, err := c.b.function(f.Patched)
	if err != nil {
		return fmt.Errorf("after: %w", err)
	}
	if x == nil || y == nil {
		c.out.Unknown = append(c.out.Unknown, f.Name)
		return nil
	}
	c.user = f.Name
	if err := c.prototype(f.Name, x.proto, y.proto); err != nil {
		return err
	}
	c.push(x.proto, y.proto)
	// A variable that is in both has two types that can be compared; others were
	// or will be reached through something that is in both.
	at := map[string]ref{}
	for _, v := range x.vars {
		if _, ok := at[v.name]; !ok {
			at[v.name] = v.typ
		}
	}
	for _, v := range y.vars {
		if t, ok := at[v.name]; ok {
			if err := c.local(t, v.typ); err != nil {
				return err
			}
		}
	}
	if err := c.byTag(x.vars, y.vars); err != nil {
		return err
	}
	if err := c.globals(f); err != nil {
		return err
	}
	return c.run()
}

// local compares the types of two variables of a name if they are about the
// same thing: a new function may use the name for another one.
func (c *comparison) local(x, y ref) error {
	same, err := c.alike(x, y)
	if err == nil && same {
		c.push(x, y)
	}
	return err
}

// byTag compares the structures that variables hold or point to, by their names: where
// a fix adds a variable, its type may be one that other variables had before.
func (c *comparison) byTag(x, y []variable) error {
	tags := map[string]ref{}
	for _, v := range x {
		name, r, err := tagOf(c.a, v.typ)
		if err != nil {
			return err
		}
		if have, ok := tags[name]; ok && have != r {
			r = 0 // of two scopes
		}
		tags[name] = r
	}
	for _, v := range y {
		name, r, err := tagOf(c.b, v.typ)
		if err != nil {
			return err
		}
		if name != "" {
			c.push(tags[name], r)
		}
	}
	return nil
}

// tagOf is the named structure, union or enumeration behind pointers and arrays.
func tagOf(g graph, r ref) (string, ref, error) {
	for range maxChain {
		n, err := g.node(r)
		if err != nil {
			return "", 0, err
		}
		switch n.shape {
		case pointer, array:
			r = n.target
			continue
		case record, union, enum:
			if n.name != "" && !n.declared {
				return n.tag(), r, nil
			}
		}
		break
	}
	return "", 0, nil
}

// globals compares the variables and functions that both functions refer to.
func (c *comparison) globals(f Func) error {
	was := map[string]bool{}
	for _, name := range f.OrigUses {
		was[name] = true
	}
	for _, name := range f.PatchedUses {
		if !was[name] {
			continue
		}
		x, okX := c.a.object(name)
		y, okY := c.b.object(name)
		if !okX || !okY || x.code != y.code {
			continue
		}
		if x.code {
			if err := c.prototype(name, x.typ, y.typ); err != nil {
				return err
			}
		}
		c.push(x.typ, y.typ)
	}
	return nil
}

func (c *comparison) push(x, y ref) {
	if x == 0 || y == 0 {
		return
	}
	key := [2]ref{x, y}
	if c.seen[key] {
		return
	}
	if len(c.seen) >= maxTypes {
		c.out.Partial = fmt.Sprintf("more than %d types are reached", maxTypes)
		return
	}
	c.seen[key] = true
	c.queue = append(c.queue, key)
}

// run compares what was pushed, nearest first.
func (c *comparison) run() error {
	for len(c.queue) > 0 {
		p := c.queue[0]
		c.queue = c.queue[1:]
		x, y, err := c.nodes(p[0], p[1])
		if err != nil {
			return err
		}
		c.out.Types++
		if x.shape != y.shape {
			continue // what leads here said so
		}
		switch x.shape {
		case pointer, array:
			c.push(x.target, y.target)
		case record, union, enum:
			if x.name != y.name && x.name != "" && y.name != "" {
				continue // so it did if they are two types
			}
			if err := c.fields(x, y); err != nil {
				return err
			}
			c.values(x, y)
		case prototype:
			c.push(x.target, y.target)
			for i := range min(len(x.params), len(y.params)) {
				c.push(x.params[i], y.params[i])
			}
		}
	}
	return nil
}

// nodes returns a type of each graph.
func (c *comparison) nodes(x, y ref) (a, b *node, err error) {
	if a, err = c.a.node(x); err != nil {
		return nil, nil, err
	}
	b, err = c.b.node(y)
	return a, b, err
}

// change notes a difference, once.
func (c *comparison) change(ch Change) {
	key := ch
	key.User = ""
	switch {
	case c.found[key]:
	case len(c.out.Changes) >= maxChanges:
		c.out.Partial = fmt.Sprintf("there are more than %d changes", maxChanges)
	default:
		c.found[key] = true
		ch.User = c.user
		c.out.Changes = append(c.out.Changes, ch)
	}
}

// fields compares the layouts of two structures or unions.
func (c *comparison) fields(x, y *node) error {
	if x.declared || y.declared {
		return nil // one of them is not defined in its object
	}
	note := func(breaking bool, format string, args ...any) {
		c.change(Change{Kind: Layout, Type: y.tag(), Text: fmt.Sprintf(format, args...), Breaking: breaking})
	}
	// A name that comes twice, as in damaged files, stands for one after the other.
	old := map[string][]*field{}
	for i := range x.fields {
		f := &x.fields[i]
		old[f.name] = append(old[f.name], f)
	}
	for i := range y.fields {
		f := &y.fields[i]
		var was *field
		if list := old[f.name]; len(list) > 0 {
			was, old[f.name] = list[0], list[1:]
		}
		if was == nil {
			note(true, "%s is new at %s", f.title(), f.place())
			continue
		}
		if was.bit != f.bit {
			note(true, "%s moved from %s to %s", f.title(), was.place(), strings.TrimPrefix(f.place(), "offset "))
		}
		if was.bits != f.bits {
			note(true, "%s was %s and is %s", f.title(), was.width(), f.width())
		}
		d, err := c.differ(was.typ, f.typ)
		if err != nil {
			return err
		}
		if d != same {
			note(d == breaking, "%s was %s and is %s", f.title(), spell(c.a, was.typ), spell(c.b, f.typ))
		}
		c.push(was.typ, f.typ)
	}
	for i := range x.fields {
		if f := &x.fields[i]; slices.Contains(old[f.name], f) {
			note(true, "%s at %s is gone", f.title(), f.place())
		}
	}
	if x.size != y.size {
		note(true, "its size was %#x and is %#x", x.size, y.size)
	}
	return nil
}

func (f *field) title() string {
	if f.slot {
		return "virtual function " + f.name
	}
	return "field " + f.name
}

func (f *field) place() string {
	switch {
	case f.slot:
		return fmt.Sprintf("slot %d", f.bit)
	case f.bits != 0:
		return fmt.Sprintf("offset %#x bit %d", f.bit/8, f.bit%8)
	}
	return fmt.Sprintf("offset %#x", f.bit/8)
}

func (f *field) width() string {
	switch f.bits {
	case 0:
		return "no bit-field"
	case 1:
		return "1 bit wide"
	}
	return fmt.Sprintf("%d bits wide", f.bits)
}

// values compares two enumerations. Where the highest enumerator stays the highest
// and others are new, it counts them, and so its value is theirs to change.
func (c *comparison) values(x, y *node) {
	old := map[string][]int64{} // as of fields
	for _, v := range x.values {
		old[v.name] = append(old[v.name], v.v)
	}
	note := func(breaking bool, format string, args ...any) {
		c.change(Change{Kind: Enum, Type: y.tag(), Text: fmt.Sprintf(format, args...), Breaking: breaking})
	}
	lastX, lastY := highest(x.values), highest(y.values)
	for _, v := range y.values {
		list := old[v.name]
		if len(list) == 0 {
			note(false, "%s = %d is new", v.name, v.v)
			continue
		}
		if old[v.name] = list[1:]; list[0] != v.v {
			note(v.name != lastX || v.name != lastY, "%s", valueText(v.name, list[0], v.v))
		}
	}
	for _, v := range x.values {
		if slices.Contains(old[v.name], v.v) {
			note(false, "%s = %d is gone", v.name, v.v)
		}
	}
}

func valueText(name string, was, is int64) string {
	return fmt.Sprintf("%s was %d and is %d", name, was, is)
}

// highest is the name of the enumerator with the highest value, "" if several
// have it.
func highest(list []value) string {
	if len(list) == 0 {
		return ""
	}
	top := slices.MaxFunc(list, func(a, b value) int { return cmp.Compare(a.v, b.v) })
	n := 0
	for _, v := range list {
		if v.v == top.v {
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return top.name
}

// prototype compares two prototypes of one function.
func (c *comparison) prototype(name string, x, y ref) error {
	a, err := c.a.node(x)
	if err != nil {
		return err
	}
	b, err := c.b.node(y)
	if err != nil || a.shape != prototype || b.shape != prototype {
		return err
	}
	note := func(breaking bool, format string, args ...any) {
		c.change(Change{Kind: Prototype, Type: name, Text: fmt.Sprintf(format, args...), Breaking: breaking})
	}
	if len(a.params) != len(b.params) {
		note(true, "it took %s and takes %s", count(len(a.params)), count(len(b.params)))
	}
	if a.variadic != b.variadic {
		note(true, "it was %s and is %s", spell(c.a, x), spell(c.b, y))
	}
	if len(a.params) == len(b.params) {
		for i := range a.params {
			d, err := c.differ(a.params[i], b.params[i])
			if err != nil {
				return err
			}
			if d != same {
				note(d == breaking, "parameter %d was %s and is %s", i+1, spell(c.a, a.params[i]), spell(c.b, b.params[i]))
			}
		}
	}
	d, err := c.differ(a.target, b.target)
	if err == nil && d != same {
		note(d == breaking, "its result was %s and is %s", spell(c.a, a.target), spell(c.b, b.target))
	}
	return err
}

func count(n int) string {
	if n == 1 {
		return "1 parameter"
	}
	return fmt.Sprintf("%d parameters", n)
}

// alike reports two types that may be compared as before and after of one.
func (c *comparison) alike(x, y ref) (bool, error) {
	a, b, err := c.nodes(x, y)
	if err != nil {
		return false, err
	}
	if a.shape != b.shape {
		return false, nil
	}
	switch a.shape {
	case record, union, enum:
		return a.name == b.name, nil
	case pointer, array:
		nameA, _, err := tagOf(c.a, x)
		if err != nil {
			return false, err
		}
		nameB, _, err := tagOf(c.b, y)
		return nameA == nameB, err
	}
	return true, nil
}
