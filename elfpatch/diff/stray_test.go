package diff

import (
	"strings"
	"testing"
)

const straySource = `
#ifdef AFTER
#define C(a, b) b
static const int early[7] = {9, 8, 7, 6, 5, 4, 3};
int more(int i) { return early[i]; }
#else
#define C(a, b) a
#endif
static const char low[26] = "zyxwvutsrqponmlkjihgfedcba";
static const int nums[10] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
static const int nums2[10] = {13, 11, 14, 11, 15, 19, 12, 16, 15, 13};
__attribute__((noinline)) int letter(long c) { return low[c - 'a'] * C(1, 1000); }
__attribute__((noinline)) int number(long n) { return nums[n - 1000] + 100 * nums2[n - 1000] + C(0, 7); }
__attribute__((noinline)) const char *code(long n) {
	const char *s = "\0\1\0\2\1\3" + 0;
	static const void *const table[] = {&&a, &&b, &&end};
	long sum = C(1, 2);
	if (n > 3) return 0;
	goto *table[(int)*s++ & 1];
a: sum += n; if (sum > 50) goto end; goto *table[(int)*s++ & 1];
b: sum *= 3; goto *table[(int)*s++ & 1];
end: return s + sum;
}
`

const strayLive = `
#ifdef AFTER
static long inserted[5];
#endif
static long counts[10], other[10];
#ifdef AFTER
__attribute__((noinline)) long live(long n) { inserted[n - 100]++; return counts[n - 100]++ + other[n - 100] + counts[n - 100]; }
#else
__attribute__((noinline)) long live(long n) { return counts[n - 100]++ + other[n - 100]; }
#endif
`

// Tables with an index that begins far from zero are reached from addresses
// outside of them; they are copied with their neighbours.
func TestCutStray(t *testing.T) {
	const main = `
int letter(long), number(long);
int main(void) { for (int i = 0; i < 10; i++) printf("%d %d\n", letter('a' + i), number(1000 + i)); }
`
	for _, flags := range [][]string{nil, {"-fno-pie", "-no-pie"}, {"-O1"}, {"-fno-pie", "-no-pie", "-fno-merge-constants"}, {"-fno-pie", "-no-pie", "-fdata-sections"}} {
		for _, cc := range []string{"gcc", "clang"} {
			tool(t, cc)
			behaves(t, cc, flags, straySource, main)
		}
	}
}

// So it is with variables that did not move; those that did cannot be told
// apart.
func TestCutStrayLive(t *testing.T) {
	for _, cc := range []string{"gcc", "clang"} {
		tool(t, cc)
		for flag, refused := range map[string]bool{"-fno-data-sections": true, "-fdata-sections": false} {
			before, after := compile(t, cc, "c", strayLive, []string{"-fno-pie", "-no-pie", flag})
			d, err := Compare(before, after, Options{Name: "case.o"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Cut(); (err != nil && strings.Contains(err.Error(), "[address-ambiguous]")) != refused {
				t.Errorf("%s %s: %v", cc, flag, err)
			}
		}
	}
}
