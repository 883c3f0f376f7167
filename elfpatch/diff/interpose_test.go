package diff

import "testing"

// Calls among changed functions go to the replacements, except by names that
// another module may define.
func TestCutInterposable(t *testing.T) {
	const source = `
#ifdef AFTER
#define MORE 7
#else
#define MORE 1
#endif
extern long g;
static __attribute__((noinline)) long local(long n) { return g += n + MORE; }
__attribute__((noinline, visibility("hidden"))) long hidden(long n) { return g -= n + MORE; }
__attribute__((noinline)) long shown(long n) { return g ^= n + MORE; }
__attribute__((noinline, weak)) long weak(long n) { return g ^= n * 5 + MORE; }
long f(long n) { return local(n) + hidden(n) * 3 + shown(n) * 5 + weak(n) + MORE; }
`
	for _, cc := range []string{"gcc", "clang", "aarch64-linux-gnu-gcc"} {
		t.Run(cc, func(t *testing.T) {
			tool(t, cc)
			before, after := compile(t, cc, "c", source, []string{"-fPIC"})
			d, err := Compare(before, after, Options{Name: "case.o"})
			if err != nil {
				t.Fatal(err)
			}
			cut, err := d.Cut()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			for _, e := range cut.Externals {
				got[e.Name] = e.Orig
			}
			for _, name := range []string{"shown", "weak"} {
				if i := got[name]; i == 0 || before.Symbols[i].Name != name {
					t.Errorf("%s is not the one of the target: %v", name, got)
				}
			}
			for _, name := range []string{"local", "hidden"} {
				if _, ok := got[name]; ok {
					t.Errorf("%s is called in the target: %v", name, got)
				}
			}
		})
	}
}
