package diff

import (
	"slices"
	"testing"

	"livepatch/internal/refusal"
)

// Static variables of one name that change places are not taken for each other;
// where the code around them stays, they are told apart.
func TestSameStem(t *testing.T) {
	const uses = `
extern void use(long, const char *);
#define ONE { static long k; k += 1; use(k, "one"); }
#define TEN { static long k; k += 10; use(k * 100, "ten"); }
#define SEVEN { static long k = 7; k += 10; use(k * 100, "ten"); }
`
	for _, tc := range []struct {
		name, source string
		refused      bool
	}{
		{"change places", "void f(long n) {\n#ifdef AFTER\nTEN ONE\n#else\nONE TEN\n#endif\n}", true},
		{"change places far apart", "void f(long n) {\n#ifdef AFTER\nTEN use(1, 0); use(2, 0); use(3, 0); use(4, 0); ONE\n#else\nONE use(1, 0); use(2, 0); use(3, 0); use(4, 0); TEN\n#endif\n}", true},
		{"more between", "void f(long n) { use(1, 0); ONE use(3, 0); use(2, 0);\n#ifdef AFTER\nuse(5, 0);\n#endif\nuse(n, 0); TEN }", false},
		{"more behind", "void f(long n) { ONE TEN use(1, 0); use(2, 0);\n#ifdef AFTER\nuse(5, 0);\n#endif\n}", false},
		{"alike", "void f(long n) { ONE ONE ONE use(1, 0); use(2, 0);\n#ifdef AFTER\nuse(5, 0);\n#endif\n}", false},
		{"distinct contents", "void f(long n) { SEVEN\n#ifdef AFTER\nuse(5, 0);\n#endif\n TEN }", false},
	} {
		for _, cc := range []string{"gcc", "clang", "aarch64-linux-gnu-gcc"} {
			t.Run(tc.name+"/"+cc, func(t *testing.T) {
				tool(t, cc)
				before, after := compile(t, cc, "c", uses+tc.source, nil)
				d, err := Compare(before, after, Options{Name: "case.o"})
				if err != nil {
					t.Fatal(err)
				}
				got := slices.ContainsFunc(d.Refusals, func(r refusal.Refusal) bool { return r.Code == refusal.AddressAmbiguous })
				if got != tc.refused {
					t.Errorf("refused: %v\n%v\n%s", got, d.Refusals, summary(d))
				}
			})
		}
	}
}
