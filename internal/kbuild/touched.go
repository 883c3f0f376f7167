package kbuild

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
)

// touched is what a patch does to the kernel's source, in kinds.
type touched struct {
	sources []string // .c and .h files, and others that sources include
	added   []string // .c files that are new
	lists   []string // Makefiles
	notes   []string // what is passed over
}

// outside are directories whose code is no code of the running kernel, with
// what it is.
var outside = []struct {
	pattern, what string
	code          refusal.Code
}{
	{"arch/*/entry/vdso/", "it is part of the vDSO, which runs in user space", refusal.VDSO},
	{"arch/*/kernel/vdso/", "it is part of the vDSO, which runs in user space", refusal.VDSO},
	{"arch/*/kernel/vdso32/", "it is part of the vDSO, which runs in user space", refusal.VDSO},
	{"lib/vdso/", "it is part of the vDSO, which runs in user space", refusal.VDSO},
	{"arch/*/boot/", "it runs before the kernel does", refusal.InitTextChanged},
	{"arch/*/realmode/", "it runs before the kernel does, on each processor", refusal.InitTextChanged},
	{"arch/*/purgatory/", "it runs between two kernels", refusal.InitTextChanged},
	{"drivers/firmware/efi/libstub/", "it runs before the kernel does", refusal.InitTextChanged},
	{"arch/*/kernel/pi/", "it runs before the kernel does", refusal.InitTextChanged},
	{"arch/*/kvm/hyp/nvhe/", "it runs outside of the kernel, as hypervisor", refusal.Unsupported},
	{"rust/", "it is Rust", refusal.Unsupported},
}

// passedOver are files that no object is made from, wherever they are, and
// directories of the kernel with nothing else.
var (
	passedOver     = regexp.MustCompile(`(^|/)(MAINTAINERS|CREDITS|COPYING|LICENSE|README|\.mailmap|\.gitignore|\.get_maintainer\.ignore)$|\.(rst|txt|md|yaml)$`)
	passedOverDirs = regexp.MustCompile(`^(Documentation|LICENSES|samples|tools)/`)
)

// buildFile are files that decide what is built, and how.
var buildFile = regexp.MustCompile(`(^|/)(Kconfig[^/]*|Kbuild[^/]*|Makefile[^/]*|[^/]*\.lds(\.S|\.h)?|[^/]*defconfig|[^/]*\.config|[^/]*\.mk|[^/]*\.tbl)$`)

// Check says what of a patch cannot be covered, whatever the kernel's
// configuration, and warns of what will probably not be. Names in the source of
// a module mean nothing of the kernel's.
func Check(tree *srcpatch.Tree, module bool) (warnings []string, err error) {
	changes := tree.Changes()
	if _, err := classify(changes, module); err != nil {
		return nil, err
	}
	return initCode(changes), nil
}

// classify sorts the changed files, and says what cannot be covered at all
// before anything is compiled.
func classify(changes []srcpatch.Change, module bool) (*touched, error) {
	var out touched
	var list refusal.List
	for _, c := range changes {
		outside := outsideKernel(c.Path)
		switch ext := path.Ext(c.Path); {
		case passedOver.MatchString(c.Path), !module && passedOverDirs.MatchString(c.Path):
			out.notes = append(out.notes, c.Path+" is part of no object")
		case !module && outside != nil:
			list = append(list, *outside)
		case makefile(c.Path, module) && c.Existed && c.Exist:
			out.lists = append(out.lists, c.Path)
		case buildFile.MatchString(c.Path), !module && strings.HasPrefix(c.Path, "scripts/"):
			list = append(list, refusal.New(refusal.BuildFiles, c.Path, "the patch changes how the kernel is configured or built"))
		case ext == ".S":
			list = append(list, refusal.New(refusal.Assembly, c.Path, "the patch changes assembler code"))
		case ext == ".rs":
			list = append(list, refusal.New(refusal.Unsupported, c.Path, "it is Rust"))
		case !c.Exist:
			list = append(list, refusal.New(refusal.Unsupported, c.Path, "the patch removes a source file"))
		case ext == ".c" && !c.Existed:
			out.added = append(out.added, c.Path)
		default:
			out.sources = append(out.sources, c.Path)
		}
	}
	return &out, list.Err()
}

// makefile reports whether a file lists the objects of a directory. That at the
// top of the kernel is the program of kbuild.
func makefile(name string, module bool) bool {
	base := path.Base(name)
	return (base == "Makefile" || base == "Kbuild") && (module || path.Dir(name) != "." && !strings.HasPrefix(name, "scripts/"))
}

func outsideKernel(name string) *refusal.Refusal {
	for _, o := range outside {
		n := strings.Count(o.pattern, "/")
		parts := strings.SplitAfterN(name, "/", n+1)
		if ok, _ := path.Match(o.pattern, strings.Join(parts[:min(n, len(parts))], "")); ok {
			r := refusal.New(o.code, name, "%s", o.what)
			return &r
		}
	}
	return nil
}

// listLine is a line of a Makefile that does nothing but add objects.
var listLine = regexp.MustCompile(`^\s*([\w-]+-(\$\(CONFIG_\w+\)|y|m|objs)\s*[+:]?=)?(\s*[\w./-]+\.o)*\s*\\?\s*$`)

// checkLists refuses changes of Makefiles other than new objects of new files.
// It returns what the changed ones build, by directory.
func (t *Tree) checkLists(ctx context.Context, in *touched, r Request) (added map[string]*listing, err error) {
	added = map[string]*listing{}
	if len(in.lists) == 0 {
		return added, nil
	}
	over := t.overlay(r, "lists")
	if err := over.link(""); err != nil {
		return nil, fmt.Errorf("make a tree with the patch: %w", err)
	}
	var list refusal.List
	for _, c := range r.Changes.Changes() {
		if !slices.Contains(in.lists, c.Path) {
			continue
		}
		bad := func(why string) {
			list = append(list, refusal.New(refusal.BuildFiles, c.Path, "the patch changes how the kernel is built: %s", why))
		}
		if line, ok := otherThanLists(c); ok {
			bad(fmt.Sprintf("%.80q", line))
			continue
		}
		dir := path.Dir(c.Path)
		before, err := t.listed(ctx, dir)
		if err != nil {
			return nil, err
		}
		after, err := t.list(ctx, over.to, dir)
		if err != nil {
			return nil, err
		}
		for name := range before.all {
			if !after.all[name] {
				bad(name + " is not built any more")
			}
		}
		for _, name := range sortedKeys(after.all) {
			source := path.Join(dir, strings.TrimSuffix(name, ".o")+".c")
			if !before.all[name] && !slices.Contains(in.added, source) {
				bad(name + " is built that was not, and is no new file of the patch")
			}
		}
		added[dir] = after
	}
	return added, list.Err()
}

// otherThanLists returns a line that a change removes or adds and that is no
// list of objects.
func otherThanLists(c srcpatch.Change) (string, bool) {
	count := map[string]int{}
	for line := range strings.Lines(string(c.Before)) {
		count[strings.TrimSpace(line)]--
	}
	for line := range strings.Lines(string(c.After)) {
		count[strings.TrimSpace(line)]++
	}
	for _, line := range sortedKeys(count) {
		if count[line] != 0 && !listLine.MatchString(line) && !strings.HasPrefix(line, "#") {
			return line, true
		}
	}
	return "", false
}

// units finds the objects that changed sources are compiled into, in order, as
// kbuild names them: candidates that the kernel's configuration builds.
func (t *Tree) units(ctx context.Context, in *touched, limit int) (targets []string, err error) {
	if len(in.sources) == 0 {
		return nil, nil
	}
	x, err := t.scan(ctx)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var list refusal.List
	for _, source := range in.sources {
		used := false
		candidates := x.usersOf(source)
		if len(candidates) > 40*limit {
			list = append(list, tooMany(source, len(candidates), "source files include it, directly or through others", limit))
			continue
		}
		for i, unit := range candidates {
			if out := outsideKernel(unit); t.module == nil && out != nil {
				if out.Code == refusal.Unsupported && unit != source {
					in.notes = append(in.notes, fmt.Sprintf("%s includes %s and is left out: %s", unit, source, out.Text))
				}
				continue
			}
			if len(candidates) > 20 {
				t.progress("look which files are part of this kernel", i, len(candidates))
			}
			target, err := t.target(ctx, strings.TrimSuffix(unit, ".c")+".o")
			if err != nil {
				return nil, err
			}
			used = used || target != ""
			if target != "" && !seen[target] {
				seen[target] = true
				targets = append(targets, target)
			}
		}
		if !used {
			in.notes = append(in.notes, source+" is not part of this kernel: its configuration leaves it out")
		}
	}
	slices.Sort(targets)
	return targets, list.Err()
}

func tooMany(where string, n int, what string, limit int) refusal.Refusal {
	return refusal.New(refusal.TooManyObjects, where, "%d %s; the limit is %d", n, what, limit)
}
