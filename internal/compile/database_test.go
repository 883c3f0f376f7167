package compile

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

func TestParseDatabase(t *testing.T) {
	got, err := ParseDatabase([]byte(`[
		{"directory": "/w", "file": "a.c", "arguments": ["gcc", "-c", "a.c"], "output": "a.o", "other": [1]},
		{"directory": "/w/x", "file": "/s/../s/b.c", "command": "gcc -DX='a b' -c /s/b.c"}]`))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Source() != "/w/a.c" || got[1].Source() != "/s/b.c" || got[1].Command != "" ||
		strings.Join(got[1].Arguments, "|") != "gcc|-DX=a b|-c|/s/b.c" {
		t.Errorf("%+v", got)
	}
	if got, err := ParseDatabase([]byte("[]\n")); err != nil || len(got) != 0 {
		t.Errorf("an empty database: %v, %v", got, err)
	}
	entry := func(s string) string { return `[{"directory": "/w", "file": "a.c", ` + s + `}]` }
	for text, want := range map[string]string{
		``:                                "begins with [",
		`{}`:                              "begins with [",
		`[{}`:                             "entry 1: it names no directory",
		`[`:                               "behind entry 0",
		`[] x`:                            "behind the last",
		`[1]`:                             "entry 1",
		entry(`"arguments": []`):          "neither arguments nor a command",
		entry(`"command": " "`):           "neither arguments nor a command",
		entry(`"command": "gcc '"`):       "entry 1: its command: a quote",
		entry(`"arguments": ["a\u0000"]`): "zero byte",
		entry(`"arguments": ["a"], "command": "a"`):                 "both",
		`[{"directory": "w", "file": "a.c", "arguments": ["gcc"]}]`: "not absolute",
	} {
		if _, err := ParseDatabase([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// Any number of compilers may write at the same time, and each entry is there
// whole, in a file that is JSON for everybody.
func TestRecordInParallel(t *testing.T) {
	const processes, each = 8, 25
	if role := os.Getenv("LIVEPATCH_TEST_RECORD"); role != "" {
		for i := range each {
			if err := Record(role, []Entry{{Directory: "/w", File: fmt.Sprintf("%d-%d.c", os.Getpid(), i), Arguments: []string{"gcc", "<&>"}}}); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	path := filepath.Join(t.TempDir(), "db.json")
	var running []*exec.Cmd
	for range processes {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestRecordInParallel$")
		cmd.Env = append(os.Environ(), "LIVEPATCH_TEST_RECORD="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	b := testkit.Read(t, path)
	var plain []map[string]any
	if err := json.Unmarshal(b, &plain); err != nil {
		t.Fatal(err)
	}
	entries, err := ParseDatabase(b)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		seen[e.File] = true
	}
	if len(plain) != processes*each || len(seen) != processes*each {
		t.Errorf("%d entries, %d different, want %d", len(plain), len(seen), processes*each)
	}
}

func TestRecordKeepsOtherFiles(t *testing.T) {
	dir := t.TempDir()
	e := []Entry{{Directory: "/w", File: "a.c", Arguments: []string{"gcc"}}}
	for _, text := range []string{"x", "[]", "[\n{}", "[\n  {}\n]\n", "\n]\n"} {
		path := filepath.Join(dir, "other")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Record(path, e); err == nil || !strings.Contains(err.Error(), "not a database that livepatch cc wrote") {
			t.Errorf("%q: %v", text, err)
		}
		if got := string(testkit.Read(t, path)); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if err := Record(dir, e); err == nil {
		t.Error("a directory was taken for a database")
	}
}

func FuzzParseDatabase(f *testing.F) {
	f.Add([]byte(`[{"directory":"/w","file":"a.c","arguments":["gcc","-c","a.c"],"output":"a.o"}]`))
	f.Add([]byte(`[{"directory":"/w","file":"a.c","command":"env A=b gcc '-DX=\"y\"' -x c -c a.c -o"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := ParseDatabase(b)
		if err != nil {
			return
		}
		for i := range entries {
			e := &entries[i]
			c, err := ParseCommand(e.Arguments)
			if err != nil {
				continue
			}
			for _, again := range c.Entries(e.Directory) {
				// What is recorded of a command says the same when it is read.
				text, err := json.Marshal([]Entry{again})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := ParseDatabase(text); err != nil && e.Directory != "" && again.File != "" {
					t.Fatalf("%s: %v", text, err)
				}
			}
		}
	})
}
