package safety

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Unbalanced says of calls of a kernel function, by the name of what is called and
// how often, which locks they take or give back without the other: its callers count
// on that. has tells which functions the kernel has: what it has not is inlined, and
// not seen.
func Unbalanced(calls map[string]int, has func(name string) bool) (texts []string) {
	took, gave := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		row := find(kernelCalls, name)
		switch {
		case row == nil:
		case row.Role == Lock:
			took[row.Object] = name
		case row.Role == Unlock:
			gave[row.Object] = name
		}
	}
	for _, object := range slices.Sorted(maps.Keys(took)) {
		if gave[object] == "" && called(object, Unlock, has) {
			texts = append(texts, fmt.Sprintf("it takes a lock (%s) and does not give it back: its callers do, and would give back what nobody took", took[object]))
		}
	}
	for _, object := range slices.Sorted(maps.Keys(gave)) {
		if took[object] == "" && took[object+" tried"] == "" && called(object, Lock, has) {
			texts = append(texts, fmt.Sprintf("it gives back a lock (%s) that its callers took: it would stay taken", gave[object]))
		}
	}
	return texts
}

// called reports whether the kernel has functions with a role for a lock, which it
// calls then. A family of functions is known by the one that names it.
func called(object string, role Role, has func(string) bool) bool {
	for _, row := range kernelCalls {
		if row.Object == object && row.Role == role && has(strings.TrimSuffix(row.Name, "*")) {
			return true
		}
	}
	return false
}
