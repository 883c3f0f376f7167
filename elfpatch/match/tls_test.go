package match

import (
	"debug/elf"
	"testing"

	"livepatch/elfpatch"
)

const tlsSource = `
static __thread int hidden_a = 5;
static __thread int hidden_b;
extern __thread int far_away;
__thread int mine = 7;
__attribute__((noinline)) int touch(int n) {
	hidden_a += n; hidden_b ^= hidden_a; far_away += 3; mine -= hidden_b;
	return hidden_a + far_away + mine;
}
__attribute__((noinline)) int *where(int n) { return n ? &hidden_b : &far_away; }
`

const tlsMain = `
__thread int far_away = 1;
extern int touch(int); extern int *where(int);
int main(int c, char **v) { return touch(c) + *where(c); }
`

// tpOffset is where a thread-local variable is from the thread pointer.
func tpOffset(f *elfpatch.File, value uint64) uint64 {
	for _, s := range f.Segments {
		if s.Type != elf.PT_TLS {
			continue
		}
		if f.Machine == elf.EM_AARCH64 {
			return (16+s.Align-1)&^(s.Align-1) + value
		}
		return value - (s.MemSize+s.Align-1)&^(s.Align-1)
	}
	return 0
}

// Every model of thread-local access, and what the linker makes of it.
func TestThreadLocal(t *testing.T) {
	x86, arm := elf.EM_X86_64, elf.EM_AARCH64
	for name, r := range map[string]recipe{
		"pie local exec":           {machine: x86, cflags: []string{"-fPIE"}, ldflags: []string{"-pie"}},
		"general to local exec":    {machine: x86, cflags: []string{"-fPIC"}, ldflags: []string{"-pie"}},
		"no plt":                   {machine: x86, cflags: []string{"-fPIC", "-fno-plt"}, ldflags: []string{"-pie"}},
		"initial to local exec":    {machine: x86, cflags: []string{"-fPIC", "-ftls-model=initial-exec"}, ldflags: []string{"-no-pie"}},
		"descriptor to local exec": {machine: x86, cflags: []string{"-fPIC", "-mtls-dialect=gnu2"}, ldflags: []string{"-pie"}},
		"static":                   {machine: x86, cflags: []string{"-fno-pie"}, ldflags: []string{"-static"}},
		"library":                  {machine: x86, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}},
		"library, descriptors":     {machine: x86, cflags: []string{"-fPIC", "-mtls-dialect=gnu2"}, ldflags: []string{"-shared"}},
		"library, initial exec":    {machine: x86, cflags: []string{"-fPIC", "-ftls-model=initial-exec"}, ldflags: []string{"-shared"}},
		"arm64":                    {machine: arm, cflags: []string{"-fPIE"}, ldflags: []string{"-pie"}},
		"arm64 descriptor":         {machine: arm, cflags: []string{"-fPIC"}, ldflags: []string{"-pie"}},
		"arm64 initial":            {machine: arm, cflags: []string{"-fPIC", "-ftls-model=initial-exec"}, ldflags: []string{"-pie"}},
		"arm64 library":            {machine: arm, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := r.build(t, map[string]string{"tls": tlsSource, "main": tlsMain})
			o := p.objs["tls"]
			proof, err := Prove(o, []int{sym(t, o, "touch"), sym(t, o, "where")}, p.stripped, nil, Options{Object: "tls.o"})
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range []string{"hidden_a", "hidden_b", "mine", "far_away"} {
				got, ok := proof.Resolve(sym(t, o, v))
				if !ok {
					t.Errorf("%s: nothing known", v)
				}
				want := tpOffset(p.target, addrs(p.target, v)[0])
				if tp, ok := got[TPOffset]; ok && tp.Value != want {
					t.Errorf("%s: offset %#x, the symbol table gives %#x", v, tp.Value, want)
				}
				if r.ldflags[0] != "-shared" && got[TPOffset].Uses == 0 {
					t.Errorf("%s: %v: no offset in an executable", v, got)
				}
				t.Log(v, got)
			}
		})
	}
}

// A variable of a library is reached through the executable's GOT, whatever
// model the object was compiled for.
func TestThreadLocalOfLibrary(t *testing.T) {
	for name, r := range map[string]recipe{
		"general to initial exec":    {machine: elf.EM_X86_64, cflags: []string{"-fPIC"}},
		"descriptor to initial exec": {machine: elf.EM_X86_64, cflags: []string{"-fPIC", "-mtls-dialect=gnu2"}},
		"initial exec":               {machine: elf.EM_X86_64, cflags: []string{"-fPIE"}},
		"arm64 descriptor":           {machine: elf.EM_AARCH64, cflags: []string{"-fPIC"}},
		"arm64 initial exec":         {machine: elf.EM_AARCH64, cflags: []string{"-fPIE"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lib := recipe{machine: r.machine, cflags: []string{"-fPIC"}, ldflags: []string{"-shared"}}
			l := lib.build(t, map[string]string{"lib": "__thread int far_away = 1;\n"})
			r.ldflags = []string{"-pie", "-Wl,--no-as-needed", l.dir + "/target"}
			p := r.build(t, map[string]string{"tls": tlsSource, "main": "int touch(int); int main(int c, char **v) { return touch(c); }\n"})
			o := p.objs["tls"]
			proof, err := Prove(o, []int{sym(t, o, "touch")}, p.stripped, nil, Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, _ := proof.Resolve(sym(t, o, "far_away"))
			s, ok := got[TPSlot]
			if !ok {
				t.Fatalf("far_away: %v", got)
			}
			rel, ok := proof.p.img.slotAt(s.Value)
			if !ok || rel.name != "far_away" {
				t.Errorf("the GOT entry at %#x is filled with %+v", s.Value, rel)
			}
		})
	}
}
