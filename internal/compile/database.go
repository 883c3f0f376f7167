package compile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// An Entry of a compile database says how one source was compiled
// (https://clang.llvm.org/docs/JSONCompilationDatabase.html).
type Entry struct {
	Directory string   `json:"directory"` // where the command ran
	File      string   `json:"file"`
	Arguments []string `json:"arguments,omitempty"`
	Command   string   `json:"command,omitempty"` // instead of Arguments, as a shell reads it
	Output    string   `json:"output,omitempty"`
}

// Limits of a database: that of a browser has some 50,000 entries and 100 MB.
const (
	maxEntries = 1 << 20
	maxWordLen = 1 << 20
)

// ParseDatabase reads a compile database. In the entries that it returns
// Arguments is set and Command is not.
func ParseDatabase(b []byte) ([]Entry, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.New("a compile database begins with [")
	}
	var out []Entry
	for d.More() {
		if len(out) == maxEntries {
			return nil, fmt.Errorf("more than %d entries", maxEntries)
		}
		var e Entry
		if err := d.Decode(&e); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(out)+1, err)
		}
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(out)+1, err)
		}
		out = append(out, e)
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("behind entry %d: %w", len(out), err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something behind the last ]")
	}
	return out, nil
}

// check completes an entry.
func (e *Entry) check() (err error) {
	switch {
	case e.Directory == "" || e.File == "":
		return errors.New("it names no directory or no file")
	case !filepath.IsAbs(e.Directory):
		return fmt.Errorf("its directory %q is not absolute", e.Directory)
	case len(e.Arguments) > 0 && e.Command != "":
		return errors.New("it has both arguments and a command")
	}
	if len(e.Arguments) == 0 {
		if e.Arguments, err = splitWords(e.Command); err != nil {
			return fmt.Errorf("its command: %w", err)
		}
		e.Command = ""
	}
	if len(e.Arguments) == 0 {
		return errors.New("it has neither arguments nor a command")
	}
	for _, s := range append([]string{e.Directory, e.File, e.Output}, e.Arguments...) {
		if len(s) > maxWordLen || strings.ContainsRune(s, 0) {
			return errors.New("a word is too long or holds a zero byte")
		}
	}
	return nil
}

// Source is the path of the source, Object that of the object; both absolute
// and without detours. Object is "" if the entry does not tell.
func (e *Entry) Source() string { return e.path(e.File) }

func (e *Entry) path(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(e.Directory, name)
}
