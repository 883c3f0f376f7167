package build

import (
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
)

// Holds tells how many functions of an object, compiled as the target's own
// build does, the target holds, and of how many. A program that was linked
// from the object holds nearly all; the linker may have left some out.
func Holds(object *elfpatch.File, t *Target) (held, of int, err error) {
	var funcs []int
	for i, sym := range object.Symbols {
		if sym.Type == elf.STT_FUNC && sym.Section != elfpatch.Undefined && sym.Size > 0 && !strings.Contains(sym.Name, ".cold") {
			funcs = append(funcs, i)
		}
	}
	if len(funcs) == 0 {
		return 0, 0, nil
	}
	_, err = match.Prove(object, funcs, t.File, t.Debug, match.Options{Target: t.Name})
	var list refusal.List
	switch {
	case err == nil:
		return len(funcs), len(funcs), nil
	case !errors.As(err, &list):
		return 0, 0, err
	}
	not := map[string]bool{}
	for _, r := range list {
		name := r.Where[strings.LastIndex(r.Where, ": ")+1:]
		name, _, _ = strings.Cut(strings.TrimSpace(name), "+")
		not[name] = true
	}
	return max(len(funcs)-len(not), 0), len(funcs), nil
}

// Differs tells whether a pair of objects differs in anything that a program
// could notice.
func Differs(p Pair) (bool, error) {
	delta, err := diff.Compare(p.Orig, p.Patched, diff.Options{Name: p.OrigName, Lines: p.Lines})
	if err != nil {
		return false, fmt.Errorf("compare %s before and after: %w", p.OrigName, err)
	}
	return delta.Changed() || len(delta.Refusals) > 0, nil
}
