package process

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"livepatch/internal/refusal"
)

// headSize is how much of a file the kernel looks at to know what it is
// (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h).
const headSize = 256

// interpreterOf looks at the file that is to be run. What can be known by it to be
// refused later, when the program is there already, is refused. A script is run by
// its interpreter, which is returned; empty for a program.
func interpreterOf(path string) (string, error) {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return "", nil // the kernel says it better
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", refusal.New(refusal.NoPermission, path, "it may be executed but not read, and the kernel lets nobody look at such a process without CAP_SYS_PTRACE: run livepatch as root")
	case err != nil:
		return "", nil
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF {
		return "", nil
	}
	head = head[:n]
	const class, class32 = 4, 1 // EI_CLASS, ELFCLASS32
	if bytes.HasPrefix(head, []byte("\x7fELF")) && len(head) > class && head[class] == class32 {
		return "", refusal.New(refusal.Unsupported, path, "it is a 32-bit program")
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	words, script := strings.CutPrefix(string(line), "#!")
	if f := strings.Fields(words); script && len(f) > 0 {
		return f[0], nil
	}
	return "", nil
}

// A ScriptError is the refusal of packages for the interpreter of a script.
type ScriptError struct {
	Path, Interpreter string
	Err               error
}

func (e *ScriptError) Error() string { return e.Err.Error() }
func (e *ScriptError) Unwrap() error { return e.Err }

// ofScript makes an error one of a script, if the wrong program was met for that
// reason.
func (r *request) ofScript(err error) error {
	for _, one := range refusal.Of(err) {
		if one.Code == refusal.WrongTarget && r.Interpreter != "" {
			return &ScriptError{r.Path, r.Interpreter, err}
		}
	}
	return err
}
