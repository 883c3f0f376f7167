package types

// numbers compares the enumerations that no function leads to. Compilers describe
// those whose enumerators the code uses, and such code holds their values. Only
// enumerations with an enumerator of another value are reported.
func (c *comparison) numbers() error {
	c.user = ""
	said := map[string]bool{} // of those that a function leads to, perhaps by the name of a typedef
	for _, ch := range c.out.Changes {
		said[ch.Text] = ch.Kind == Enum
	}
	tags, names := map[string]*node{}, map[string]*node{}
	for _, r := range c.a.enums() {
		n, err := c.a.node(r)
		if err != nil {
			return err
		}
		once(tags, n.name, n)
		for _, v := range n.values {
			once(names, v.name, n)
		}
	}
	for _, r := range c.b.enums() {
		y, err := c.b.node(r)
		if err != nil {
			return err
		}
		x := counterpart(tags, names, y)
		if x == nil {
			continue
		}
		if text := moved(x, y); text != "" && !said[text] {
			c.values(x, y)
		}
	}
	return nil
}

// once keeps what a name stands for; nil if that is more than one thing.
func once(m map[string]*node, name string, n *node) {
	if _, twice := m[name]; twice {
		n = nil
	}
	m[name] = n
}

// counterpart is the enumeration before the change: that of the same name, or, as
// most in kernels have none, that with the same enumerators.
func counterpart(tags, names map[string]*node, y *node) *node {
	if y.name != "" {
		return tags[y.name]
	}
	for _, v := range y.values {
		if x := names[v.name]; x != nil && x.name == "" {
			return x
		}
	}
	return nil
}

// moved is the change of the first enumerator that has another value, other than the
// highest of both; "" if there is none.
func moved(x, y *node) string {
	old := map[string]int64{}
	for _, v := range x.values {
		old[v.name] = v.v
	}
	top := highest(x.values)
	if top != highest(y.values) {
		top = ""
	}
	for _, v := range y.values {
		if was, ok := old[v.name]; ok && was != v.v && v.name != top {
			return valueText(v.name, was, v.v)
		}
	}
	return ""
}
