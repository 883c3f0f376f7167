//go:build linux && amd64

package test

import (
	"fmt"
	"testing"
	"time"

	"livepatch/internal/demo"
)

// teller collects the story of the demo.
type teller struct{ t *testing.T }

func (s teller) line(verb, format string, args []any) {
	s.t.Logf("%-7s %s", verb, fmt.Sprintf(format, args...))
}
func (s teller) Step(verb, format string, args ...any) { s.line(verb, format, args) }
func (s teller) Good(verb, format string, args ...any) { s.line(verb, format, args) }
func (s teller) Bad(verb, format string, args ...any)  { s.line(verb, format, args) }

// The demo checks itself; it takes less than five seconds where nothing else
// runs.
func TestDemo(t *testing.T) {
	start := time.Now()
	if err := demo.Run(t.Context(), "test", teller{t}); err != nil {
		t.Fatal(err)
	}
	t.Logf("took %v", time.Since(start))
}
