package types

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// flavours are compilers and the forms in which they describe types.
var flavours = map[string]struct {
	machine elf.Machine
	clang   bool
	flags   string
	form    bool // only the form of the file differs from another one
}{
	"gcc-5":         {elf.EM_X86_64, false, "-gdwarf-5", false},
	"gcc-4":         {elf.EM_X86_64, false, "-gdwarf-4", false},
	"gcc-packed":    {elf.EM_X86_64, false, "-gdwarf-5 -gz=zlib", true},
	"gcc-zstd":      {elf.EM_X86_64, false, "-gdwarf-5", true}, // packed by objcopy: gcc 12 has no -gz=zstd
	"gcc-sections":  {elf.EM_X86_64, false, "-gdwarf-5 -ffunction-sections -fdata-sections", true},
	"gcc-btf":       {elf.EM_X86_64, false, "-gbtf -Wno-attributes", false},
	"clang-5":       {elf.EM_X86_64, true, "-gdwarf-5", false},
	"clang-4":       {elf.EM_X86_64, true, "-gdwarf-4", false},
	"arm64-gcc-5":   {elf.EM_AARCH64, false, "-gdwarf-5", false},
	"arm64-gcc-4":   {elf.EM_AARCH64, false, "-gdwarf-4", false},
	"arm64-clang-5": {elf.EM_AARCH64, true, "-gdwarf-5 --target=aarch64-linux-gnu", false},
}

// compile makes an object of a source of C, or of C++ if its name says so.
func compile(t testing.TB, flavour, file, source string) *elfpatch.File {
	t.Helper()
	f := flavours[flavour]
	cc := testkit.Compiler(t, f.machine)
	if f.clang {
		cc = testkit.Tool(t, "clang")
	}
	if strings.HasSuffix(file, ".cc") {
		cc = strings.Replace(strings.Replace(cc, "gcc", "g++", 1), "clang", "clang++", 1)
	}
	dir := t.TempDir()
	src, obj := filepath.Join(dir, file), filepath.Join(dir, "unit.o")
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, cc, append(strings.Fields("-O2 -c "+f.flags), "-o", obj, src)...)
	if flavour == "gcc-zstd" {
		testkit.Run(t, testkit.Tool(t, "objcopy"), "--compress-debug-sections=zstd", obj)
		if s := testkit.ELF(t, obj).Section(".debug_info"); s.Flags&elf.SHF_COMPRESSED == 0 || le.Uint32(s.Data) != 2 {
			t.Fatal("objcopy does not pack with zstd")
		}
	}
	return testkit.ELF(t, obj)
}

// all are the functions that both objects define; each is said to use
// everything that its object refers to.
func all(orig, patched *elfpatch.File) (list []Func) {
	names := func(f *elfpatch.File) (defined, named []string) {
		for _, s := range f.Symbols {
			if s.Type == elf.STT_FUNC && s.Section != elfpatch.Undefined {
				defined = append(defined, s.Name)
			}
			if s.Name != "" && s.Type != elf.STT_FILE && s.Type != elf.STT_SECTION {
				named = append(named, s.Name)
			}
		}
		return defined, named
	}
	a, usesA := names(orig)
	b, usesB := names(patched)
	for _, x := range a {
		for _, y := range b {
			if x == y {
				list = append(list, Func{Name: x, Orig: x, Patched: y, OrigUses: usesA, PatchedUses: usesB})
			}
		}
	}
	slices.SortFunc(list, func(a, b Func) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// report prints the changes sorted: compilers list symbols and members in orders of their own.
func report(r *Result) string {
	var b strings.Builder
	slices.SortStableFunc(r.Changes, func(a, b Change) int { return strings.Compare(a.String(), b.String()) })
	for _, c := range r.Changes {
		mark := "  "
		if c.Breaking {
			mark = "! "
		}
		fmt.Fprintf(&b, "%s%s (%s)\n", mark, c, c.Kind)
	}
	return strings.ReplaceAll(b.String(), "<long int>", "<long>") // clang writes it so
}

func TestCompare(t *testing.T) {
	for _, c := range cases {
		for flavour, f := range flavours {
			if f.form && c.name != "moved" || flavour == "gcc-btf" && c.file != "" {
				continue // about sections, not types; BTF is for C
			}
			t.Run(c.name+"/"+flavour, func(t *testing.T) {
				t.Parallel()
				file := c.file
				if file == "" {
					file = "unit.c"
				}
				orig := compile(t, flavour, file, c.source)
				patched := compile(t, flavour, file, strings.NewReplacer(c.edits...).Replace(c.source))
				r, err := Compare(orig, patched, all(orig, patched))
				if err != nil {
					t.Fatal(err)
				}
				if got := report(r); got != strings.TrimPrefix(c.want, "\n") {
					t.Errorf("got\n%swant%s", got, c.want)
				}
				if r.BTF != (flavour == "gcc-btf") {
					t.Errorf("BTF %v", r.BTF)
				}
				if r.Partial != "" || len(r.Unknown) > 0 || r.Types == 0 {
					t.Errorf("partial %q, unknown %v, %d types", r.Partial, r.Unknown, r.Types)
				}
				same, err := Compare(orig, orig, all(orig, orig))
				if err != nil || len(same.Changes) > 0 {
					t.Errorf("an object and itself: %v, %v", same, err)
				}
			})
		}
	}
}
