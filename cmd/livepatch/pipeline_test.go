package main

import (
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// extract writes the files that a document shows: fenced blocks whose first line
// is "# file: NAME". extract DOCUMENT
func extract(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: extract DOCUMENT")
	}
	n := 0
	for i, block := range strings.Split(ts.ReadFile(args[0]), "```") {
		_, text, _ := strings.Cut(block, "\n") // behind the language
		name, found := strings.CutPrefix(text, "# file: ")
		if i%2 == 0 || !found {
			continue
		}
		name, _, _ = strings.Cut(name, "\n")
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
		n++
	}
	if n == 0 {
		ts.Fatalf("%s shows no files", args[0])
	}
}
