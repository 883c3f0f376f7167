package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/manifest"
)

// What is found about changes of real files of the kernel, one patch each in
// testdata/safety: the line that is printed, and whether it refuses, warns or is a note.
const (
	sleepFound     = "kthread.o: __kthread_create_on_node+0x146: it calls msleep, which may sleep, where a lock that forbids it is held [sleep-in-atomic]"
	layoutFound    = "kthread.o: kthread_func: struct kthread: field stops is new at offset 0xc; field result moved from offset 0xc to 0x10; field threadfn moved from offset 0x10 to 0x18; field data moved from offset 0x18 to 0x20; and 5 more [layout-changed]"
	enumFound      = "kthread.o: numbers: enum KTHREAD_BITS: KTHREAD_STOPS = 1 is new; KTHREAD_SHOULD_STOP was 1 and is 2; KTHREAD_SHOULD_PARK was 2 and is 3 [enum-changed]"
	prototypeFound = "kthread.o: kthread: parameter 1 was void * and is unsigned int; it is called through a pointer too (kthreadd holds its address) [prototype-changed]"
	exportFound    = "page_reporting.o: exports: modules that use page_reporting_register and page_reporting_unregister were built with another struct page_reporting_dev_info [export-checksum]"

	locksFound   = "kthread.o: kthread_stop: other calls of locks and references: _raw_spin_lock 1, was 0; _raw_spin_unlock 1, was 0; put_pid 1, was 0 [lock-changed]"
	threadFound  = "kthread.o: kthread: it is what a kernel thread runs (kthreadd passes its address to kernel_thread): the transition ends only when that thread does, or where it is asked to leave [never-returns]"
	loopFound    = "kthread.o: kthreadd: it loops and does not return: the patch waits for every thread that is in it [never-returns]"
	inlinedFound = "pipe.o: get_pipe_info: pipe_fcntl has a copy of it inlined and did not change [inlined-elsewhere]"
	moduleFound  = "vlanproc.o: crc32c: it is new in 8021q, and module libcrc32c has it: that has to be loaded when the patch is [module-dependency]"
	knownFound   = "dmapool.o: exports: the checksum of dma_pool_create and dmam_pool_create would be another one only since the source now defines what it declared: struct backing_dev_info, struct bdi_writeback, struct bpf_run_ctx, struct block_device and 12 more [export-checksum]"

	dataFound  = "kthread.o: data: 32 bytes of new variables (asked), which begin anew whenever the patch is applied [data-added]"
	takenFound = "kthread.o: kthread: it is called through a pointer too (kthreadd holds its address); such calls reach the new code [address-taken]"

	initFound      = "kthread.o: first: it would have to be in the patch, but is in .init.data [init-memory]"
	elsewhereFound = "boot_command_line is in memory that the kernel gives back after boot [init-memory]"
	dependsFound   = "code of the kernel refers to crc32c of module libcrc32c, which need not be there [klp-format]"
)

func safetyPatches(names ...string) (paths []string) {
	for _, n := range names {
		paths = append(paths, filepath.Join("testdata/safety", n+".patch"))
	}
	return paths
}

// has reports lines of a program that are not among those that it printed.
func has(t *testing.T, said, before string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(said, before+l) {
			t.Errorf("no %q", before+l)
		}
	}
	if t.Failed() {
		t.Log(said)
	}
}

// judged is what build --json and inspect --json print of a change.
type judged struct {
	Refusals []refusal.Refusal  `json:"refusals"`
	Manifest *manifest.Manifest `json:"manifest"`
}

// buildJSON builds with --json and returns its findings as lines, those that were
// allowed with a word before them.
func (k *target) buildJSON(t *testing.T, exit int, out string, patches []string, more ...string) (lines []string) {
	t.Helper()
	text, err := k.buildCommand(t, out, patches, append(more, "--json")...).Output()
	code := 0
	if e, ok := err.(*exec.ExitError); ok {
		code = e.ExitCode()
	}
	var j judged
	if code != exit || json.Unmarshal(text, &j) != nil {
		t.Fatalf("exit %d, want %d: %s", code, exit, text)
	}
	for _, r := range j.Refusals {
		lines = append(lines, fmt.Sprintf("%s: %s [%s]", r.Where, r.Text, r.Code))
	}
	if j.Manifest != nil {
		return recorded(j.Manifest)
	}
	return lines
}

func recorded(m *manifest.Manifest) (lines []string) {
	for _, f := range m.Build.Findings {
		line := fmt.Sprintf("%s: %s [%s]", f.Where, f.Text, f.Code)
		if f.Allowed {
			line = "allowed " + line
		}
		lines = append(lines, line)
	}
	return lines
}

// Changes that are refused unless they are allowed: all of them are said in one run,
// and who allows them is on record.
func TestSafetyRefuses(t *testing.T) {
	k := fetched(t, "6.12")
	patches := safetyPatches("sleep", "layout", "enum", "prototype", "export")
	found := []string{sleepFound, layoutFound, enumFound, prototypeFound, exportFound}
	out := filepath.Join(t.TempDir(), "x.lpatch")
	code, said := k.build(t, out, patches)
	if code != 3 {
		t.Errorf("exit %d", code)
	}
	has(t, said, "", found...)
	lines := k.buildJSON(t, 3, out, patches, "--allow", "layout-changed")
	for _, f := range found {
		if slices.Contains(lines, f) == (f == layoutFound) {
			t.Errorf("%q is refused, or not", f)
		}
	}
	if exists(out) {
		t.Error("a package was written")
	}
	allow := []string{"--allow", "sleep-in-atomic", "--allow", "layout-changed", "--allow", "enum-changed", "--allow", "prototype-changed", "--allow", "export-checksum"}
	code, said = k.build(t, out, patches, allow...)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	has(t, said, "warning: allowed: ", found...)
	var j judged
	text, err := exec.Command(program(t, "livepatch"), "inspect", "--json", out).Output()
	if err = errors.Join(err, json.Unmarshal(text, &j)); err != nil || j.Manifest == nil {
		t.Fatalf("%v: %.300s", err, text)
	}
	has(t, strings.Join(recorded(j.Manifest), "\n"), "allowed ", found...)
}

// Changes that are warned of, and what is only noted.
func TestSafetyWarns(t *testing.T) {
	k := fetched(t, "6.12")
	patches := safetyPatches("locks", "thread", "loop", "data", "inlined", "module", "known")
	warned := []string{locksFound, threadFound, loopFound, inlinedFound, moduleFound, knownFound}
	out := filepath.Join(t.TempDir(), "x.lpatch")
	code, said := k.build(t, out, patches)
	if code != 0 {
		t.Errorf("exit %d", code)
	}
	has(t, said, "warning: ", warned...)
	has(t, said, "note     ", dataFound, takenFound)
	lines := k.buildJSON(t, 0, out, patches)
	vlan := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "vlanproc.o: vlan_seq_show: it is called through") })
	if vlan >= 0 {
		lines = slices.Delete(lines, vlan, vlan+1)
	}
	slices.Sort(lines)
	want := append(warned, dataFound, takenFound)
	slices.Sort(want)
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// What nobody may allow.
func TestSafetyNever(t *testing.T) {
	k := fetched(t, "6.12")
	out := filepath.Join(t.TempDir(), "x.lpatch")
	for patch, want := range map[string]string{"init-data": initFound, "init-elsewhere": elsewhereFound, "module-of-kernel": dependsFound} {
		lines := k.buildJSON(t, 3, out, safetyPatches(patch))
		if len(lines) != 1 || !strings.HasSuffix(lines[0], want) {
			t.Errorf("%s: %q", patch, lines)
		}
	}
	if code, said := k.build(t, out, safetyPatches("init-data"), "--allow", "init-memory"); code != 2 || !strings.Contains(said, "--allow init-memory: that cannot be allowed") {
		t.Errorf("exit %d: %s", code, said)
	}
}

// Objects whose types are told by BTF alone, as gcc -gbtf makes them.
func TestSafetyBTF(t *testing.T) {
	k := fetched(t, "6.12")
	dir := t.TempDir()
	if code, said := k.build(t, filepath.Join(dir, "x.lpatch"), safetyPatches("layout")); code != 3 {
		t.Fatalf("exit %d: %s", code, said) // the command of kthread.o is known from here on
	}
	before := k.withBTF(t, filepath.Join(dir, "before.o"), k.Path("source/kernel/kthread.c"))
	src := filepath.Join(dir, "kthread.c")
	if err := os.WriteFile(src, []byte(read(t, k.Path("source/kernel/kthread.c"))), 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "patch", "-s", src, "testdata/safety/layout.patch")
	after := k.withBTF(t, filepath.Join(dir, "after.o"), src)
	cmd := exec.Command(program(t, "livepatch"), "create", "-o", filepath.Join(dir, "x.lpatch"), "--symvers", k.Path("headers/Module.symvers"), "--config", k.Path("headers/.config"),
		"--objtool", k.Path("objtool"), "--target", k.Path("vmlinuz"), "--pair", before+"="+after, "--patch", "testdata/safety/layout.patch")
	said, _ := cmd.CombinedOutput() // the exit code says how it went
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit %d", code)
	}
	// Without variables of functions another one is the first that reaches the type.
	has(t, string(said), "", strings.Replace(layoutFound, "kthread.o: kthread_func", "before.o: __kthread_parkme", 1))
}

// withBTF compiles a source as kernel/kthread.c is compiled, with BTF instead of DWARF.
func (k *target) withBTF(t *testing.T, object, source string) string {
	t.Helper()
	saved, _, _ := strings.Cut(read(t, k.Path("prepared/build/kernel/.kthread.o.cmd")), "\n")
	_, line, _ := strings.Cut(saved, " := ")
	words := strings.Fields(line)
	for i, w := range words {
		switch {
		case w == "-g":
			words[i] = "-gbtf -ffunction-sections -fdata-sections"
		case strings.HasPrefix(w, "-Wp,-MMD,"):
			words[i] = "-Wp,-MMD," + object + ".d"
		case w == "kernel/kthread.o":
			words[i] = object
		case strings.HasSuffix(w, "/kernel/kthread.c"):
			words[i] = source
		}
	}
	cmd := exec.Command("sh", "-c", strings.Join(words, " "))
	cmd.Dir = k.Path("prepared/build")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return object
}
