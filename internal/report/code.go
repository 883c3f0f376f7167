package report

import (
	"regexp"
	"strconv"

	"livepatch/elfpatch/diff"
)

// function is the section of one function that is not the same.
type function struct {
	ID            string
	Name, Mangled string
	Status        string // "changed", "new"
	Object        string
	Sizes         string // "59 → 64 bytes"
	Part          string // the function that this is an outlined part of
	Why           *why
	Notes         []string
	Path          []string // why the patch has it
	Links         []link
	Two           bool // before and after; else only one of them
	Different     int
	Blocks        []block
}

type why struct {
	At, In   string
	Old, New string
}

// link is one reference of the new code.
type link struct{ At, Type, Target, How, Why string }

// block is a stretch of a listing; what did not change is folded.
type block struct {
	Fold   string // what is folded, "" if it is open
	Chunks []chunk
}

// chunk is what a browser may leave out while it is out of sight.
type chunk struct {
	Height int
	Rows   []row
}

// row is one line of a listing.
type row struct {
	Class    string // "s" same, "p" padding, "c" changed, "r" removed, "a" added
	First    bool   // of differences that stand together
	OldAt    string
	Old      operands
	Mark     string
	NewAt    string
	New      operands
	OneSided bool
}

// operands is the text of an instruction with what differs marked.
type operands struct{ Before, Differs, After string }

func (o operands) Text() string { return o.Before + o.Differs + o.After }

const (
	context   = 4   // unchanged instructions beside a difference that are not folded
	leastFold = 6   // fewer are not worth folding
	chunkRows = 200 // of a listing that a browser lays out at once
	rowHeight = 21  // pixels, as page.css has it
)

// newFunction makes the section of a function of a comparison.
func newFunction(d *diff.Delta, f diff.Func, cut *diff.Cut) function {
	rows := d.Listing(f)
	out := function{
		Name: readable(f.Name), Mangled: other(f.Name), Status: string(f.Status),
		Sizes: sizes(f), Two: f.Status == diff.Changed || f.Status == diff.Same,
	}
	x := d.ExplainFunc(f, cut)
	if w := x.Why; w != nil {
		out.Why = &why{At: "+" + hex(w.Offset), In: readable(w.In), Old: readable(w.Old), New: readable(w.New)}
	}
	if f.Parent != 0 {
		out.Part = readable(d.Patched.Symbols[f.Parent].Name)
	}
	for _, n := range x.Notes {
		out.Notes = append(out.Notes, readable(n))
	}
	for _, step := range x.Path {
		out.Path = append(out.Path, readable(step))
	}
	for _, l := range x.Links {
		out.Links = append(out.Links, link{"+" + hex(l.Offset), l.Type, readable(l.Target), l.How, l.Why})
	}
	out.setRows(rows)
	return out
}

func sizes(f diff.Func) string {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	switch {
	case f.OldSize == 0:
		return n(f.Size) + " bytes"
	case f.Size == 0:
		return n(f.OldSize) + " bytes"
	case f.Size == f.OldSize:
		return n(f.Size) + " bytes, as before"
	}
	return n(f.OldSize) + " → " + n(f.Size) + " bytes"
}

var rowKinds = [...]struct{ class, mark string }{
	diff.RowSame: {"s", ""}, diff.RowPadding: {"p", ""}, diff.RowChanged: {"c", "≠"}, diff.RowRemoved: {"r", "−"}, diff.RowAdded: {"a", "+"},
}

// setRows folds what is far from every difference.
func (f *function) setRows(all []diff.Row) {
	same := func(r diff.Row) bool { return r.Kind == diff.RowSame || r.Kind == diff.RowPadding }
	for i := 0; i < len(all); {
		n := i
		for n < len(all) && same(all[n]) == same(all[i]) {
			n++
		}
		if !same(all[i]) && f.Two {
			f.Different += n - i
		}
		from, to := i+context, n-context // what may be folded
		if i == 0 {
			from = 0
		}
		if n == len(all) {
			to = n
		}
		if !f.Two || !same(all[i]) || to-from < leastFold {
			f.open(all[i:n])
		} else {
			f.open(all[i:from])
			f.fold(all[from:to])
			f.open(all[to:n])
		}
		i = n
	}
}

func (f *function) open(rows []diff.Row) {
	if len(rows) == 0 {
		return
	}
	if n := len(f.Blocks); n == 0 || f.Blocks[n-1].Fold != "" {
		f.Blocks = append(f.Blocks, block{})
	}
	f.put(rows)
}

func (f *function) fold(rows []diff.Row) {
	text := count(len(rows), "unchanged instruction") + ", from +" + hex(rows[0].New.Off)
	f.Blocks = append(f.Blocks, block{Fold: text})
	f.put(rows)
}

// put adds rows to the last block.
func (f *function) put(rows []diff.Row) {
	b := &f.Blocks[len(f.Blocks)-1]
	for i, r := range rows {
		if n := len(b.Chunks); n == 0 || len(b.Chunks[n-1].Rows) == chunkRows {
			b.Chunks = append(b.Chunks, chunk{})
		}
		c := &b.Chunks[len(b.Chunks)-1]
		c.Height += rowHeight
		c.Rows = append(c.Rows, f.row(r, i == 0))
	}
}

func (f *function) row(r diff.Row, first bool) row {
	kind := rowKinds[r.Kind]
	out := row{Class: kind.class, Mark: kind.mark, OneSided: !f.Two}
	out.First = first && f.Two && r.Kind != diff.RowSame && r.Kind != diff.RowPadding
	old, now := readable(r.Old.Text), readable(r.New.Text)
	if r.Kind == diff.RowChanged {
		out.Old, out.New = marked(old, now)
	} else {
		out.Old.Before, out.New.Before = old, now
	}
	if old != "" {
		out.OldAt = strconv.FormatUint(r.Old.Off, 16)
	}
	if now != "" {
		out.NewAt = strconv.FormatUint(r.New.Off, 16)
	}
	return out
}

// tokens are what a difference of two instructions is told by.
var tokens = regexp.MustCompile(`[0-9A-Za-z_.$%]+|\s+|.`)

// marked splits two texts where they begin and end to differ. If they are the
// same, both refer to something without a name, such as a table of a switch.
func marked(old, now string) (operands, operands) {
	if old == now {
		return operands{Differs: old}, operands{Differs: now, After: " (what it refers to differs)"}
	}
	x, y := tokens.FindAllString(old, -1), tokens.FindAllString(now, -1)
	head := 0
	for head < len(x) && head < len(y) && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < len(x)-head && tail < len(y)-head && x[len(x)-1-tail] == y[len(y)-1-tail] {
		tail++
	}
	return split(x, head, tail), split(y, head, tail)
}

func split(t []string, head, tail int) operands {
	join := func(t []string) (s string) {
		for _, x := range t {
			s += x
		}
		return s
	}
	return operands{join(t[:head]), join(t[head : len(t)-tail]), join(t[len(t)-tail:])}
}
