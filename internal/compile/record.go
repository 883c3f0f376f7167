package compile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// A database that Record writes is a JSON array with one entry a line:
//
//	[
//	{"directory":…},
//	{"directory":…}
//	]
//
// It is a whole compile database after each entry.
const (
	databaseHead = "[\n"
	databaseTail = "\n]\n"
)

// Record adds entries to the database in a file, which it makes if it is not
// there. Any number of processes may do so at the same time.
func Record(path string, entries []Entry) (err error) {
	if len(entries) == 0 {
		return nil
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text) // ends each with a newline
	enc.SetEscapeHTML(false)
	for i := range entries {
		if i > 0 {
			text.Truncate(text.Len() - 1)
			text.WriteString(",\n")
		}
		if err := enc.Encode(&entries[i]); err != nil {
			return fmt.Errorf("record in %s: %w", path, err)
		}
	}
	text.Truncate(text.Len() - 1)
	defer func() {
		if err != nil {
			err = fmt.Errorf("record in %s: %w", path, err)
		}
	}()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return unwrapPath(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := lockFile(f); err != nil {
		return err
	}
	at, first, err := databaseEnd(f)
	if err != nil {
		return err
	}
	join := ",\n"
	if first {
		join = databaseHead
	}
	// The tail is overwritten and written again in one call: who is killed
	// elsewhere leaves the file as it was.
	_, err = f.WriteAt([]byte(join+text.String()+databaseTail), at)
	return err
}

// databaseEnd is where the next entry goes, and whether it is the first.
func databaseEnd(f *os.File) (at int64, first bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	if !st.Mode().IsRegular() {
		return 0, false, errors.New("it is no regular file")
	}
	if st.Size() == 0 {
		return 0, true, nil
	}
	head := make([]byte, min(st.Size(), int64(len(databaseHead)+1)))
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, false, err
	}
	tail := make([]byte, min(st.Size(), int64(len(databaseTail)+1)))
	if _, err := f.ReadAt(tail, st.Size()-int64(len(tail))); err != nil && err != io.EOF {
		return 0, false, err
	}
	if string(head) != databaseHead+"{" || string(tail) != "}"+databaseTail {
		return 0, false, errors.New("it is not a database that livepatch cc wrote; choose another file")
	}
	return st.Size() - int64(len(databaseTail)), false, nil
}

func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
