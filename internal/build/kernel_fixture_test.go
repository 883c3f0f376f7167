package build

import (
	"bytes"
	"cmp"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/testkit"
)

// A kernelRecipe is how the sources of a test become a kernel of our own and
// modules of it, with nothing in them but what livepatch modules touch.
type kernelRecipe struct {
	name    string
	machine elf.Machine
	tools   string
	cflags  string
	kcfi    bool // functions have hashes before them
}

var kernelRecipes = []kernelRecipe{
	{"x86-64", elf.EM_X86_64, "x86_64-linux-gnu-", "-pg -mfentry -mrecord-mcount -mcmodel=kernel -mno-red-zone -fcf-protection=none", false},
	{"arm64", elf.EM_AARCH64, "aarch64-linux-gnu-", "-fpatchable-function-entry=2 -mbranch-protection=none -mno-outline-atomics", false},
}

const testVermagic = "6.99.0-test SMP mod_unload "

// kernelHeader is what the sources of all objects begin with.
const kernelHeader = `
extern int _printk(const char *fmt, ...);
extern int helper(int);
struct seq_file;
extern void seq_puts(struct seq_file *m, const char *s);
extern void mutex_lock(void *), mutex_unlock(void *);
#define noinline __attribute__((noinline))
#define notrace __attribute__((no_instrument_function, patchable_function_entry(0, 0)))
#define init __attribute__((section(".init.text"), cold))
#define CALLBACK(kind, fn) \
	static void (*lp_##kind##_##fn)(void *) __attribute__((section(".livepatch.callbacks." #kind), used)) = fn
`

// kernelCore is the rest of the kernel.
const kernelCore = kernelHeader + `
int klp_enable_patch(void *patch) { return patch != 0; }
int _printk(const char *fmt, ...) { return *fmt; }
int helper(int x) { return x * 3 + 1; }
void seq_puts(struct seq_file *m, const char *s) { (void)m; helper(*s); }
int locks;
void mutex_lock(void *m) { (void)m; locks++; }
void mutex_unlock(void *m) { (void)m; locks--; }
notrace void __fentry__(void) { }
__asm__(".pushsection .rodata, \"a\"\n.globl __start_notes, __stop_notes\n__start_notes: .fill 16, 1, 0\n.fill 20, 1, 7\n__stop_notes:\n.popsection");
`

// compile makes an object as the kernel's build would.
func (r kernelRecipe) compile(t testing.TB, name, source string) string {
	t.Helper()
	dir := t.TempDir()
	src, obj := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".o")
	if err := os.WriteFile(src, []byte(kernelHeader+strings.TrimPrefix(source, kernelHeader)), 0o644); err != nil {
		t.Fatal(err)
	}
	args := append(strings.Fields("-O2 -fno-pic -fno-pie -ffreestanding -fno-builtin -fno-asynchronous-unwind-tables -fno-stack-protector -ffunction-sections -fdata-sections"),
		strings.Fields(r.cflags)...)
	if r.kcfi {
		src = hashed(t, func(out string) {
			testkit.Run(t, testkit.Tool(t, r.tools+"gcc"), append(args, "-S", "-o", out, src)...)
		})
	}
	testkit.Run(t, testkit.Tool(t, r.tools+"gcc"), append(args, "-c", "-o", obj, src)...)
	return obj
}

// pair compiles a source before and after a change.
func (r kernelRecipe) pair(t testing.TB, name, before, after string) (Pair, string) {
	t.Helper()
	a, b := r.compile(t, name, before), r.compile(t, name, after)
	return Pair{OrigName: name + ".o", PatchedName: name + ".o", Orig: testkit.ELF(t, a), Patched: testkit.ELF(t, b)}, a
}

// image links a kernel. Its symbols are what kallsyms would have of them.
func (r kernelRecipe) image(t testing.TB, objects ...string) *kimage.Kernel {
	t.Helper()
	out := filepath.Join(t.TempDir(), "vmlinux")
	args := append([]string{"-T", "testdata/kernel.ld", "-o", out}, objects...)
	testkit.Run(t, testkit.Tool(t, r.tools+"ld"), append(args, r.compile(t, "core", kernelCore))...)
	k := &kimage.Kernel{File: testkit.ELF(t, out), Machine: r.machine, Release: "6.99.0-test", Vermagic: testVermagic, BuildID: bytes.Repeat([]byte{7}, 20)}
	for i, s := range k.File.Symbols {
		if i == 0 || s.Section <= 0 || s.Type == elf.STT_SECTION || s.Type == elf.STT_FILE || strings.HasPrefix(s.Name, "$") {
			continue
		}
		typ := byte('t')
		if s.Type == elf.STT_OBJECT {
			typ = 'd'
		}
		if s.Bind != elf.STB_LOCAL {
			typ -= 'a' - 'A'
		}
		k.Symbols = append(k.Symbols, kimage.Symbol{Name: s.Name, Addr: s.Value, Size: s.Size, Type: typ})
	}
	slices.SortStableFunc(k.Symbols, func(a, b kimage.Symbol) int { return cmp.Compare(a.Addr, b.Addr) })
	k.Reindex()
	return k
}

// module links a module of that kernel.
func (r kernelRecipe) module(t testing.TB, name string, objects ...string) *kimage.Module {
	t.Helper()
	info := r.compile(t, name+"_mod", `
char info[] __attribute__((section(".modinfo"), used)) = "license=GPL\0name=`+name+`\0vermagic=`+testVermagic+`";
char this_module[1280] __attribute__((section(".gnu.linkonce.this_module"), used));
`)
	out := filepath.Join(t.TempDir(), name+".ko")
	testkit.Run(t, testkit.Tool(t, r.tools+"ld"), append([]string{"-r", "--build-id=sha1", "-o", out, info}, objects...)...)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	m, err := kimage.ParseModule(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// kernelABI are layouts as kernels have them.
func kernelABI() *kimage.ABI {
	words := func(names ...string) map[string]kimage.Member {
		m := map[string]kimage.Member{}
		for i, n := range names {
			m[n] = kimage.Member{Offset: 8 * uint64(i), Size: 8}
		}
		return m
	}
	object := words("name", "funcs")
	object["callbacks"] = kimage.Member{Offset: 16, Size: 40}
	patch := words("mod", "objs", "states")
	patch["replace"] = kimage.Member{Offset: 24, Size: 1}
	return &kimage.ABI{Structs: map[string]kimage.Struct{
		"module":     {Size: 1280, Members: map[string]kimage.Member{"name": {Offset: 24, Size: 56}, "init": {Offset: 312, Size: 8}, "exit": {Offset: 1200, Size: 8}, "gpl_syms": {Offset: 400, Size: 8}}},
		"ftrace_ops": {Size: 200, Members: words("func", "next", "flags")},
		// The one has it in the registers of a trap, the other beside them.
		"ftrace_regs": {Size: 168, Members: map[string]kimage.Member{"regs": {Size: 168}, "pc": {Offset: 104, Size: 8}}},
		"pt_regs":     {Size: 168, Members: map[string]kimage.Member{"ip": {Offset: 128, Size: 8}}},
		"kernel_param": {Size: 40, Members: map[string]kimage.Member{
			"name": {Offset: 0, Size: 8}, "mod": {Offset: 8, Size: 8}, "ops": {Offset: 16, Size: 8}, "perm": {Offset: 24, Size: 2}, "level": {Offset: 26, Size: 1}, "arg": {Offset: 32, Size: 8}}},
		"kernel_param_ops": {Size: 32, Members: words("flags", "set", "get", "free")},
		"klp_func":         {Size: 152, Members: words("old_name", "new_func", "old_sympos")},
		"klp_object":       {Size: 168, Members: object},
		"klp_callbacks":    {Size: 40, Members: words("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")},
		"klp_patch":        {Size: 200, Members: patch},
		"klp_state":        {Size: 24, Members: map[string]kimage.Member{"id": {Offset: 0, Size: 8}, "version": {Offset: 8, Size: 4}}},
		"kallsym_iter":     {Size: 700, Members: map[string]kimage.Member{"name": {Offset: 40, Size: 512}}},
	}}
}

// inputs puts together what Create takes.
func (r kernelRecipe) inputs(img *kimage.Kernel, targets ...Target) Inputs {
	symvers := map[string]kimage.Export{}
	for _, name := range []string{"klp_enable_patch", "_printk", "param_get_bool", "param_ops_charp", "register_ftrace_direct", "unregister_ftrace_direct",
		"modify_ftrace_direct", "register_ftrace_function", "unregister_ftrace_function", "ftrace_set_filter_ip", "ftrace_free_filter", "synchronize_rcu", "copy_from_kernel_nofault", "memcmp", "memset", "__module_get"} {
		symvers[name] = kimage.Export{Name: name, Module: "vmlinux", GPL: name != "_printk"}
	}
	return Inputs{
		Name: "fix", Version: "test", Targets: targets,
		Kernel: &Kernel{Image: img, Symvers: symvers, ABI: kernelABI(), Objtool: func(object []byte) ([]byte, error) { return object, nil }},
	}
}

func symbolOf(t testing.TB, f *elfpatch.File, name string) elfpatch.Symbol {
	t.Helper()
	for _, s := range f.Symbols {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no symbol %s", name)
	return elfpatch.Symbol{}
}
