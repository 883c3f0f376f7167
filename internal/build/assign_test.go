package build

import (
	"debug/elf"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// assigned makes a stripped program of a source and a unit of each pair of a
// before and an after source. It returns how many pairs the program gets, and
// what is said against them.
func assigned(t *testing.T, program string, units [][2]string, allow ...refusal.Code) (pairs int, refusals, findings []string) {
	t.Helper()
	r := recipe{elf.EM_X86_64, "-O2 -fPIE -ffunction-sections", "-pie"}
	dir := t.TempDir()
	target := filepath.Join(dir, "prog")
	testkit.Run(t, "gcc", "-pie", "-s", "-Wl,--gc-sections", "-o", target, r.object(t, "prog", program))
	var list []*Unit
	for _, u := range units {
		before, after := testkit.ELF(t, r.object(t, "unit", u[0])), testkit.ELF(t, r.object(t, "unit", u[1]))
		list = append(list, &Unit{Source: "unit.c", Object: "unit.o", Before: before, After: after, Plain: before})
	}
	a, err := Assign(list, []Target{{Name: "prog", File: testkit.ELF(t, target)}}, allow)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range a.Targets {
		pairs += len(x.Pairs)
	}
	for _, x := range a.Refusals {
		refusals = append(refusals, x.Error())
	}
	for _, x := range a.Findings {
		findings = append(findings, x.Refusal().Error())
	}
	if len(a.Used) != pairs {
		t.Errorf("%d units are used in %d pairs", len(a.Used), pairs)
	}
	return pairs, refusals, findings
}

const (
	assignedUnit = `
__attribute__((noipa)) int part(int x) { return x * 1234567 + 89; }
__attribute__((noipa)) int whole(int x) { return part(x) * 31 + 4; }
__attribute__((noipa)) int unused(int x) { return x * 7654321 ^ 98; }
`
	assignedMain = `int main(int c, char **v) { return whole(c); }`
)

func TestAssign(t *testing.T) {
	testkit.Tool(t, "gcc")
	changed := func(edits ...string) string { return strings.NewReplacer(edits...).Replace(assignedUnit) }
	fix := []string{"* 31 + 4", "* 31 + 5"}
	for _, c := range []struct {
		name, program string
		units         [][2]string
		allow         refusal.Code
		pairs         int
		want          string // of the refusal, or the finding
	}{
		{name: "all but what nothing refers to", program: assignedUnit + assignedMain, units: [][2]string{{assignedUnit, changed(fix...)}}, pairs: 1},
		{name: "another function beside it", program: changed("* 1234567", "/ 77") + assignedMain, units: [][2]string{{assignedUnit, changed(fix...)}},
			want: "unit.c: prog: it has functions of this source, but not part, which they refer to (*) [unit-doubtful]"},
		{name: "allowed", program: changed("* 1234567", "/ 77") + assignedMain, units: [][2]string{{assignedUnit, changed(fix...)}}, allow: refusal.UnitDoubtful, pairs: 1,
			want: "unit.c: prog: it has functions of this source, but not part, which they refer to (*) [unit-doubtful]"},
		{name: "none of it", program: changed("* 31 + 4", "* 33 + 4") + assignedMain, units: [][2]string{{assignedUnit, changed(fix...)}},
			want: "unit.c: the target does not have what the patch changes: it is not linked from it, or it was compiled otherwise (*whole*) [unit-not-in-target]"},
		{name: "what the linker left out", program: assignedUnit + assignedMain, units: [][2]string{{assignedUnit, changed("7654321 ^ 98", "7654321 ^ 97")}},
			want: "unit.c: the target does not have what the patch changes: it is not linked from it, or it was compiled otherwise (*unused*) [unit-not-in-target]"},
		{name: "nothing differs", program: assignedUnit + assignedMain, units: [][2]string{{assignedUnit, assignedUnit}}},
		{name: "two ways that are one", program: assignedUnit + assignedMain, units: [][2]string{{assignedUnit, changed(fix...)}, {assignedUnit, changed(fix...)}}, pairs: 1},
		{name: "two ways", program: assignedUnit + assignedMain, units: [][2]string{{assignedUnit, changed(fix...)}, {assignedUnit, changed("* 31 + 4", "* 31 + 6")}},
			want: "unit.c: prog: it is compiled in several ways, which differ, and more than one may be the one that it is linked from [unit-doubtful]"},
		{name: "two ways, of which one is it", program: assignedUnit + assignedMain, pairs: 1,
			units: [][2]string{{changed("* 31 + 4", "* 33 + 4"), changed("* 31 + 4", "* 33 + 5")}, {assignedUnit, changed(fix...)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pairs, refusals, findings := assigned(t, c.program, c.units, c.allow)
			got := refusals
			if c.allow != "" {
				got = findings
			}
			if pairs != c.pairs || len(refusals)+len(findings) != len(got) || len(got) > 1 || (len(got) == 1) != (c.want != "") || len(got) == 1 && !matches(got[0], c.want) {
				t.Errorf("%d pairs, refused %q, allowed %q", pairs, refusals, findings)
			}
		})
	}
}

// matches compares a text with one in which stars stand for anything.
func matches(text, want string) bool {
	parts := strings.Split(want, "*")
	if !strings.HasPrefix(text, parts[0]) || !strings.HasSuffix(text, parts[len(parts)-1]) {
		return false
	}
	return !slices.ContainsFunc(parts, func(p string) bool {
		i := strings.Index(text, p)
		if i >= 0 {
			text = text[i+len(p):]
		}
		return i < 0
	})
}
