package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"livepatch/fentry"
	"livepatch/internal/testkit"
)

// sitesJSON runs livepatch sites --json and checks the answer against the schema.
func sitesJSON(t *testing.T, args ...string) siteList {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join("..", "..", "docs", "sites.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(append([]string{"livepatch", "sites", "--json"}, args...), &stdout, &stderr); code != exitDone {
		t.Fatalf("sites %s: exit code %d: %s", args, code, stderr.String())
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(stdout.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("sites %s: %v", args, err)
	}
	var list siteList
	dec := json.NewDecoder(&stdout)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSitesJSON(t *testing.T) {
	files, err := filepath.Glob("../../testdata/binaries/*/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no binaries: %v", err)
	}
	kinds := map[fentry.Kind]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, ".debug") || strings.HasSuffix(path, ".after.o") {
			continue
		}
		list := sitesJSON(t, path)
		if len(list.Images) != 1 || list.Images[0].Summary.Functions == 0 {
			t.Errorf("%s: no functions", path)
			continue
		}
		for k := range list.Images[0].Summary.Kinds {
			kinds[k] = true
		}
	}
	for _, k := range []fentry.Kind{fentry.FentryCall, fentry.FentryNop, fentry.Patchable, fentry.Prologue} {
		if !kinds[k] {
			t.Errorf("no file has a site of kind %s", k)
		}
	}
}

// The schema knows every kind and verdict of the package.
func TestSitesSchemaListsAll(t *testing.T) {
	b, err := os.ReadFile("../../docs/sites.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs struct {
			Kind    struct{ Enum []fentry.Kind }    `json:"kind"`
			Verdict struct{ Enum []fentry.Verdict } `json:"verdict"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(schema.Defs.Kind.Enum, fentry.Kinds) || !slices.Equal(schema.Defs.Verdict.Enum, fentry.Verdicts) {
		t.Errorf("schema: %v, %v; package: %v, %v", schema.Defs.Kind.Enum, schema.Defs.Verdict.Enum, fentry.Kinds, fentry.Verdicts)
	}
	text, err := os.ReadFile("../../docs/sites.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range strings.Split(words(fentry.Kinds)+", "+words(fentry.Verdicts), ", ") {
		if !bytes.Contains(text, []byte("| `"+w+"` |")) {
			t.Errorf("docs/sites.md has no row for %s", w)
		}
	}
}

func TestSitesFilters(t *testing.T) {
	file := "../../testdata/binaries/x86_64-gcc/except.O2.before.o"
	count := func(args ...string) int {
		return sitesJSON(t, append(args, file)...).Images[0].Summary.Functions
	}
	all := count()
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--name", "^except_plain$"}, 1},
		{[]string{"--name", "twice<long>"}, 1}, // demangled
		{[]string{"--name", "_ZN.*twice"}, 1},
		{[]string{"--kind", "prologue"}, all},
		{[]string{"--kind", "none", "--kind", "patchable"}, 0},
		{[]string{"--verdict", "patchable"}, all},
		{[]string{"--verdict", "no-site"}, 0},
	} {
		if got := count(tt.args...); got != tt.want {
			t.Errorf("%s: %d functions, want %d", tt.args, got, tt.want)
		}
	}
}

// A process is read while it runs; a redirect written into it is found.
func TestSitesOfProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("processes are read on Linux only")
	}
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer testkit.End(t, child)
	pid := fmt.Sprint(child.Process.Pid)
	libc, f := findInLibc(t, pid)
	if libc.Summary.Modified != 0 {
		t.Fatalf("%d sites differ in a process that nobody changed", libc.Summary.Modified)
	}
	mem, err := os.OpenFile("/proc/"+pid+"/mem", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this system does not permit writing the memory of a child: %v", err)
	}
	defer mem.Close()
	code := []byte{0xe9, 0, 0, 0, 0} // jmp site+5
	if runtime.GOARCH == "arm64" {
		code = []byte{0x01, 0x00, 0x00, 0x14} // b site+4
	}
	at := f.Site + *libc.Bias
	if _, err := mem.WriteAt(code, int64(at)); err != nil {
		t.Skipf("this system does not permit writing the text of a child: %v", err)
	}
	want := at + uint64(len(code))
	libc, f = findInLibc(t, pid)
	if libc.Summary.Modified != 1 || !bytes.HasPrefix(f.Live, code) || f.LeadsTo == nil || *f.LeadsTo != want {
		t.Errorf("%d modified, site holds %x, leads to %v, want %#x", libc.Summary.Modified, f.Live, f.LeadsTo, want)
	}
}

// findInLibc returns a function of the process's C library that a sleeping
// program does not use, once the program is loaded.
func findInLibc(t *testing.T, pid string) (*fentry.Report, fentry.Row) {
	t.Helper()
	for range 1000 {
		list := sitesJSON(t, "--pid", pid, "--name", "^qsort_r$")
		for _, r := range list.Images {
			if len(r.Functions) == 1 && r.Functions[0].Verdict == fentry.Yes && r.Functions[0].Strategy == "near" {
				return r, r.Functions[0]
			}
		}
	}
	t.Fatal("the child has no C library with qsort_r")
	return nil, fentry.Row{}
}
