//go:build linux && amd64

package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// The transcript of the README is what happens: its commands are run by one
// shell, and must print what it shows.
func TestReadmeTranscript(t *testing.T) {
	steps := transcript(t, "../README.md")
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "livepatch"), "./cmd/livepatch")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	// The commands run in a copy, so that they may write where they are.
	tree := t.TempDir()
	if err := os.CopyFS(filepath.Join(tree, "testdata/binaries"), os.DirFS(binaries)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.Walk(tree, func(path string, fi os.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		return os.Chmod(path, 0o755)
	}); err != nil {
		t.Fatal(err)
	}
	sh := startShell(t, tree, bin)
	for _, s := range steps {
		got := sh.run(t, s.command)
		if !matches(s.output, got) {
			t.Errorf("$ %s\nprints\n%s\nthe README says\n%s", s.command, got, s.output)
		}
	}
}

// A step of a transcript: a command and what it prints.
type step struct{ command, output string }

// transcript returns the steps of the console blocks of a document.
func transcript(t *testing.T, path string) []step {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	inside := false
	for line := range strings.Lines(string(b)) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && isCommand:
			steps = append(steps, step{command: strings.TrimSuffix(command, "\n")})
		case inside && len(steps) > 0 && strings.HasSuffix(steps[len(steps)-1].command, "\\"):
			steps[len(steps)-1].command += "\n" + strings.TrimSuffix(line, "\n")
		case inside && len(steps) > 0:
			steps[len(steps)-1].output += line
		}
	}
	if len(steps) < 3 {
		t.Fatalf("%s has a transcript of %d commands", path, len(steps))
	}
	return steps
}

// matches compares. A line … in want stands for any lines, and … in a line for
// anything there.
func matches(want, got string) bool {
	pattern := regexp.QuoteMeta(want)
	pattern = regexp.MustCompile("(?m)^…\n").ReplaceAllLiteralString(pattern, "(?:[^\n]*\n)*")
	pattern = strings.ReplaceAll(pattern, "…", "[^\n]*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(got)
}

// shell is one bash that runs commands one after another.
type shell struct {
	in  io.Writer
	out *bufio.Reader
	n   int
}

func startShell(t *testing.T, dir, bin string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--norc")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		io.WriteString(in, "kill $(jobs -p)\n")
		in.Close()
		testkit.Await(t, cmd)
		r.Close()
	})
	return &shell{in: in, out: bufio.NewReader(r)}
}

func (s *shell) run(t *testing.T, command string) string {
	t.Helper()
	s.n++
	end := fmt.Sprintf("-- end of command %d", s.n)
	if _, err := fmt.Fprintf(s.in, "%s\necho '%s'\n", command, end); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("$ %s: %v\n%s", command, err, out.Bytes())
		}
		if strings.TrimSuffix(line, "\n") == end {
			return out.String()
		}
		out.WriteString(line)
	}
}
