package match

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/refusal"
)

// edited parses a copy of a file with one byte changed at a link-time address.
func edited(t testing.TB, f *elfpatch.File, addr uint64, change func(*byte)) *elfpatch.File {
	t.Helper()
	raw, ok := f.ReadAddr(addr, 1)
	if !ok {
		t.Fatalf("no byte at %#x", addr)
	}
	_ = raw
	c := *f
	c.Segments = slices.Clone(f.Segments)
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	g, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := g.ReadAddr(addr, 1)
	if !ok {
		t.Fatalf("no byte at %#x", addr)
	}
	change(&p[0])
	return g
}

// Every changed byte of a proven function is noticed: outside the relocated
// fields always, inside them whenever a symbol table or another use tells.
func TestMutants(t *testing.T) {
	for _, name := range []string{"pie", "nopie", "shared", "noplt", "arm64pie", "arm64st"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := recipes[name].build(t, map[string]string{"counter": counterSource, "main": mainSource})
			o := p.objs["counter"]
			work := sym(t, o, "work")
			proof, err := Prove(o, []int{work}, p.stripped, nil, Options{})
			if err != nil {
				t.Fatal(err)
			}
			f := proof.p.funcs[work]
			field := make([]bool, f.size)
			for _, r := range f.rels {
				lo, hi := variable(o.Machine, r)
				for k := lo; k < min(hi, len(field)); k++ {
					field[k] = true
				}
			}
			slipped := 0
			mutant := edited(t, p.stripped, f.addr, func(*byte) {})
			for k := range field {
				b, _ := mutant.ReadAddr(f.addr+uint64(k), 1)
				for bit := range 8 {
					b[0] ^= 1 << bit
					got, err := Prove(o, []int{work}, mutant, nil, Options{})
					if err == nil && !field[k] {
						t.Errorf("bit %d of +%#x: still proven", bit, k)
					}
					if err == nil && sameFacts(got, proof) {
						t.Errorf("bit %d of +%#x: nothing noticed", bit, k)
					}
					if err == nil {
						slipped++
					}
					b[0] ^= 1 << bit
				}
			}
			t.Logf("%d of %d flips are another address", slipped, 8*len(field))
		})
	}
}

// sameFacts reports whether two proofs say the same about every symbol.
func sameFacts(a, b *Proof) bool {
	if len(a.p.facts) != len(b.p.facts) {
		return false
	}
	for k, v := range a.p.facts {
		if w := b.p.facts[k]; w == nil || w.value != v.value {
			return false
		}
	}
	return true
}

// One changed byte is not the running code, and the refusal shows both sides.
func TestDifference(t *testing.T) {
	p := recipes["pie"].build(t, map[string]string{"counter": counterSource, "main": mainSource})
	o := p.objs["counter"]
	for _, target := range []*elfpatch.File{p.target, p.stripped} {
		addr := addrs(p.target, "peek")[0]
		mutant := edited(t, target, addr, func(b *byte) { *b ^= 0x40 })
		_, err := Prove(o, []int{sym(t, o, "peek")}, mutant, nil, Options{Object: "counter.o", Target: "prog"})
		if codes(err) != string(refusal.NotTheRunningCode) {
			t.Fatalf("error %v", err)
		}
		text := err.Error()
		if !strings.HasPrefix(text, "counter.o: peek+0x0: the object has \"") || !strings.Contains(text, "prog has \"") {
			t.Errorf("%s", text)
		}
	}
}

func TestUnrelatedObject(t *testing.T) {
	p := recipes["pie"].build(t, map[string]string{"counter": counterSource, "main": mainSource})
	other := recipes["pie"].build(t, map[string]string{"main": `
int main(int argc, char **argv) { return argc; }
int lonely(int a, int b) { for (int i = 0; i < a; i++) b = b * 31 + (b >> 7) + i * a; return b ^ 0x55aa1234; }
`})
	o := other.objs["main"]
	_, err := Prove(o, []int{sym(t, o, "lonely")}, p.stripped, nil, Options{})
	if codes(err) != string(refusal.NotTheRunningCode) {
		t.Errorf("error %v", err)
	}
}

const twinSource = `
static int seen;
int extra_NAME(void);
__attribute__((noinline, noclone)) static int twin(int a) {
	int s = 0;
	for (int i = 0; i < a; i++) { s = s * 33 + i; if (s > 1000) s -= a * 7; }
	seen += s;
	return s;
}
int NAME(int a) { return twin(a + CONST) * 3 + extra_NAME(); }
`

func twins(names ...string) map[string]string {
	out := map[string]string{}
	main := "int main(int c, char **v) { return 0"
	decl := ""
	for i, n := range names {
		src := strings.ReplaceAll(twinSource, "NAME", n)
		out[n] = strings.ReplaceAll(src, "CONST", string(rune('1'+i)))
		decl += "int " + n + "(int); int extra_" + n + "(void) { return " + string(rune('1'+i)) + "; }\n"
		main += " + " + n + "(c)"
	}
	out["main"] = decl + main + "; }\n"
	return out
}

// Two objects hold the same static function under the same name, each with a
// counter of its own. The function that calls it decides which is which.
func TestTwins(t *testing.T) {
	for _, name := range []string{"pie", "sections", "static", "arm64pie"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := recipes[name].build(t, twins("left", "right"))
			counters := map[uint64]bool{}
			for _, who := range []string{"left", "right"} {
				o := p.objs[who]
				for _, target := range []*elfpatch.File{p.stripped, p.target} {
					proof, err := Prove(o, []int{sym(t, o, "twin")}, target, nil, Options{})
					if err != nil {
						t.Fatalf("%s: %v", who, err)
					}
					r, _ := proof.Resolve(sym(t, o, "seen"))
					counters[r[Address].Value] = true
				}
			}
			want := addrs(p.target, "seen")
			if len(counters) != 2 || !counters[want[0]] || !counters[want[1]] {
				t.Errorf("counters at %v, the symbol table has %#x", counters, want)
			}
		})
	}
}

// Without anything that decides, two places are one too many.
func TestAmbiguous(t *testing.T) {
	src := map[string]string{}
	for _, n := range []string{"a", "b"} {
		src[n] = strings.ReplaceAll(`
static int seen;
int NAME(int a) {
	int s = 0;
	for (int i = 0; i < a; i++) { s = s * 33 + i; if (s > 1000) s -= a * 7; }
	seen += s;
	return seen;
}`, "NAME", "f"+n)
	}
	src["main"] = "int fa(int), fb(int); int main(int c, char **v) { return fa(c) + fb(c); }"
	p := recipes["pie"].build(t, src)
	o := p.objs["a"]
	_, err := Prove(o, []int{sym(t, o, "fa")}, p.stripped, nil, Options{})
	if codes(err) != string(refusal.AddressAmbiguous) {
		t.Errorf("stripped: error %v", err)
	}
	if _, err = Prove(o, []int{sym(t, o, "fa")}, p.target, nil, Options{}); err != nil {
		t.Errorf("with symbols: %v", err)
	}
	if _, err = Prove(o, []int{sym(t, o, "fa")}, p.stripped, p.target, Options{}); err != nil {
		t.Errorf("with debug file: %v", err)
	}
}

// A call of another library function is another program, although only a
// relocated field differs.
func TestOtherCallee(t *testing.T) {
	src := func(call string) map[string]string {
		return map[string]string{
			"f":    "int getpid(void); int getppid(void);\nint f(int n) { int r = n; for (int i = 0; i < n; i++) r += " + call + "() * i; return r; }\n",
			"main": "int f(int), getpid(void), getppid(void); int main(int c, char **v) { return f(c) + getpid() + getppid(); }\n",
		}
	}
	for _, name := range []string{"pie", "noplt", "arm64pie"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := recipes[name].build(t, src("getpid"))
			b := recipes[name].build(t, src("getpid"))
			o := a.objs["f"]
			if _, err := Prove(o, []int{sym(t, o, "f")}, b.stripped, nil, Options{}); err != nil {
				t.Fatal(err)
			}
			for i := range o.Symbols {
				if o.Symbols[i].Name == "getpid" {
					o.Symbols[i].Name = "getppid"
				}
			}
			_, err := Prove(o, []int{sym(t, o, "f")}, b.stripped, nil, Options{})
			if codes(err) != string(refusal.NotTheRunningCode) || !strings.Contains(err.Error(), "getppid") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestOtherString(t *testing.T) {
	src := func(s string) map[string]string {
		return map[string]string{
			"f":    "#include <stdio.h>\nint f(int n) { int r = 0; for (int i = 0; i < n; i++) r += printf(\"" + s + "\", i * 7); return r; }\n",
			"main": "int f(int); int main(int c, char **v) { return f(c); }\n",
		}
	}
	for _, name := range []string{"pie", "nopie", "arm64pie"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := recipes[name].build(t, src("value %d\\n"))
			b := recipes[name].build(t, src("number %d\\n"))
			o := a.objs["f"]
			_, err := Prove(o, []int{sym(t, o, "f")}, b.stripped, nil, Options{})
			if codes(err) != string(refusal.NotTheRunningCode) || !strings.Contains(err.Error(), "value %d") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A variable begins as the object says, zero included.
func TestOtherInitialValue(t *testing.T) {
	const source = `static int total%s; __attribute__((noinline)) int step(int by) { total += by; return total; }`
	for _, name := range []string{"pie", "shared", "arm64pie"} {
		build := func(value string) *program {
			return recipes[name].build(t, map[string]string{"unit": strings.Replace(source, "%s", value, 1), "main": `int step(int); int main(void) { return step(1); }`})
		}
		zero, five := build(""), build(" = 5")
		for _, c := range []struct {
			object, target *program
			want           string
		}{
			{zero, zero, ""}, {five, five, ""},
			{zero, five, ".bss+0x0 is 0 in the object, 5 at"},
			{five, zero, "the file does not hold"},
		} {
			o := c.object.objs["unit"]
			_, err := Prove(o, []int{sym(t, o, "step")}, c.target.stripped, nil, Options{})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", name, err, c.want)
			}
		}
	}
}

// The symbol table and the code must agree.
func TestSymbolTableDisagrees(t *testing.T) {
	p := recipes["pie"].build(t, map[string]string{"counter": counterSource, "main": mainSource})
	o := p.objs["counter"]
	for i := range p.target.Symbols {
		if s := &p.target.Symbols[i]; s.Name == "counter" {
			s.Value += 64
		}
	}
	_, err := Prove(o, []int{sym(t, o, "step")}, p.target, nil, Options{})
	if codes(err) != string(refusal.NotTheRunningCode) || !strings.Contains(err.Error(), "symbol table") {
		t.Errorf("error %v", err)
	}
}

func TestKinds(t *testing.T) {
	p := recipes["pie"].build(t, map[string]string{"counter": counterSource, "main": mainSource})
	o := p.objs["counter"]
	arm := &elfpatch.File{Type: elf.ET_EXEC, Machine: elf.EM_AARCH64}
	for _, tc := range []struct {
		orig, target *elfpatch.File
		want         string
	}{
		{p.target, p.target, "not relocatable"},
		{o, o, "neither executable nor shared library"},
		{o, arm, "different machines"},
	} {
		if _, err := Prove(tc.orig, nil, tc.target, nil, Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v, want %q", err, tc.want)
		}
	}
	other := recipes["sections"].build(t, map[string]string{"counter": counterSource, "main": mainSource})
	if _, err := Prove(o, nil, p.target, other.target, Options{}); err == nil || !strings.Contains(err.Error(), "build-id") {
		t.Errorf("debug file of another build: error %v", err)
	}
	if _, err := Prove(o, []int{sym(t, o, "counter")}, p.target, nil, Options{}); codes(err) != string(refusal.Unsupported) {
		t.Errorf("a variable as function: %v", err)
	}
}
