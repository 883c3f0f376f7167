package build

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch/match"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/manifest"
)

// neighbours jump to each other: with a section for each function the jumps are
// long and relocated, without they are short.
const neighbours = `
static int counter = 3;
__attribute__((noinline)) static int step(int by) { counter += by; return counter * 7; }
__attribute__((noinline)) int work(int n) { if (n > counter) return step(n + 1); counter ^= n; return step(n); }
__attribute__((noinline)) int again(int n) { counter -= n; return n & 1 ? step(n) : work(n + 2); }
`

const neighboursMain = `
extern int work(int), again(int);
int main(int argc, char **argv) { return work(argc) + again(argc); }
`

// plainInputs are a stripped target, built without sections, and a pair with
// sections.
func plainInputs(t *testing.T, before, plain string) Inputs {
	t.Helper()
	plainly, sections := recipes["pie"], recipes["sections"]
	after := strings.Replace(before, "counter ^= n", "counter |= n", 1)
	in := plainly.inputs(t, neighbours, after, neighboursMain)
	pair := &in.Targets[0].Pairs[0]
	pair.Orig = testkit.ELF(t, sections.object(t, "unit", before))
	pair.Patched = testkit.ELF(t, sections.object(t, "unit", after))
	pair.Plain = testkit.ELF(t, plainly.object(t, "unit", plain))
	in.Record = &manifest.Build{}
	return in
}

// Where the object as the target's build makes it is proven, that with sections is
// proven too, though its jumps have other lengths.
func TestPlain(t *testing.T) {
	in := plainInputs(t, neighbours, neighbours)
	p, err := Create(in)
	if err != nil {
		t.Fatal(err)
	}
	proof := p.Manifest.Build.Proofs[0]
	relaxed := slices.ContainsFunc(proof.Masked, func(m manifest.Masked) bool { return m.Kind == match.BranchRelaxation.String() })
	if proof.Function != "work" || !relaxed {
		t.Errorf("proof %+v, want one with other jumps", proof)
	}
	// Without the other object the jumps are not excused.
	in.Targets[0].Pairs[0].Plain = nil
	wantNotRunning(t, in)
}

func TestPlainDiffers(t *testing.T) {
	other := strings.Replace(neighbours, "n + 1", "n + 5", 1)
	t.Run("the plain object is not the target's code", func(t *testing.T) { wantNotRunning(t, plainInputs(t, neighbours, other)) })
	t.Run("the object with sections is another one", func(t *testing.T) { wantNotRunning(t, plainInputs(t, other, neighbours)) })
	t.Run("the plain object has not the function", func(t *testing.T) {
		wantNotRunning(t, plainInputs(t, neighbours, strings.ReplaceAll(neighbours, "work", "works")))
	})
}

func wantNotRunning(t *testing.T, in Inputs) {
	t.Helper()
	_, err := Create(in)
	var list refusal.List
	if !errors.As(err, &list) || !slices.ContainsFunc(list, func(r refusal.Refusal) bool {
		return r.Code == refusal.NotTheRunningCode && strings.HasPrefix(r.Where, "unit.o: work")
	}) {
		t.Errorf("error %v, want %s of unit.o: work", err, refusal.NotTheRunningCode)
	}
}
