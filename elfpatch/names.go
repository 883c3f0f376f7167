package elfpatch

import (
	"bytes"
	"sort"
	"strings"
)

// names builds a string table in which a name that ends another is kept once,
// as linkers do.
type names struct {
	fixed  []byte // contents that keep their place, nil for a fresh table
	list   []string
	offset map[string]uint32
}

// name is one string of the table to be.
type name struct {
	text string
	at   int // its place, -1 while it has none
	host int // the name in whose tail it is kept, itself if in none
}

func (n *names) add(s string) {
	if n.offset == nil {
		n.offset = map[string]uint32{}
	}
	if _, ok := n.offset[s]; !ok {
		n.offset[s] = 0
		n.list = append(n.list, s)
	}
}

// at returns the place of a name in the table that build made.
func (n *names) at(s string) uint32 { return n.offset[s] }

// build returns the table. Names stand in the order in which they were added.
func (n *names) build() []byte {
	all := make([]name, 0, len(n.list))
	for _, s := range n.list {
		all = append(all, name{text: s, at: -1})
	}
	out := bytes.Clone(n.fixed)
	for at := 0; at < len(out); {
		end := bytes.IndexByte(out[at:], 0)
		if end < 0 { // the last name is not ended
			end = len(out) - at
			out = append(out, 0)
		}
		all = append(all, name{text: string(out[at : at+end]), at: at})
		at += end + 1
	}
	if len(out) == 0 {
		out = append(out, 0)
	}
	findHosts(all)
	for i := range n.list {
		if s := &all[i]; s.host == i && s.text != "" {
			s.at = len(out)
			out = append(append(out, s.text...), 0)
		}
	}
	for i, s := range n.list {
		h := &all[all[i].host]
		n.offset[s] = uint32(h.at + len(h.text) - len(s))
	}
	if _, ok := n.offset[""]; ok {
		n.offset[""] = uint32(bytes.IndexByte(out, 0))
	}
	return out
}

// findHosts sorts by reversed text, so that a name stands right before those
// that it ends, and those with a place behind their equals.
func findHosts(all []name) {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool {
		x, y := &all[order[a]], &all[order[b]]
		if c := compareReversed(x.text, y.text); c != 0 {
			return c < 0
		}
		if (x.at < 0) != (y.at < 0) {
			return x.at < 0
		}
		return order[a] < order[b]
	})
	for k := len(order) - 1; k >= 0; k-- {
		s := &all[order[k]]
		s.host = order[k]
		if k+1 < len(order) && s.at < 0 && strings.HasSuffix(all[order[k+1]].text, s.text) {
			s.host = all[order[k+1]].host
		}
	}
}

func compareReversed(a, b string) int {
	for i := 1; i <= len(a) && i <= len(b); i++ {
		if x, y := a[len(a)-i], b[len(b)-i]; x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}
