// Package compile runs the programs that turn sources into objects: the
// compilers of programs, before and after source patches, by what a compile
// database says; and objtool, which adds to kernel objects what the compiler
// leaves out: unwind tables, and lists of returns, calls and static-call sites.
package compile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// objtoolTime bounds one run; it takes a fraction of a second on a patch.
const objtoolTime = 2 * time.Minute

// Objtool is the objtool of one kernel.
type Objtool struct {
	Path   string
	Digest [sha256.Size]byte // SHA-256 of the program
}

// OpenObjtool checks that the program can be run and takes its digest.
func OpenObjtool(path string) (*Objtool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read objtool: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	return &Objtool{Path: path, Digest: sha256.Sum256(b)}, nil
}

// Run processes an object with the arguments, to which the file's name is
// appended, and returns the object as objtool wrote it. objtool reports what it
// does not understand and goes on; here anything that it says is an error, for
// it means code without unwind data or with a hidden branch.
func (o *Objtool) Run(object []byte, args []string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "livepatch-objtool-")
	if err != nil {
		return nil, fmt.Errorf("run objtool: %w", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "patch.o")
	if err := os.WriteFile(file, object, 0o600); err != nil {
		return nil, fmt.Errorf("run objtool: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), objtoolTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.Path, append(append([]string{}, args...), file)...)
	cmd.Dir = dir
	// Debian's objtool is a program that starts the one for SRCARCH.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SRCARCH=x86")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("run objtool: it took longer than %v", objtoolTime)
	}
	text := strings.TrimSpace(strings.ReplaceAll(said.String(), file, "patch.o"))
	if err != nil {
		return nil, fmt.Errorf("run objtool %s: %w: %s", strings.Join(args, " "), err, text)
	}
	if text != "" {
		return nil, errors.New("objtool: " + text)
	}
	out, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read what objtool wrote: %w", err)
	}
	return out, nil
}
