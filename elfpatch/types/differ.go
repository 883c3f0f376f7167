package types

import "slices"

// difference is how far two types of one thing are apart, by their names. What
// they are made of is compared by itself.
type difference uint8

const (
	same     difference = iota
	reworded            // the bytes mean the same
	breaking
)

// differ compares two types as the type of a field or parameter.
func (c *comparison) differ(x, y ref) (difference, error) { return c.differAt(x, y, 0) }

// differAt is differ behind a number of pointers; those of a damaged file may lead to
// each other for ever.
func (c *comparison) differAt(x, y ref, depth int) (difference, error) {
	if depth > maxChain {
		return same, nil
	}
	for range maxChain {
		a, b, err := c.nodes(x, y)
		if err != nil {
			return same, err
		}
		switch {
		case a.shape == opaque || b.shape == opaque:
			return same, nil
		case a.shape != b.shape:
			return crossed(a, b), nil
		}
		switch a.shape {
		case base:
			return scalar(a, b), nil
		case pointer:
			if (a.word != "") != (b.word != "") {
				return reworded, nil // a reference is passed as a pointer is
			}
			return c.pointees(a.target, b.target, depth+1)
		case array:
			if !slices.Equal(a.counts, b.counts) {
				return breaking, nil
			}
			x, y = a.target, b.target
			continue
		case record, union, enum:
			if a.name != b.name || a.word != b.word && a.shape == enum {
				return renamed(a, b), nil
			}
		}
		return same, nil
	}
	return same, nil
}

// pointees compares what two pointers lead to: void, characters and what is not
// defined fit all.
func (c *comparison) pointees(x, y ref, depth int) (difference, error) {
	a, b, err := c.nodes(x, y)
	if err != nil {
		return same, err
	}
	switch {
	case a.shape == void != (b.shape == void):
		return reworded, nil
	case a.shape == prototype && b.shape == prototype:
		key := [2]ref{x, y}
		if d, ok := c.calls[key]; ok {
			return d, nil
		}
		c.calls[key] = same // parameters of damaged files lead back here
		d, err := c.signature(a, b, depth)
		c.calls[key] = d
		return d, err
	}
	return c.differAt(x, y, depth)
}

// signature compares the types of two functions that are called through a
// pointer.
func (c *comparison) signature(a, b *node, depth int) (difference, error) {
	if len(a.params) != len(b.params) || a.variadic != b.variadic {
		return breaking, nil
	}
	worst := same
	for i := range a.params {
		d, err := c.flat(a.params[i], b.params[i], depth+1)
		if err != nil {
			return same, err
		}
		worst = max(worst, d)
	}
	d, err := c.flat(a.target, b.target, depth+1)
	return max(worst, d), err
}

// flat is differ for parameters of a function pointer. It does not follow pointers
// once more, so that it ends.
func (c *comparison) flat(x, y ref, depth int) (difference, error) {
	a, b, err := c.nodes(x, y)
	if err != nil {
		return same, err
	}
	if a.shape == pointer && b.shape == pointer {
		return same, nil
	}
	return c.differAt(x, y, depth)
}

// crossed compares types of different shapes: numbers and enumerations of one
// size are passed and stored alike.
func crossed(a, b *node) difference {
	number := func(n *node) bool { return n.shape == base && !isFloat(n) || n.shape == enum }
	if number(a) && number(b) && a.size == b.size {
		return reworded
	}
	return breaking
}

// Encodings of base types: DWARF 5, 7.8.
const (
	encBool         = 2
	encComplexFloat = 3
	encFloat        = 4
)

func isFloat(n *node) bool { return n.encoding == encFloat || n.encoding == encComplexFloat }

// scalar compares two base types.
func scalar(a, b *node) difference {
	switch {
	case a.size != b.size || isFloat(a) != isFloat(b) || (a.encoding == encComplexFloat) != (b.encoding == encComplexFloat):
		return breaking
	case a.encoding != b.encoding:
		return reworded
	}
	return same // long and long long
}

// renamed compares types of different names: what their fields are is the same
// question as for one that changed, so only the size is looked at where the name is the only
// difference that there is.
func renamed(a, b *node) difference {
	if a.declared || b.declared || a.name == "" || b.name == "" {
		return same
	}
	if a.shape == enum && a.size == b.size {
		return reworded
	}
	if slices.EqualFunc(a.fields, b.fields, func(x, y field) bool { return x.name == y.name && x.bit == y.bit && x.bits == y.bits }) && a.size == b.size {
		return reworded
	}
	return breaking
}
