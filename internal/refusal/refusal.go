// Package refusal holds the reasons for which livepatch declines to act: each
// has a stable code, a place and a sentence, and the remedy for each code is
// in docs/diagnostics.md (kept in step by a test).
package refusal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Refusal says that one thing cannot be patched, where, and why.
type Refusal struct {
	Code  Code   `json:"code"`            // stable name, a row of Codes
	Where string `json:"where,omitempty"` // "object: function+0x1a4", most general first
	Text  string `json:"text"`            // one sentence, lower case, no full stop
}

func (r Refusal) Error() string {
	if r.Where == "" {
		return fmt.Sprintf("%s [%s]", r.Text, r.Code)
	}
	return fmt.Sprintf("%s: %s [%s]", r.Where, r.Text, r.Code)
}

// New makes a refusal; the text is formatted with args.
func New(code Code, where, format string, args ...any) Refusal {
	return Refusal{Code: code, Where: where, Text: fmt.Sprintf(format, args...)}
}

// List is every reason found in one run. It is an error when it is not empty;
// callers find it with errors.As and end with exit code 3.
type List []Refusal

func (l List) Error() string {
	lines := make([]string, len(l))
	for i, r := range l {
		lines[i] = r.Error()
	}
	return strings.Join(lines, "\n")
}

// Err returns the list sorted and without repeats as an error, nil when it is
// empty.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	s := slices.Clone(l)
	slices.SortStableFunc(s, func(a, b Refusal) int {
		if c := strings.Compare(a.Where, b.Where); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.Code), string(b.Code)); c != 0 {
			return c
		}
		return strings.Compare(a.Text, b.Text)
	})
	return slices.Compact(s)
}

// Of returns the refusals that an error consists of or wraps, nil if it is
// something else.
func Of(err error) List {
	var list List
	var one Refusal
	switch {
	case errors.As(err, &list):
		return list
	case errors.As(err, &one):
		return List{one}
	}
	return nil
}

// Known reports whether a code is one of Codes.
func Known(code Code) bool {
	for _, c := range Codes {
		if c.Code == code {
			return true
		}
	}
	return false
}
