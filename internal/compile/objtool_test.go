package compile

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program writes a shell script that stands where objtool would: the rules of
// Run are about programs, not about objtool.
func program(t *testing.T, script string) *Objtool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "objtool")
	text := "#!/bin/sh\n" + script
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	o, err := OpenObjtool(path)
	if err != nil {
		t.Fatal(err)
	}
	if o.Digest != sha256.Sum256([]byte(text)) {
		t.Error("the digest is not that of the program")
	}
	return o
}

func TestRun(t *testing.T) {
	o := program(t, `[ "$1 $2" = "--orc --link" ] || exit 9
printf ' and more' >> "$3"`)
	out, err := o.Run([]byte("object"), []string{"--orc", "--link"})
	if err != nil || !bytes.Equal(out, []byte("object and more")) {
		t.Errorf("got %q, error %v", out, err)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, tc := range []struct{ script, want string }{
		{`echo "$1: warning: objtool: f+0x1: unreachable" >&2`, "objtool: patch.o: warning: objtool: f+0x1: unreachable"},
		{"echo bad option; exit 129", "exit status 129: bad option"},
		{`rm "$1"`, "read what objtool wrote"},
	} {
		_, err := program(t, tc.script).Run([]byte("object"), nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: want an error with %q, got %v", tc.script, tc.want, err)
		}
	}
}

func TestOpenObjtoolMissing(t *testing.T) {
	if _, err := OpenObjtool(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a program that is not there is opened")
	}
}
