//go:build linux && amd64

// Package matrix patches small programs of its own, built in many ways, and
// looks at what they answer: before the patch, with it, and after it is gone.
package matrix

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// A testCase is one file of testdata, a txtar archive. Its comment tells what
// is tried, and then, in lines of "key: words":
//
//	want:   ok, or the codes with which the change must be refused
//	allow:  codes with which some ways of building are refused without need
//	skip:   tags of configurations in which the case makes no sense
//	only:   tags of which a configuration must have one
//	flags:  further flags of the compiler
//	open:   the defect for which the case fails; it runs with LIVEPATCH_OPEN only
//	partial: unit.o is unit.c and other.c, linked with -r
//
// unit.c is compiled twice: CHANGE(a,b) is a before and b after the change,
// and AFTER is defined after it; so are unit2.c, a second object of the same
// file, and lib.c, which becomes a shared library that the program needs.
// other.c does not change.
// talk has the lines "call argument -> answer" (what the call wrote comes
// before the number), "apply" and "revert".
type testCase struct {
	name                                          string
	want, allow, skip, only, flags, partial, open []string
	files                                         map[string]string
	talk                                          []string
}

func readCases(t *testing.T) []*testCase {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	var all []*testCase
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseCase(strings.TrimSuffix(filepath.Base(path), ".txtar"), b)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, c)
	}
	return all
}

func parseCase(name string, b []byte) (*testCase, error) {
	ar := txtar.Parse(b)
	c := &testCase{name: name, files: map[string]string{}}
	keys := map[string]*[]string{"want": &c.want, "allow": &c.allow, "skip": &c.skip, "only": &c.only, "flags": &c.flags, "partial": &c.partial, "open": &c.open}
	for line := range strings.Lines(string(ar.Comment)) {
		key, words, ok := strings.Cut(strings.TrimSpace(line), ":")
		if to := keys[key]; ok && to != nil {
			*to = append(*to, strings.Fields(words)...)
		}
	}
	for _, f := range ar.Files {
		c.files[f.Name] = string(f.Data)
	}
	for line := range strings.Lines(c.files["talk"]) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			c.talk = append(c.talk, line)
		}
	}
	delete(c.files, "talk")
	if len(c.want) == 0 || c.files["unit.c"] == "" || len(c.talk) == 0 {
		return nil, fmt.Errorf("it lacks want, unit.c or talk")
	}
	return c, nil
}

// ok reports whether the change has to work.
func (c *testCase) ok() bool { return c.want[0] == "ok" }

// applies reports whether the case makes sense in a configuration.
func (c *testCase) applies(f config) bool {
	tags := f.tags()
	if c.files["lib.c"] != "" && slices.Contains(tags, "anystatic") {
		return false
	}
	has := func(s string) bool { return slices.Contains(tags, s) }
	return !slices.ContainsFunc(c.skip, has) && (len(c.only) == 0 || slices.ContainsFunc(c.only, has))
}
