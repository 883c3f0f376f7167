package kbuild

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"livepatch/internal/child"
	"livepatch/internal/header"
)

// prepared is the form of what Prepare makes; another one is made anew.
const prepared = "1"

// Tree is a kernel whose generated headers and tools are made: single objects
// can be compiled.
type Tree struct {
	*Kernel
	Compiler *Compiler
	srctree  string // the kernel's source as kbuild sees it: clean of products of other builds
	dirs     map[string]*listing
	enters   map[string]bool   // directories, whether the build goes there
	far      map[string]string // what elsewhere found; nil before
	place
}

// Prepare makes what single objects need: the configuration, generated
// headers, the tools of the build. It is done once for a kernel, and takes
// minutes.
func (k *Kernel) Prepare(ctx context.Context, cc *Compiler) (*Tree, error) {
	t := &Tree{Kernel: k, Compiler: cc, dirs: map[string]*listing{}, enters: map[string]bool{}}
	release, err := child.Lock(ctx, k.Work, t.waits)
	if err != nil {
		return nil, err
	}
	defer release.Close()
	if err := t.cleanSource(); err != nil {
		return nil, err
	}
	if err := k.writeHeaders(); err != nil {
		return nil, fmt.Errorf("write the headers for patches: %w", err)
	}
	key, err := t.key()
	if err != nil {
		return nil, err
	}
	stamp := k.stamp()
	if was, err := os.ReadFile(stamp); err == nil && string(was) == key {
		return t, nil
	}
	if err := t.prepare(ctx); err != nil {
		// Half of it is of no use to anybody.
		return nil, errors.Join(err, os.RemoveAll(k.obj()))
	}
	return t, os.WriteFile(stamp, []byte(key), 0o644)
}

// stamp is the file that says what the tree is prepared for.
func (k *Kernel) stamp() string { return filepath.Join(k.obj(), ".prepared") }

func (t *Tree) waits() { t.progress("waiting for another build of this kernel", 0, 0) }

// key is everything that what is prepared depends on.
func (t *Tree) key() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, prepared, t.Release, t.Compiler.Program, t.Compiler.Version, t.srctree)
	for _, f := range []string{t.Config, t.Symvers, filepath.Join(t.srctree, "Makefile")} {
		if f == "" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%x\n", sha256.Sum256(b))
	}
	return fmt.Sprintf("%x\n", h.Sum(nil)), nil
}

func (k *Kernel) writeHeaders() error {
	if err := os.MkdirAll(k.include(), 0o755); err != nil {
		return err
	}
	return header.Write(func(name string, data []byte) error {
		path := filepath.Join(k.include(), name)
		if was, err := os.ReadFile(path); err == nil && string(was) == string(data) {
			return nil // its time tells make what to do
		}
		return os.WriteFile(path, data, 0o644)
	})
}

func (t *Tree) prepare(ctx context.Context) error {
	obj := t.obj()
	if err := os.RemoveAll(obj); err != nil {
		return err
	}
	if err := os.RemoveAll(t.beforeDir()); err != nil {
		return err
	}
	if err := os.MkdirAll(obj, 0o755); err != nil {
		return err
	}
	config, err := os.ReadFile(t.Config)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	// Only the version of pahole matters, for the configuration; single objects have no BTF.
	pahole := strings.TrimPrefix(configText(config, "PAHOLE_VERSION"), "1")
	script := fmt.Sprintf("#!/bin/sh\necho v1.%s\n", first(pahole, "22"))
	if err := os.WriteFile(filepath.Join(t.Work, "pahole"), []byte(script), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(obj, ".config"), config, 0o644); err != nil {
		return err
	}
	if t.Symvers != "" {
		b, err := os.ReadFile(t.Symvers)
		if err != nil {
			return fmt.Errorf("read Module.symvers: %w", err)
		}
		if err := os.WriteFile(filepath.Join(obj, "Module.symvers"), b, 0o644); err != nil {
			return err
		}
	}
	if err := t.make(ctx, "configure "+t.Release, "olddefconfig"); err != nil {
		return fmt.Errorf("configure the kernel: %w", err)
	}
	now, err := os.ReadFile(filepath.Join(obj, ".config"))
	if err != nil {
		return err
	}
	if diff := configDiff(config, now); diff != "" {
		return fmt.Errorf("%s: the source does not take the configuration as it is: %s", t.Release, diff)
	}
	jobs := fmt.Sprintf("-j%d", runtime.NumCPU())
	if err := t.make(ctx, "prepare "+t.Release+", once", jobs, "prepare", "modules_prepare"); err != nil {
		return fmt.Errorf("prepare the kernel's source: %w", err)
	}
	return nil
}

func first(text, otherwise string) string {
	if text != "" {
		return text
	}
	return otherwise
}

// fromHere are the options that depend on what is installed here: versions,
// Rust, programs for other machines, kinds of signatures. The compiled objects
// do not depend on them.
var fromHere = regexp.MustCompile(`_VERSION|RUST|NOVA_CORE|CC_CAN_LINK|ML_?DSA|COMPAT_VDSO|TOOLS_SUPPORT|GENDWARFKSYMS`)

// leftOut are the options that Debian leaves out of the configuration in /boot:
// the salt of build IDs, keys. No function depends on them.
var leftOut = regexp.MustCompile(`^(# )?CONFIG_(BUILD_SALT|MODULE_SIG_ALL|MODULE_SIG_KEY|SYSTEM_TRUSTED_KEYS)\b`)

// configDiff names the first options in which two configurations differ.
func configDiff(before, after []byte) string {
	was, now := options(before), options(after)
	var out []string
	for _, side := range []struct{ a, b map[string]bool }{{was, now}, {now, was}} {
		for _, line := range sortedKeys(side.a) {
			if !side.b[line] {
				out = append(out, line)
			}
		}
	}
	if len(out) > 6 {
		out = append(out[:6], fmt.Sprintf("and %d more", len(out)-6))
	}
	return strings.Join(out, ", ")
}

// options are the lines of a configuration that set something, or say that it
// is not set.
func options(config []byte) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(string(config)) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "CONFIG_") && !fromHere.MatchString(line) && !leftOut.MatchString(line) {
			out[line] = true
		}
	}
	return out
}

// make runs kbuild. What it says is progress.
func (t *Tree) make(ctx context.Context, what string, args ...string) error {
	n := 0
	p := child.Program{
		Dir: t.Work, Env: t.env(), Argv: append(append([]string{"make", "-C", t.srctree}, t.makeVars()...), args...),
		Output: func(line string) {
			n++
			t.progress(fmt.Sprintf("%s: %s", what, strings.Join(strings.Fields(line), " ")), 0, 0)
		},
	}
	_, err := p.Run(ctx)
	return err
}

// makeVars are the variables of kbuild.
func (t *Tree) makeVars() []string {
	arch, triple := t.arch()
	vars := []string{
		"O=" + t.obj(), "ARCH=" + arch, "CROSS_COMPILE=" + triple + "-", "CC=" + t.Compiler.Program,
		"PAHOLE=" + filepath.Join(t.Work, "pahole"), "KERNELRELEASE=" + t.Release,
		"KBUILD_BUILD_USER=livepatch", "KBUILD_BUILD_HOST=livepatch", "KCFLAGS=" + strings.Join(t.ownFlags(), " "),
	}
	if t.Compiler.llvm != "" {
		vars = append(vars, "LLVM="+t.Compiler.llvm)
	}
	if t.module != nil {
		vars = append(append(vars, "M="+t.src), t.module.Vars...)
	}
	return vars
}

// ownFlags are ours, in every compilation: where the headers for patches are,
// and no path of this machine in what the debugger reads. Messages of a module
// name the place where it was built.
func (t *Tree) ownFlags() []string {
	flags := []string{"-I" + t.include(), "-fdebug-prefix-map=" + t.srctree + "/=", "-fdebug-prefix-map=" + t.srctree + "=.",
		"-fdebug-prefix-map=" + t.obj() + "=.", "-fdebug-prefix-map=" + t.include() + "=."}
	if t.module != nil {
		flags = append(flags, "-fdebug-prefix-map="+t.src+"/=", "-fdebug-prefix-map="+t.src+"=.", "-fmacro-prefix-map="+t.src+"/="+t.module.BuildPath+"/")
	}
	return flags
}

// cleanSource finds out whether kbuild takes the source: one that something
// was built in holds a configuration and headers of that build. Then kbuild
// gets links to all but those.
func (t *Tree) cleanSource() error {
	src, err := realPath(t.Source)
	if err != nil {
		return fmt.Errorf("read the kernel's source: %w", err)
	}
	if !isFile(filepath.Join(src, "Makefile")) || !isFile(filepath.Join(src, "scripts/Makefile.build")) {
		return fmt.Errorf("%s: this is no source of a kernel: it has no scripts/Makefile.build", t.Source)
	}
	b, err := os.ReadFile(filepath.Join(src, "scripts/Makefile.build"))
	if err != nil {
		return err
	}
	if strings.Contains(string(b), "call cmd,objtool") {
		return fmt.Errorf("%s: kernels before 5.17 run objtool apart from the compiler; make the objects with the kernel's build, and the package with livepatch create", t.Source)
	}
	if err := forMake(src, t.Work); err != nil {
		return err
	}
	t.srctree, t.place = src, place{src: src, files: src, given: src}
	arch, _ := t.arch()
	for _, p := range []string{".config", "include/config", "include/generated", "arch/" + arch + "/include/generated"} {
		if _, err := os.Lstat(filepath.Join(src, p)); err == nil {
			t.products = append(t.products, p)
		}
	}
	if len(t.products) == 0 {
		return nil
	}
	t.src = filepath.Join(t.Work, "source")
	t.srctree = t.src
	if err := os.RemoveAll(t.src); err != nil {
		return err
	}
	if err := t.links(t.src).link(""); err != nil {
		return fmt.Errorf("make a tree without what was built in %s: %w", t.Source, err)
	}
	return nil
}
