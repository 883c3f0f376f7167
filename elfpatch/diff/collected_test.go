package diff

import (
	"slices"
	"testing"

	"livepatch/internal/refusal"
)

// Names that move to another function, and new entries of tables that the
// linker makes, are refused.
func TestNamesAndTables(t *testing.T) {
	const alias = `
long one(long n) { return n + 1; }
long two(long n) { return n + 2; }
`
	const table = `
#define ENTRY(n) static const long entry_##n __attribute__((section("cmds"), used)) = n;
ENTRY(1)
`
	for _, tc := range []struct {
		name, source string
		refused      bool
	}{
		{"alias moves", alias + "#ifdef AFTER\nlong a(long) __attribute__((alias(\"two\")));\n#else\nlong a(long) __attribute__((alias(\"one\")));\n#endif", true},
		{"alias stays", "#ifdef AFTER\nint more(int i) { return i; }\n#endif\n" + alias + "long a(long) __attribute__((alias(\"one\")));", false},
		{"entry", table + "#ifdef AFTER\nENTRY(2)\n#endif\nint f(void) { return 0; }", true},
		{"no entry", table + "#ifdef AFTER\nint f(void) { return 1; }\n#else\nint f(void) { return 0; }\n#endif\n", false},
	} {
		for _, cc := range []string{"gcc", "clang", "aarch64-linux-gnu-gcc"} {
			t.Run(tc.name+"/"+cc, func(t *testing.T) {
				tool(t, cc)
				before, after := compile(t, cc, "c", tc.source, nil)
				d, err := Compare(before, after, Options{Name: "case.o"})
				if err != nil {
					t.Fatal(err)
				}
				got := slices.ContainsFunc(d.Refusals, func(r refusal.Refusal) bool { return r.Code == refusal.Unsupported })
				if got != tc.refused {
					t.Errorf("refused: %v\n%v\n%s", got, d.Refusals, summary(d))
				}
			})
		}
	}
}
