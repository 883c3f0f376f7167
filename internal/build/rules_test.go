package build

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
	"livepatch/internal/unwind"
	"livepatch/trampoline"
)

// loaded is a payload without its imports: its code at 0x100000, its frames at
// 0x200000.
type loaded struct {
	object *elfpatch.File
	frames []byte
}

const loadedText, loadedFrames = 0x100000, 0x200000

func (l *loaded) ReadAt(b []byte, at int64) (int, error) {
	if off := at - loadedFrames; off >= 0 && off <= int64(len(l.frames)) {
		if n := copy(b, l.frames[off:]); n == len(b) {
			return n, nil
		}
	}
	return 0, io.EOF
}

// load applies the relocations of a payload's frames.
func load(t *testing.T, payload []byte) (*loaded, *unwind.Table) {
	t.Helper()
	o, err := elfpatch.Parse(payload)
	if err != nil {
		t.Fatal(err)
	}
	sec := o.Section(".eh_frame")
	l := &loaded{object: o, frames: append([]byte(nil), sec.Data...)}
	rels, err := o.Relocations(sec)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rels {
		at := o.Symbols[r.Symbol]
		if err := elfpatch.ApplyReloc(o.Machine, r.Type, l.frames[r.Offset:], loadedFrames+r.Offset, loadedText+at.Value, r.Addend); err != nil {
			t.Fatal(err)
		}
	}
	table, err := unwind.FromSection(l, loadedFrames, uint64(len(l.frames)), loadedText, loadedFrames)
	if err != nil {
		t.Fatal(err)
	}
	return l, table
}

// rows shows the rules of a piece: where others begin to hold.
func (l *loaded) rows(t *testing.T, table *unwind.Table, piece string) string {
	t.Helper()
	var out []string
	last := ""
	for _, s := range l.object.Symbols {
		if s.Name != piece {
			continue
		}
		for off := uint64(0); off < s.Size; off++ {
			text := "none"
			if r, err := table.At(loadedText + s.Value + off); err == nil {
				text = r.String()
			}
			if text != last {
				out = append(out, fmt.Sprintf("%#x: %s", off, text))
			}
			last = text
		}
	}
	return strings.Join(out, "\n")
}

// cfas shows what readelf says of where the frame of a piece ends, as rows does.
func (l *loaded) cfas(t *testing.T, payload []byte, piece string) (out []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "payload.o")
	if err := os.WriteFile(path, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(testkit.Tool(t, "readelf"), "--debug-dump=frames-interp", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(l.object.Symbols, func(s elfpatch.Symbol) bool { return s.Name == piece })
	start := l.object.Symbols[i].Value
	_, rows, _ := strings.Cut(string(said), fmt.Sprintf("pc=%016x..", start))
	rows, _, _ = strings.Cut(rows, "\n\n")
	lines := strings.Split(rows, "\n")
	if len(lines) == 1 { // nothing differs from the common entry
		called, _ := unwind.Called(l.object.Machine)
		return []string{"0x0: " + strings.Fields(called.String())[0]}
	}
	for _, line := range lines[2:] {
		var at uint64
		var cfa string
		if _, err := fmt.Sscanf(line, "%x %s", &at, &cfa); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		cfa = strings.NewReplacer("rsp", "r7", "sp", "r31").Replace(cfa)
		out = append(out, fmt.Sprintf("%#x: %s", at-start, cfa))
	}
	return out
}

const framesSource = `
__attribute__((noinline)) static int other(int x) { return x * 7 + 3; }
int pushes(int x) { int a = other(x); int b = other(a + 1); return a * b + x + FIX; }
#if FIX
__attribute__((noinline, patchable_function_entry(0, 0))) static int added(int x) { return x * 11 - other(x); }
#else
#define added other
#endif
int calls(int x) { return added(x) + FIX; }
`

// What stands between entries and replacements is described at every instruction.
func TestPiecesAreDescribed(t *testing.T) {
	const amd, arm = elf.EM_X86_64, elf.EM_AARCH64
	for _, tt := range []struct {
		m     elf.Machine
		way   trampoline.Dispatch
		flags []string
		piece string
		want  string
	}{
		// The moved instruction that is left is a push.
		{amd, trampoline.Gated, nil, "pushes@entry", "0x0: r7+8 r16=c-8\n0x13: r7+16 r16=c-8"},
		{amd, trampoline.Shared, nil, "livepatch@handler",
			"0x0: r7+16 r16=c-8\n0x1: r7+24 r16=c-8\n0x2: r7+32 r16=c-8\n0x3: r7+40 r16=c-8\n0x3e: r7+32 r16=c-8\n0x3f: r7+24 r16=c-8\n0x40: r7+16 r16=c-8"},
		{amd, trampoline.Slot, []string{patchableEntries[amd]}, "livepatch@handler",
			"0x0: r7+16 r16=c-8\n0x1: r7+24 r16=c-8\n0x2: r7+32 r16=c-8\n0x24: r7+24 r16=c-8\n0x25: r7+16 r16=c-8"},
		{arm, trampoline.Gated, nil, "pushes@entry", "0x0: r31+0\n0x14: r31+16 r29=c-16 r30=c-8"},
		{arm, trampoline.Gated, []string{protection[arm]}, "pushes@entry", "0x0: r31+0\n0x14: r31+0 signed\n0x18: r31+16 r29=c-16 r30=c-8 signed"},
		{arm, trampoline.Gated, []string{"-mbranch-protection=pac-ret+leaf+b-key"}, "pushes@entry", "0x0: r31+0\n0x14: r31+0 signed"},
		{arm, trampoline.Shared, nil, "calls@entry", "0x0: r31+0"},
		{arm, trampoline.Shared, nil, "livepatch@handler", "0x0: r31+0\n0x4: r31+16\n0x3c: r31+0"},
		{arm, trampoline.Slot, []string{patchableEntries[arm]}, "livepatch@handler", "0x0: r31+0 r30=r9+0\n0x1c: r31+0"},
	} {
		t.Run(strings.Join(append([]string{tt.m.String(), string(tt.way), tt.piece}, tt.flags...), "/"), func(t *testing.T) {
			target := library(t, tt.m, framesSource, append([]string{"-falign-functions=16", "-Wl,--eh-frame-hdr"}, tt.flags...)...)
			p, err := Create(Inputs{Name: "fix", Version: "test", Dispatch: tt.way, Targets: []Target{target}})
			if err != nil {
				t.Fatal(err)
			}
			payload := p.Members["payload/0.o"]
			l, table := load(t, payload)
			if have := l.rows(t, table, tt.piece); have != tt.want {
				t.Errorf("%s is described as\n%s\nwant\n%s", tt.piece, have, tt.want)
			}
			want := strings.Split(tt.want, "\n")
			for i := range want {
				where, rules, _ := strings.Cut(want[i], ": ")
				want[i] = where + ": " + strings.Fields(rules)[0]
			}
			if have := l.cfas(t, payload, tt.piece); !slices.Equal(have, want) {
				t.Errorf("readelf: %q, want %q", have, want)
			}
		})
	}
}
