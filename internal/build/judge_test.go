package build

import (
	"debug/elf"
	"errors"
	"strings"
	"testing"

	"livepatch/elfpatch/diff"
	"livepatch/internal/kmod"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

const typed = `
struct server { int pid; int clients; };
static struct server server = {1, 2};
__attribute__((noinline)) int work(int n) { return server.clients + n; }
__attribute__((noinline)) int grow(struct server *s) { s->clients++; return work(s->pid); }
int start(void) { return grow(&server); }
`

const typedMain = `extern int start(void); int main(void) { return start(); }`

// A changed layout is refused, with the field; allowed, the package records it, and
// notes are recorded by the side. Without a record the refusal stays.
func TestJudge(t *testing.T) {
	r := recipe{elf.EM_X86_64, "-O2 -fPIE -g", "-pie"}
	in := r.inputs(t, typed, strings.NewReplacer("int clients;", "char spare[8]; int clients;", "{1, 2}", "{1, {0}, 2}").Replace(typed), typedMain)
	_, err := Create(in)
	var list refusal.List
	if !errors.As(err, &list) || !has(list, refusal.LayoutChanged) || !strings.Contains(err.Error(), "field clients moved from offset 0x4 to 0xc") {
		t.Fatalf("error %v", err)
	}

	// The order of two fields: the size stays, so nothing else is against it.
	after := strings.NewReplacer("int pid; int clients;", "int clients; int pid;", "server.clients + n", "server.clients - n").Replace(typed)
	in = r.inputs(t, typed, after, typedMain)
	_, err = Create(in)
	if !errors.As(err, &list) || !has(list, refusal.LayoutChanged) {
		t.Fatalf("error %v", err)
	}
}

// What is allowed is in the record.
func TestAllow(t *testing.T) {
	r := recipe{elf.EM_X86_64, "-O2 -fPIE -g", "-pie"}
	source := `
enum kind { SMALL, LARGE };
enum kind kind;
__attribute__((noinline)) int work(int n) { kind = n > 4 ? LARGE : SMALL; return kind + n; }
`
	main := `extern int work(int); int main(int c, char **v) { return work(c); }`
	in := r.inputs(t, source, strings.NewReplacer("SMALL, LARGE", "SMALL, MIDDLE, LARGE, HUGE", "? LARGE", "? HUGE").Replace(source), main)
	_, err := Create(in)
	var list refusal.List
	if !errors.As(err, &list) || len(list) != 1 || list[0].Code != refusal.EnumChanged {
		t.Fatalf("error %v", err)
	}
	in.Allow = []refusal.Code{refusal.EnumChanged}
	p, err := Create(in)
	if err != nil {
		t.Fatal(err)
	}
	if p.Manifest.Build != nil {
		t.Errorf("there is a record that nobody asked for: %+v", p.Manifest.Build)
	}
	in.Record = &manifest.Build{Description: "kept"}
	result, err := Run(in)
	if err != nil {
		t.Fatal(err)
	}
	b := result.Package.Manifest.Build
	want := manifest.Finding{Code: "enum-changed", Where: "unit.o: work", Text: "enum kind: MIDDLE = 1 is new; LARGE was 1 and is 2; HUGE = 3 is new", Allowed: true}
	if b.Description != "kept" || len(b.Findings) != 1 || b.Findings[0] != want {
		t.Errorf("record %+v", b)
	}
	if len(result.Findings) != 1 || !result.Findings[0].Allowed {
		t.Errorf("findings %+v", result.Findings)
	}
	if len(in.Record.Findings) != 0 {
		t.Error("the record of the inputs was changed")
	}
	// Nothing that proves the patch gives way.
	in.Allow = []refusal.Code{refusal.NotTheRunningCode}
	in.Targets[0].Pairs[0].Orig = in.Targets[0].Pairs[0].Patched
	in.Targets[0].Pairs[0].Patched = r.inputs(t, source, strings.Replace(source, "kind + n", "kind - n", 1), main).Targets[0].Pairs[0].Patched
	if _, err := Create(in); !errors.As(err, &list) || !has(list, refusal.NotTheRunningCode) {
		t.Errorf("error %v", err)
	}
}

func has(list refusal.List, code refusal.Code) bool {
	for _, r := range list {
		if r.Code == code {
			return true
		}
	}
	return false
}

// Names that a patch newly takes from other modules are warned of; those of the
// kernel, of the target, and those that the target used before are not.
func TestModuleDependency(t *testing.T) {
	target := &kernelTarget{name: "widget"}
	k := &kernelSteps{parts: []*kernelPart{{
		target: target, pair: &pairSteps{Pair: Pair{OrigName: "widget.o"}},
		part: kmod.Part{
			Cut: &diff.Cut{Externals: []diff.External{{Name: "crc32c"}, {Name: "printk"}, {Name: "own"}, {Name: "old", Orig: 7}, {Name: "brought"}}},
			Bindings: map[int]kmod.Binding{
				0: {Kind: kmod.KLP, Object: "libcrc32c", Name: "crc32c"}, 1: {Kind: kmod.KLP, Object: "vmlinux", Name: "printk"},
				2: {Kind: kmod.KLP, Object: "widget", Name: "own"}, 3: {Kind: kmod.KLP, Object: "libold", Name: "old"},
			},
		},
	}}}
	k.judgeModules()
	if len(target.findings) != 1 || target.findings[0].Where != "widget.o: crc32c" || target.findings[0].Code != refusal.ModuleDependency {
		t.Errorf("findings %+v", target.findings)
	}
}
