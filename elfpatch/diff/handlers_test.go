package diff

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// Handlers for exceptions belong to their function, also where its instructions
// stay the same.
func TestHandlers(t *testing.T) {
	cc := testkit.Tool(t, "g++")
	for _, tc := range []struct {
		name, source string
		want         []string
		unwinds      string // what the cut says
		handlers     int    // functions of the cut that have some
	}{
		{"another type", `
#ifdef AFTER
typedef long type;
#else
typedef int type;
#endif
void may(int);
int f(int x) { try { may(x); } catch (type) { return 1; } return 0; }
int same(int x) { try { may(x); } catch (char) { return 1; } return 0; }
`, []string{"changed _Z1fi"}, "_Z1fi has handlers for exceptions", 1},
		{"noexcept", `
#ifdef AFTER
#define MAYBE noexcept
#else
#define MAYBE
#endif
void may(int);
int f(int x) MAYBE { may(x); return 0; }
`, []string{"changed _Z1fi"}, "_Z1fi has handlers for exceptions", 1},
		{"goes through", `
#ifdef AFTER
enum { by = 2 };
#else
enum { by = 1 };
#endif
int may(int);
int f(int x) { return may(x) + by; }
int same(int x) { try { may(x); } catch (char) { return 1; } return 0; }
`, []string{"changed _Z1fi"}, "_Z1fi calls _Z3mayi, which may throw", 0},
		{"cannot", `
#ifdef AFTER
enum { by = 2 };
#else
enum { by = 1 };
#endif
int may(int);
int f(int x) { return x + by; }
int same(int x) { try { may(x); } catch (char) { return 1; } return 0; }
`, []string{"changed _Z1fi"}, "", 0},
		{"a type of its own", `
void may(int);
#ifdef AFTER
struct fresh { int v; virtual ~fresh() {} };
int f(int x) { try { may(x); } catch (const fresh &e) { return e.v; } return 0; }
#else
int f(int x) { may(x); return 0; }
#endif
`, []string{"changed _Z1fi"}, "_Z1fi has handlers for exceptions", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := compile(t, cc, "cc", tc.source, []string{"-fPIC", "-ffunction-sections"})
			d, err := Compare(a, b, Options{Name: "o"})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range d.Funcs {
				if f.Status == Changed && f.Parent == 0 {
					got = append(got, string(f.Status)+" "+f.Name)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
			cut, err := d.Cut()
			if err != nil {
				t.Fatal(err)
			}
			if cut.Unwinds != tc.unwinds {
				t.Errorf("unwinds: %q, want %q", cut.Unwinds, tc.unwinds)
			}
			handlers := 0
			for _, s := range cut.Object.Sections {
				if strings.HasPrefix(s.Name, ".gcc_except_table.") && !strings.HasSuffix(s.Name, ".cold") {
					handlers++
				}
			}
			if cut.Object.Section(".eh_frame") == nil || handlers != tc.handlers {
				t.Errorf(".eh_frame is missing, or %d functions have handlers, not %d", handlers, tc.handlers)
			}
		})
	}
}

// GCC's description of a patchable function of arm64 begins behind its NOPs.
func TestFramesBehindNops(t *testing.T) {
	cc := testkit.Tool(t, "aarch64-linux-gnu-g++")
	const source = `
void may(int);
#ifdef AFTER
int f(int x) { try { may(x + 1); } catch (int) { return 1; } return 0; }
#else
int f(int x) { try { may(x); } catch (int) { return 1; } return 0; }
#endif
`
	a, b := compile(t, cc, "cc", source, []string{"-fPIC", "-fpatchable-function-entry=5,3"})
	d, err := Compare(a, b, Options{Name: "o"})
	if err != nil {
		t.Fatal(err)
	}
	cut, err := d.Cut()
	if err != nil {
		t.Fatal(err)
	}
	frames := cut.Object.Section(".eh_frame")
	if frames == nil {
		t.Fatal(".eh_frame is missing")
	}
	addends := map[int64]bool{}
	list, err := cut.Object.Relocations(frames)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if cut.Object.Symbols[r.Symbol].Name == "_Z1fi" {
			addends[r.Addend] = true
		}
	}
	if len(addends) != 1 || !addends[8] {
		t.Errorf("the function is described from %v on, not from 8", addends)
	}
}

// What says how frames are unwound, and what throws, is moved with the code.
func TestMovedFrames(t *testing.T) {
	l := &layout{old: []insn{{off: 0, len: 2}, {off: 2, len: 3}, {off: 5, len: 1}}, now: []int{0, 0x45, 0x48, 0x49}}
	program, err := hex.DecodeString("42" + "0e10" + "43" + "0a" + "8602" + "0f0177" + "00")
	if err != nil {
		t.Fatal(err)
	}
	got, ok := movedProgram(program, &common{align: []byte{1, 0x78}}, l)
	if want := "0245" + "0e10" + "43" + "0a" + "8602" + "0f0177" + "00"; !ok || hex.EncodeToString(got) != want {
		t.Errorf("%x, want %s", got, want)
	}
	for _, bad := range []string{"010000000000000000", "0e", "3f", "0f10"} {
		program, _ := hex.DecodeString(bad)
		if out, ok := movedProgram(program, &common{align: []byte{1, 0x78}}, l); ok {
			t.Errorf("%s became %x", bad, out)
		}
	}
	// One call, the second instruction, with a landing pad at the third and one
	// action; behind that the four bytes of a type.
	data, err := hex.DecodeString("ff" + "9b" + "0c" + "01" + "04" + "02030501" + "0100" + "aabbccdd")
	if err != nil {
		t.Fatal(err)
	}
	h := &handlers{calls: []callSite{{2, 3, 5, 1}}, actions: 9, types: 15, typeSize: 4, typeCode: 0x9b}
	if moved, want := hex.EncodeToString(h.moved(data, l)), "ff"+"9b"+"0c"+"01"+"04"+"45034801"+"0100"+"aabbccdd"; moved != want {
		t.Errorf("%s, want %s", moved, want)
	}
}
