package vm

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// TestCpio has another program read what is written.
func TestCpio(t *testing.T) {
	program := testkit.Tool(t, "cpio")
	var a cpio
	a.file("a/b/c.txt", 0o640, []byte("hello"))
	a.file("a/b/empty", 0o755, nil)
	a.link("a/l", "b/c.txt")
	a.dir("a/b")
	cmd := exec.Command(program, "-idm", "--quiet")
	cmd.Dir = t.TempDir()
	cmd.Stdin = bytes.NewReader(a.bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	out, err := exec.Command("find", cmd.Dir, "-mindepth", "1", "-printf", "%P %y %m %s %l\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, l := range got {
		if f := strings.Fields(l); f[1] == "d" {
			got[i] = f[0] + " d"
		}
	}
	want := []string{"a d", "a/b d", "a/b/c.txt f 640 5 ", "a/b/empty f 755 0 ", "a/l l 777 7 b/c.txt"}
	for _, w := range want {
		if !contains(got, w) {
			t.Errorf("no %q in %q", w, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d: %q", len(got), len(want), got)
	}
}

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

func TestParse(t *testing.T) {
	console := "firmware\r\n\r\nM log boot\r\n<6>[    0.000000] Linux\r\n<4>[    1.5] two\r\n  lines\r\n" +
		"\r\nM begin 000\r\none\r\n\r\nM end 000 0\r\n\r\nM begin 001\r\nno newline\r\nM end 001 143\r\n<3>[    2.0] bad\r\n\r\nM begin 002\r\ncut"
	r := parse([]byte(console), "M", []Step{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	if len(r.Boot) != 3 || r.Boot[1] != (Line{4, "two"}) || r.Boot[2] != (Line{4, "  lines"}) {
		t.Errorf("boot: %+v", r.Boot)
	}
	if len(r.Steps) != 2 {
		t.Fatalf("%d steps, want the 2 that ended: %+v", len(r.Steps), r.Steps)
	}
	if a := r.Steps[0]; a.Name != "a" || a.Output != "one\n" || a.Exit != 0 || a.Log != nil {
		t.Errorf("a: %+v", a)
	}
	if b := r.Steps[1]; b.Name != "b" || b.Output != "no newline" || b.Exit != 143 || len(b.Log) != 1 || b.Log[0] != (Line{3, "bad"}) {
		t.Errorf("b: %+v", b)
	}
}

// TestRun boots a kernel: output, exit codes, messages and modules of both steps.
func TestRun(t *testing.T) {
	k := Fetched(t, "6.12")
	r, err := Run(t.Context(), Config{
		Kernel: k, Modules: []string{"xfs"}, Append: "quirk=1",
		Files: []File{{Name: "/data/x", Data: []byte("42\n"), Mode: 0o600}},
		Steps: []Step{
			{"first", "uname -r; cat /data/x; grep -o quirk=1 /proc/cmdline; echo '<3>from here' >/dev/kmsg; exit 7"},
			{"second", "modprobe xfs && cut -d' ' -f1 /proc/modules | sort"},
			{"panic", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"},
		},
	})
	if err == nil || !strings.Contains(err.Error(), "before its last step") || len(r.Steps) != 2 {
		t.Fatalf("%v, steps %+v", err, r)
	}
	if s := r.Steps[0]; s.Exit != 7 || s.Output != k.Release+"\n42\nquirk=1\n" || !hasLine(s.Log, Line{3, "from here"}) {
		t.Errorf("%+v", s)
	}
	if s := r.Steps[1]; s.Exit != 0 || s.Output != "libcrc32c\nxfs\n" {
		t.Errorf("%+v", s)
	}
	if !bytes.Contains(r.Console, []byte("Kernel panic")) {
		t.Errorf("no panic in the console:\n%s", r.Console)
	}
	if len(r.Boot) < 50 {
		t.Errorf("boot log of %d lines", len(r.Boot))
	}
}

func hasLine(lines []Line, want Line) bool {
	for _, l := range lines {
		if l == want {
			return true
		}
	}
	return false
}

func TestModuleName(t *testing.T) {
	if n := moduleName(filepath.ToSlash("kernel/net/nf-tables.ko.xz")); n != "nf_tables" {
		t.Error(n)
	}
}

// TestOrphans has processes end at all times whose parent is the first process: the
// signals of their ends must not cost a mark.
func TestOrphans(t *testing.T) {
	steps := []Step{{"leave", "(for i in $(seq 2000); do (: &); done) >/dev/null 2>&1 &"}}
	for range 40 {
		steps = append(steps, Step{"say", "echo said"})
	}
	r, err := Run(t.Context(), Config{Kernel: Fetched(t, "6.12"), Steps: steps})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range r.Steps[1:] {
		if s.Output != "said\n" || s.Exit != 0 {
			t.Errorf("step %d: %+v", i, s)
		}
	}
}

// A machine with counted time, idle for longer than it is left alone, comes to its end.
func TestIdle(t *testing.T) {
	k := Fetched(t, "6.12")
	r, err := Run(t.Context(), Config{Kernel: k, Counted: true, Steps: []Step{{Name: "idle", Script: "sleep 12; echo awake"}}})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Steps[0]; s.Exit != 0 || s.Output != "awake\n" {
		t.Errorf("exit %d, %q", s.Exit, s.Output)
	}
}
