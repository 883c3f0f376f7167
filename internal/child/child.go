// Package child runs other programs: compilers, make, apt. They get an
// environment without what would change their work, end with the context
// together with all that they have started, and lock what they share.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Program is one to be run.
type Program struct {
	Dir    string // where it runs
	Argv   []string
	Env    []string // more than that of every program
	Stdin  string
	Output func(line string) // is given each line of standard output; nil: it goes with what is said
	Errors func(line string) // is given each line of standard error, too
}

// foreign are the variables that would change what make and kbuild do.
var foreign = []string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "ARCH", "SRCARCH", "CROSS_COMPILE", "LLVM", "CC", "CPP", "AS", "LD", "O", "M", "V", "W", "C",
	"KCFLAGS", "KAFLAGS", "KCPPFLAGS", "CFLAGS", "HOSTCFLAGS", "KCONFIG_CONFIG", "LOCALVERSION", "INSTALL_MOD_PATH", "CPATH", "C_INCLUDE_PATH",
	"GCC_EXEC_PREFIX", "COMPILER_PATH", "LIBRARY_PATH", "SOURCE_DATE_EPOCH", "GCC_COLORS"}

// environment is that of this program without what would change the objects.
func environment(more []string) (env []string) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains(foreign, name) && !strings.HasPrefix(name, "KBUILD_") && !strings.HasPrefix(name, "LC_") && name != "LANGUAGE" {
			env = append(env, v)
		}
	}
	return append(append(env, "LC_ALL=C"), more...)
}

// said bounds how much of what a program says is kept: the end.
const said = 1 << 14

// killTime is what a program has to end after it was asked to.
const killTime = 5 * time.Second

// Run runs a program and returns the end of what it said. With the context it is ended,
// with all that it has started.
func (p *Program) Run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, p.Argv[0], p.Argv[1:]...)
	cmd.Dir, cmd.Env = p.Dir, environment(p.Env)
	cmd.WaitDelay = killTime
	ownGroup(cmd)
	if p.Stdin != "" {
		cmd.Stdin = strings.NewReader(p.Stdin)
	}
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	if p.Output != nil {
		cmd.Stdout = &lineWriter{line: p.Output}
	}
	if p.Errors != nil {
		cmd.Stderr = io.MultiWriter(out, &lineWriter{line: p.Errors})
	}
	err := cmd.Run()
	text := strings.TrimSpace(string(out.b))
	if ctx.Err() != nil {
		return text, context.Cause(ctx)
	}
	if err == nil {
		return text, nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return text, fmt.Errorf("run %s: %w", p.Argv[0], err)
	}
	if text == "" {
		text = "it says nothing"
	}
	return text, fmt.Errorf("%s: %w: %s", filepath.Base(p.Argv[0]), err, text)
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if n := len(t.b) - said; n > said {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// lineWriter hands on whole lines.
type lineWriter struct {
	rest []byte
	line func(string)
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		w.line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}

// Lock takes the lock file of a directory, which it makes. It waits, and says
// so, while another process has it.
func Lock(ctx context.Context, dir string, wait func()) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		ok, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if ok {
			return f, nil
		}
		if first && wait != nil {
			wait()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
