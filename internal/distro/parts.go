package distro

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"livepatch/internal/child"
)

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// at is a package of this kernel's version for a machine.
func (f *fetcher) at(pkg, arch string) string { return pkg + ":" + arch + "=" + f.choice.version }

// links makes links in the kernel's directory: pairs of name and place.
func (f *fetcher) links(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := relink(pairs[i+1], filepath.Join(f.dir, pairs[i])); err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) image(ctx context.Context) error {
	var all []string
	for _, p := range f.choice.image {
		all = append(all, f.at(p, f.name.arch))
	}
	if err := f.unpack(ctx, "image", all...); err != nil {
		return err
	}
	lib, release := "lib", f.choice.release
	if !exists(filepath.Join(f.dir, "image/lib/modules")) {
		lib = "usr/lib"
	}
	if err := f.links("modules", "image/"+lib+"/modules/"+release); err != nil {
		return err
	}
	base := filepath.Join(f.dir, "image", strings.TrimSuffix(lib, "lib"))
	for _, depmod := range []string{"depmod", "/sbin/depmod", "/usr/sbin/depmod"} {
		// Only machines that boot with these modules need it.
		if _, err := f.run(ctx, depmod, "-b", base, release); err == nil || ctx.Err() != nil {
			break
		}
	}
	if exists(filepath.Join(f.dir, "modules/vmlinuz")) {
		return f.links("vmlinuz", "modules/vmlinuz", "config", "modules/config")
	}
	return f.links("vmlinuz", "image/boot/vmlinuz-"+release, "config", "image/boot/config-"+release)
}

func (f *fetcher) headers(ctx context.Context) error {
	c := f.choice
	// The programs of kbuild are for the machine that runs them.
	err := f.unpack(ctx, "packages", f.at(c.headers, f.name.arch), c.common+"="+c.version, f.at(c.kbuild, f.native))
	if err != nil {
		return err
	}
	err = f.links("headers", "packages/usr/src/"+c.headers, "headers-common", "packages/usr/src/"+c.common, "kbuild", "packages/usr/lib/"+c.kbuild)
	if err != nil {
		return err
	}
	// Where there are several, objtool is a small program that chooses one.
	for _, tool := range []string{"objtool.real-x86", "objtool"} {
		if path := filepath.Join(f.dir, "kbuild/tools/objtool", tool); exists(path) {
			return f.links("objtool", path)
		}
	}
	return nil // kernels for arm64 have none
}

func (f *fetcher) source(ctx context.Context) (err error) {
	if err := f.unpack(ctx, "source.deb", f.choice.source+"="+f.choice.version); err != nil {
		return err
	}
	fresh, dir := filepath.Join(f.dir, "source.new"), filepath.Join(f.dir, "source")
	defer func() {
		err = errors.Join(err, os.RemoveAll(fresh), os.RemoveAll(filepath.Join(f.dir, "source.deb")))
	}()
	for _, old := range []string{fresh, dir} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	archive := filepath.Join(f.dir, "source.deb/usr/src", f.choice.source+".tar.xz")
	f.progress("unpack the source of " + f.choice.release)
	if _, err := f.run(ctx, "tar", "-C", fresh, "--strip-components=1", "-xf", archive); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

func (f *fetcher) debug(ctx context.Context) error {
	if f.choice.dbg == "" {
		return errors.New("there is no package with debug information")
	}
	if err := f.unpack(ctx, "dbg.deb", f.at(f.choice.dbg, f.name.arch)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(f.dir, "dbg"), 0o755); err != nil {
		return err
	}
	return f.links("dbg/vmlinux", "../dbg.deb/usr/lib/debug/boot/vmlinux-"+f.choice.release)
}

var (
	configCompiler = regexp.MustCompile(`(?m)^CONFIG_CC_VERSION_TEXT="(?:[a-z0-9_]*-linux-gnu-)?(gcc-\d+) `)
	installLine    = regexp.MustCompile(`^Inst ([^\s:]+)\S* .*\[(\w+)\]\)`)
)

// toInstall reads a line of what apt-get would install: the package with its machine. Those
// of another machine than arch are of no use: pahole, which the tools of a kernel's build
// depend on, may be one for whatever machine this is.
func toInstall(line, arch string) string {
	m := installLine.FindStringSubmatch(line)
	switch {
	case m == nil || m[2] != arch && m[2] != "all":
		return ""
	case m[2] == "all":
		return m[1]
	}
	return m[1] + ":" + arch
}

// compiler unpacks the compiler that the configuration names with all that it
// needs, and writes a small script for each program, which runs it with its own
// libraries, or in an emulator of the kernel's machine.
func (f *fetcher) compiler(ctx context.Context) error {
	config, err := os.ReadFile(filepath.Join(f.dir, "headers/.config"))
	if err != nil {
		return err
	}
	m := configCompiler.FindSubmatch(config)
	if m == nil {
		return errors.New("the configuration names no gcc")
	}
	gcc := string(m[1])
	var closure []string
	p := child.Program{
		Argv: []string{"apt-get", "-q", "-s", "-y", "--no-install-recommends", "install", gcc + ":" + f.name.arch, "binutils:" + f.name.arch, f.at(f.choice.kbuild, f.name.arch)},
		Env:  []string{"APT_CONFIG=" + filepath.Join(f.apt, "apt.conf")}, Dir: f.cache,
		Output: func(line string) {
			if name := toInstall(line, f.name.arch); name != "" {
				closure = append(closure, name)
			}
		},
	}
	if _, err := p.Run(ctx); err != nil {
		return err
	}
	if err := f.unpack(ctx, "compiler", closure...); err != nil {
		return err
	}
	return f.wrap(gcc)
}

// wrap writes the scripts that run the unpacked programs.
func (f *fetcher) wrap(gcc string) error {
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[f.name.arch]
	root := filepath.Join(f.dir, "compiler")
	run := "qemu-" + strings.TrimSuffix(triple, "-linux-gnu") + " -L " + root
	if f.name.arch == f.native {
		loader := findFile(root, func(p string) bool {
			return strings.HasPrefix(filepath.Base(p), "ld-linux") && strings.Contains(filepath.Base(p), ".so.")
		})
		run = fmt.Sprintf("%s --library-path %[2]s/lib/%[3]s:%[2]s/usr/lib/%[3]s", loader, root, triple)
	}
	bin, exec := filepath.Join(root, "here/bin"), filepath.Join(root, "here/exec")
	for _, dir := range []string{bin, exec} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	script := func(path, command string) error {
		return os.WriteFile(path, []byte("#!/bin/sh\nexec "+command+" \"$@\"\n"), 0o755)
	}
	var errs []error
	for tool := range strings.FieldsSeq("as ld ld.bfd ar nm objcopy objdump ranlib readelf size strip") {
		if name := filepath.Join(root, "usr/bin", triple+"-"+tool); exists(name) {
			errs = append(errs, script(filepath.Join(bin, triple+"-"+tool), run+" "+name), script(filepath.Join(exec, tool), run+" "+name))
		}
	}
	for tool := range strings.FieldsSeq("cc1 collect2 lto1 lto-wrapper") {
		name := findFile(filepath.Join(root, "usr"), func(p string) bool {
			return filepath.Base(p) == tool && strings.Contains(p, "/gcc") && strings.Contains(p, "/"+triple+"/")
		})
		if name != "" {
			errs = append(errs, script(filepath.Join(exec, tool), run+" "+name))
		}
	}
	name := filepath.Join(root, "usr/bin", triple+"-"+gcc)
	if !exists(name) {
		name = filepath.Join(root, "usr/bin", gcc)
	}
	errs = append(errs, script(filepath.Join(bin, triple+"-"+gcc), run+" "+name+" -B "+exec+"/"), f.wrapObjtool(bin, run))
	return errors.Join(errs...)
}

// wrapObjtool has objtool run with the unpacked libraries where those of this
// system are too old for it.
func (f *fetcher) wrapObjtool(bin, run string) error {
	tool := filepath.Join(f.dir, "objtool")
	if f.name.arch != f.native || !exists(tool) {
		return nil
	}
	out, err := exec.Command("ldd", tool).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "not found") {
		return nil
	}
	real, err := filepath.EvalSymlinks(tool)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bin, "objtool"), []byte("#!/bin/sh\nexec "+run+" "+real+" \"$@\"\n"), 0o755); err != nil {
		return err
	}
	return relink(filepath.Join(bin, "objtool"), tool)
}

// findFile returns the first file below a directory, in the order of names.
func findFile(root string, want func(path string) bool) (found string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && want(path) {
			found = path
			return filepath.SkipAll
		}
		return nil // what cannot be read is not what is looked for
	})
	return found
}
