package diff

import (
	"fmt"
	"io"
	"strings"

	"livepatch/disasm"
	"livepatch/internal/refusal"
)

// Report is a Delta for readers and for JSON: what is not the same, and how
// much is. docs/diff.md describes it.
type Report struct {
	Machine   string       `json:"machine"`          // x86-64, arm64
	Kernel    bool         `json:"kernel,omitempty"` // compared by the rules of kernel objects
	Functions []FuncReport `json:"functions"`
	Data      []DataReport `json:"data"`
	Same      SameCount    `json:"same"`
	Lines     []string     `json:"lines,omitempty"`    // functions that are the same but for line numbers
	Ignored   []string     `json:"ignored,omitempty"`  // functions and sections whose changes the author wants ignored
	Warnings  []string     `json:"warnings,omitempty"` // what the author should know
	Refusals  refusal.List `json:"refusals"`           // why it cannot be patched, empty if it can
}

// FuncReport is a function that is not the same.
type FuncReport struct {
	Name    string     `json:"name"`
	Status  Status     `json:"status"`
	Size    uint64     `json:"size"`           // in the patched object; of a removed one in the original
	OldSize uint64     `json:"old_size"`       // in the original object, 0 if new
	Part    string     `json:"part,omitempty"` // the function that it is an outlined part of
	Why     *WhyReport `json:"why,omitempty"`
}

// DataReport is a variable or constant that is not the same.
type DataReport struct {
	Name   string     `json:"name"`
	Status Status     `json:"status"`
	Size   uint64     `json:"size"`
	Live   bool       `json:"live"` // the running copy stays in use
	Why    *WhyReport `json:"why,omitempty"`
}

// WhyReport is the first difference.
type WhyReport struct {
	Offset uint64 `json:"offset"`
	In     string `json:"in,omitempty"`
	Old    string `json:"old"`
	New    string `json:"new"`
}

// SameCount counts what is the same.
type SameCount struct {
	Functions int `json:"functions"`
	Data      int `json:"data"`
}

// Report makes the report of a delta.
func (d *Delta) Report() *Report {
	r := &Report{Machine: disasm.MachineName(d.Orig.Machine), Functions: []FuncReport{}, Data: []DataReport{}, Refusals: refusal.List{}}
	r.Kernel, r.Ignored, r.Warnings = d.c.opt.Kernel, d.Ignored, d.Warnings
	for _, f := range d.Funcs {
		if f.Status == Same {
			if f.Parent == 0 {
				r.Same.Functions++
			}
			if f.Lines && f.Parent == 0 {
				r.Lines = append(r.Lines, f.Name)
			}
			continue
		}
		out := FuncReport{Name: f.Name, Status: f.Status, Size: f.Size, OldSize: f.OldSize, Why: why(f.Why)}
		if f.Status == Removed {
			out.Size = f.OldSize
		}
		if f.Parent != 0 {
			out.Part = d.Patched.Symbols[f.Parent].Name
		}
		r.Functions = append(r.Functions, out)
	}
	for _, v := range d.Data {
		if v.Status == Same {
			r.Same.Data++
			continue
		}
		r.Data = append(r.Data, DataReport{v.Name, v.Status, v.Size, v.Live, why(v.Why)})
	}
	if list, ok := d.Refusals.Err().(refusal.List); ok {
		r.Refusals = list
	}
	return r
}

func why(d *Difference) *WhyReport {
	if d == nil {
		return nil
	}
	return &WhyReport{d.Off, d.In, d.Old, d.New}
}

// Nothing reports whether there is nothing to patch, and no reason against it
// either.
func (r *Report) Nothing() bool { return len(r.Functions)+len(r.Data)+len(r.Refusals) == 0 }

// Text writes the report as a table. name, which may be nil, turns a symbol
// into what is shown. Outlined parts are left out: the functions that they
// belong to are there.
func (r *Report) Text(w io.Writer, name func(string) string) error {
	if name == nil {
		name = func(s string) string { return s }
	}
	var rows [][4]string
	for _, f := range r.Functions {
		if f.Part == "" {
			rows = append(rows, [4]string{string(f.Status), name(f.Name), fmt.Sprintf("%#x bytes", f.Size), f.Why.text()})
		}
	}
	for _, v := range r.Data {
		what := "constant"
		if v.Live {
			what = "variable"
		}
		if v.Why != nil {
			what += " " + v.Why.text()
		}
		rows = append(rows, [4]string{string(v.Status), name(v.Name), fmt.Sprintf("%#x bytes", v.Size), what})
	}
	var width [3]int
	for _, row := range rows {
		for i := range width {
			width[i] = max(width[i], len(row[i]))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := fmt.Sprintf("%-7s  %-*s  %*s   %s", row[0], width[1], row[1], width[2], row[2], row[3])
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	if len(r.Lines) > 0 {
		fmt.Fprintf(&b, "%-7s  only line numbers: %s\n", "lines", list(r.Lines, name))
	}
	if len(r.Ignored) > 0 {
		fmt.Fprintf(&b, "%-7s  as the source asks: %s\n", "ignored", list(r.Ignored, name))
	}
	if r.Nothing() {
		fmt.Fprintf(&b, "nothing changed: %s, %s\n", count(r.Same.Functions, "function"), count(r.Same.Data, "data symbol"))
	} else {
		fmt.Fprintf(&b, "%-7s  %s, %s\n", Same, count(r.Same.Functions, "function"), count(r.Same.Data, "data symbol"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxListed bounds how many names a line of the report has.
const maxListed = 8

func list(names []string, name func(string) string) string {
	var shown []string
	for _, n := range names[:min(len(names), maxListed)] {
		shown = append(shown, name(n))
	}
	text := strings.Join(shown, ", ")
	if more := len(names) - maxListed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (w *WhyReport) text() string {
	if w == nil {
		return ""
	}
	d := Difference{Off: w.Offset, Old: w.Old, New: w.New, In: w.In}
	return d.String()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Text writes the report of a delta.
func (d *Delta) Text(w io.Writer) error { return d.Report().Text(w, nil) }
