package header

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/elfpatch/kernel"
	"livepatch/internal/testkit"
)

// headers writes the embedded files where a compiler finds them.
func headers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := Write(func(name string, data []byte) error { return os.WriteFile(filepath.Join(dir, name), data, 0o666) })
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func compile(t *testing.T, source string, command ...string) *elfpatch.File {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.o")
	cmd := exec.Command(command[0], append(command[1:], "-c", source, "-o", out)...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// requests lists what an object asks for: "pre_patch before".
func requests(t *testing.T, f *elfpatch.File) []string {
	t.Helper()
	var all []string
	for _, sec := range f.Sections {
		if kernel.RequestOf(sec.Name) == 0 {
			continue
		}
		rels, err := f.Relocations(sec)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rels {
			all = append(all, sec.Name[strings.LastIndexByte(sec.Name, '.')+1:]+" "+target(f, r))
		}
	}
	slices.Sort(all)
	return all
}

// target names the function, or quotes the string, that a relocation leads to.
func target(f *elfpatch.File, r elfpatch.Rela) string {
	sym := f.Symbols[r.Symbol]
	at := sym.Value + uint64(r.Addend)
	if s := f.Sections[sym.Section]; s.Flags&elf.SHF_STRINGS != 0 {
		text, _, _ := strings.Cut(string(s.Data[at:]), "\x00")
		return text
	}
	for _, s := range f.Symbols {
		if s.Type == elf.STT_FUNC && s.Section == sym.Section && s.Value == at {
			return s.Name
		}
	}
	return "?"
}

var compilers = [][]string{{"gcc"}, {"aarch64-linux-gnu-gcc"}, {"clang"}, {"clang", "--target=aarch64-linux-gnu"}}

func TestSources(t *testing.T) {
	dir := headers(t)
	for source, want := range map[string][]string{
		"ours.c": {"functions ignored", "post_patch after", "post_unpatch gone", "pre_patch before", "pre_unpatch going",
			"sections .data.first", "sections .data.second"},
		"theirs.c": {"force forced", "functions ignored", "post_patch after", "post_unpatch after", "pre_patch before", "pre_unpatch after",
			"sections .init.text"},
	} {
		for _, cc := range compilers {
			t.Run(source+"/"+strings.Join(cc, " "), func(t *testing.T) {
				testkit.Tool(t, cc[0])
				f := compile(t, filepath.Join("testdata", source), append(slices.Clone(cc), "-std=gnu11", "-O2", "-Wall", "-Werror",
					"-Wno-unused-function", "-ffunction-sections", "-fdata-sections", "-Itestdata/include", "-I"+dir)...)
				if got := requests(t, f); !slices.Equal(got, want) {
					t.Errorf("requests %q, want %q", got, want)
				}
				for _, name := range []string{"__se_sys_one", "__se_sys_six", "__SCK__chosen"} {
					if !slices.ContainsFunc(f.Symbols, func(s elfpatch.Symbol) bool { return s.Name == name }) {
						t.Errorf("no symbol %s", name)
					}
				}
			})
		}
	}
}

// The body of a system call is a function that the kernel's notrace does not
// cover: either it stands alone or it became part of the entry point.
func TestSyscallBodyCanBeTraced(t *testing.T) {
	testkit.Tool(t, "gcc")
	f := compile(t, filepath.Join("testdata", "ours.c"), "gcc", "-std=gnu11", "-O2", "-fno-inline", "-ffunction-sections",
		"-pg", "-mfentry", "-Itestdata/include", "-I"+headers(t))
	for _, name := range []string{"__livepatch_do_sys_three", "__livepatch_do_compat_sys_csix"} {
		sec := f.Section(".text." + name)
		if sec == nil {
			t.Fatalf("%s is no function of its own", name)
		}
		rels, err := f.Relocations(sec)
		if err != nil {
			t.Fatal(err)
		}
		if len(rels) == 0 || f.Symbols[rels[0].Symbol].Name != "__fentry__" {
			t.Errorf("%s does not call __fentry__", name)
		}
	}
}

// Against the headers of Debian's kernels, where scripts/kernel fetched them.
func TestKernelHeaders(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	trees, _ := filepath.Glob(filepath.Join(cache, "livepatch", "kernel", "*", "headers", "include"))
	if len(trees) == 0 {
		testkit.Missing(t, "scripts/kernel has fetched no kernel headers")
	}
	for _, tree := range trees {
		tree = filepath.Dir(tree)
		release := filepath.Base(filepath.Dir(tree))
		if fi, err := os.Lstat(filepath.Dir(tree)); err != nil || fi.Mode()&os.ModeSymlink != 0 {
			continue // another name of one of them
		}
		arch, cc, more := "x86", "gcc", []string{"-mno-sse", "-mcmodel=kernel", "-pg", "-mfentry", "-fcf-protection=none"}
		if strings.HasSuffix(release, "arm64") {
			arch, cc, more = "arm64", "aarch64-linux-gnu-gcc", []string{"-mgeneral-regs-only", "-fpatchable-function-entry=4,2",
				"-DARM64_ASM_PREAMBLE=\"\"", "-DCONFIG_LIVEPATCH=1", "-DTIF_PATCH_PENDING=31"} // Debian has it for x86-64 only
		}
		t.Run(release, func(t *testing.T) {
			testkit.Tool(t, cc)
			common := filepath.Join(filepath.Dir(tree), "headers-common")
			own, err := exec.Command(cc, "-print-file-name=include").Output()
			if err != nil {
				t.Fatal(err)
			}
			args := []string{cc, "-nostdinc", "-isystem", strings.TrimSpace(string(own)), "-D__KERNEL__", "-DKBUILD_MODNAME=\"author\"", "-DKBUILD_BASENAME=\"author\"", "-D__KBUILD_MODNAME=kmod_author",
				"-DCC_USING_FENTRY", "-DCC_USING_PATCHABLE_FUNCTION_ENTRY"}
			for _, dir := range []string{"arch/" + arch + "/include", "arch/" + arch + "/include/generated", "include",
				"arch/" + arch + "/include/uapi", "arch/" + arch + "/include/generated/uapi", "include/uapi", "include/generated/uapi"} {
				args = append(args, "-I"+filepath.Join(tree, dir), "-I"+filepath.Join(common, dir))
			}
			if version := filepath.Join(common, "include/linux/compiler-version.h"); exists(version) { // since 5.13
				args = append(args, "-include", version)
			}
			args = append(args, "-include", filepath.Join(common, "include/linux/kconfig.h"),
				"-include", filepath.Join(common, "include/linux/compiler_types.h"), "-std=gnu11", "-fms-extensions", "-O2", "-w", "-fshort-wchar", "-fno-strict-aliasing", "-fno-PIE",
				"-ffunction-sections", "-fdata-sections", "-I"+headers(t))
			f := compile(t, filepath.Join("testdata", "author.c"), append(args, more...)...)
			want := []string{"functions ignored", "post_patch after", "post_unpatch after", "pre_patch before", "pre_unpatch after", "sections .init.text"}
			if got := requests(t, f); !slices.Equal(got, want) {
				t.Errorf("requests %q, want %q", got, want)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
