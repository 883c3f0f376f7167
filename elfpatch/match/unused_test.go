package match

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"

	"livepatch/internal/refusal"
)

const weakSource = `
int calls;
__attribute__((weak, noinline)) int rate(int n) { calls += n; return n * 17 + calls; }
__attribute__((weak, noinline)) int limit(int n) { calls ^= n; return n * 23 - calls; }
__attribute__((noinline)) int work(int n) { calls -= 3; return limit(n) * 5 ^ calls; }
`

const strongSource = `
extern int calls; extern int work(int), limit(int);
__attribute__((noinline)) int rate(int n) { calls *= 7; return n - calls; }
int main(int argc, char **argv) { return work(argc) + rate(argc); }
`

// A weak function in whose place the target has another object's is found and
// not taken for what runs.
func TestUnused(t *testing.T) {
	for _, name := range []string{"pie", "arm64pie"} {
		t.Run(name, func(t *testing.T) {
			p := recipes[name].build(t, map[string]string{"a_weak": weakSource, "strong": strongSource})
			o := p.objs["a_weak"]
			rate, limit, work := sym(t, o, "rate"), sym(t, o, "limit"), sym(t, o, "work")
			target, err := NewTarget(p.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			survey, err := target.Survey(o, []int{rate, limit, work}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(survey.Proof.Funcs); n != 2 {
				t.Errorf("%d functions proven, want limit and work", n)
			}
			if len(survey.Missed) != 1 || survey.Missed[0].Unused == nil || survey.Missed[0].Refusal.Code != refusal.NotTheRunningCode {
				t.Fatalf("missed: %+v", survey.Missed)
			}
			got := survey.Missed[0].Unused
			if run := addrs(p.target, "rate")[0]; got.Addr == run || !strings.Contains(survey.Missed[0].Refusal.Text, "another object's") {
				t.Errorf("found at %#x, the other one is at %#x: %s", got.Addr, run, survey.Missed[0].Refusal.Text)
			}
			f := survey.Proof.p.funcs[rate]
			code, ok := p.target.ReadAddr(got.Addr, len(f.code))
			runs := fixedRuns(o.Machine, f)
			if !ok || len(runs) == 0 {
				t.Fatalf("%#x: %v, %d runs", got.Addr, ok, len(runs))
			}
			for _, r := range runs {
				if !bytes.Equal(code[r[0]:r[1]], f.code[r[0]:r[1]]) {
					t.Errorf("+%#x: % x, want % x", r[0], code[r[0]:r[1]], f.code[r[0]:r[1]])
				}
			}
		})
	}
}

// Without symbols nothing says which definition of a weak function runs, unless
// code of the object leads to it.
func TestUnusedStripped(t *testing.T) {
	p := recipe{machine: elf.EM_X86_64, cflags: []string{"-fPIE"}, ldflags: []string{"-pie"}}.build(t,
		map[string]string{"a_weak": weakSource, "strong": strongSource})
	o := p.objs["a_weak"]
	rate, limit, work := sym(t, o, "rate"), sym(t, o, "limit"), sym(t, o, "work")
	survey, err := Try(o, []int{rate, limit, work}, p.stripped, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(survey.Proof.Funcs) != 2 || len(survey.Missed) != 1 {
		t.Fatalf("proven %+v, missed %+v", survey.Proof.Funcs, survey.Missed)
	}
	if m := survey.Missed[0]; m.Symbol != rate || m.Refusal.Code != refusal.AddressAmbiguous || !strings.Contains(m.Refusal.Text, "is weak") {
		t.Errorf("missed: %+v", m)
	}
}
