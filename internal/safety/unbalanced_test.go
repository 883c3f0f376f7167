package safety

import (
	"strings"
	"testing"
)

func TestUnbalanced(t *testing.T) {
	all := func(string) bool { return true }
	for _, x := range []struct {
		calls []string
		has   func(string) bool
		want  string
	}{
		{[]string{"mutex_lock", "mutex_unlock"}, all, ""},
		{[]string{"mutex_lock", "printk"}, all, "takes a lock (mutex_lock)"},
		{[]string{"mutex_unlock"}, all, "gives back a lock (mutex_unlock)"},
		{[]string{"mutex_trylock", "mutex_unlock"}, all, ""},
		{[]string{"_raw_spin_lock"}, all, "takes a lock"},
		{[]string{"_raw_spin_lock"}, func(name string) bool { return name == "_raw_spin_lock" }, ""}, // giving back is inlined
		{[]string{"_raw_spin_lock", "_raw_read_unlock"}, all, "takes a lock"},
		{nil, all, ""},
	} {
		calls := map[string]int{}
		for _, c := range x.calls {
			calls[c]++
		}
		got := strings.Join(Unbalanced(calls, x.has), "; ")
		if x.want == "" && got != "" || !strings.Contains(got, x.want) {
			t.Errorf("%v: %q, want %q", x.calls, got, x.want)
		}
	}
}
