// Package safety says what a reviewer has to know about a change that can be
// patched: what of it may be wrong in a running program although every byte of the
// patch is right. docs/safety.md has the rules.
package safety

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/refusal"
)

// Level is what follows from a finding.
type Level uint8

const (
	Note   Level = iota // for the record
	Warn                // somebody has to think about it
	Refuse              // no package, unless it is allowed
)

// A Finding is one thing about the change.
type Finding struct {
	Code  refusal.Code
	Level Level
	Where string // "object: function+0x1a4"
	Text  string // a sentence, lower case, no full stop
}

// Refusal is the finding as a reason against the patch.
func (f Finding) Refusal() refusal.Refusal {
	return refusal.Refusal{Code: f.Code, Where: f.Where, Text: f.Text}
}

// A Pair is one object before and after, and what is known around it.
type Pair struct {
	Name  string // of the object
	Delta *diff.Delta

	// Others are the names of global functions that other pairs of the patch
	// change. Their callers are judged there.
	Others map[string]bool

	// Debug is the target, or its separate debug file: where functions are
	// inlined is read from it. Nil for nothing.
	Debug *elfpatch.File

	Kernel  bool // the objects are a kernel's
	Untyped bool // the objects never had types, so there is nothing to say of them
}

// Judge returns the findings about a pair, in the order of the functions. Damaged
// type information is a finding, not an error.
func Judge(p Pair) []Finding {
	j := &judge{Pair: p}
	j.functions()
	if !j.Untyped {
		j.types()
	}
	j.inlined()
	for _, c := range j.changed {
		j.calls(c)
		j.atomic(c)
		j.stays(c)
	}
	j.addresses()
	j.initData()
	j.data()
	slices.SortStableFunc(j.out, func(a, b Finding) int { return cmp.Compare(b.Level, a.Level) })
	return slices.Compact(j.out)
}

// judge collects the findings about a pair.
type judge struct {
	Pair
	changed []diff.Func
	single  [2]map[int]bool // by diff.Object: functions that only this object has
	taken   map[int]string  // functions of the before object whose address is taken, and where
	out     []Finding
}

const maxText = 1000

func (j *judge) add(level Level, code refusal.Code, where, format string, args ...any) {
	text := clean(fmt.Sprintf(format, args...))
	j.out = append(j.out, Finding{Code: code, Level: level, Where: clean(j.Name + ": " + where), Text: text})
}

// clean makes names of damaged files fit for messages and the manifest.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
