package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// Kernel is a directory that scripts/kernel made.
type Kernel struct {
	Dir     string
	Arch    string // "amd64" or "arm64"
	Release string // as uname -r prints it
}

// Path is that of a file of the kernel, such as "vmlinuz" or "headers/Module.symvers".
func (k *Kernel) Path(name string) string { return filepath.Join(k.Dir, name) }

// Open looks at a directory that scripts/kernel made.
func Open(dir string) (*Kernel, error) {
	b, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return nil, err
	}
	k := &Kernel{Dir: dir, Release: strings.TrimSpace(string(b)), Arch: "amd64"}
	if strings.HasSuffix(k.Release, "arm64") {
		k.Arch = "arm64"
	}
	return k, nil
}

// Fetched returns the kernel that scripts/kernel fetches for these arguments, such as
// "6.12" or "--arch", "arm64", "6.1". A test that asks for one that is not there is
// skipped where testkit.Missing says so.
func Fetched(t testing.TB, args ...string) *Kernel {
	t.Helper()
	k, err := Open(Script(t, "kernel", append([]string{"--cached"}, args...)...))
	if err != nil {
		t.Fatal(err)
	}
	if k.Arch == "amd64" {
		testkit.Tool(t, "qemu-system-x86_64")
	} else {
		testkit.Tool(t, "qemu-system-aarch64")
	}
	return k
}

// Script runs a program in scripts and returns the line that it prints. Where it ends
// with 3, "not on this system", testkit.Missing decides.
func Script(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(testkit.Root(t), "scripts", name), args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		testkit.Missing(t, "scripts/%s %s: %s", name, strings.Join(args, " "), bytes.TrimSpace(stderr.Bytes()))
	}
	if err != nil {
		t.Fatalf("scripts/%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// Module returns the bytes of one of the kernel's modules, decompressed.
func (k *Kernel) Module(name string) ([]byte, error) {
	deps, err := k.modulesDep()
	if err != nil {
		return nil, err
	}
	for file := range deps {
		if moduleName(file) == name {
			return k.readModule(file)
		}
	}
	return nil, fmt.Errorf("no module %q in %s", name, k.Path("modules"))
}

func (k *Kernel) readModule(file string) ([]byte, error) {
	full := filepath.Join(k.Path("modules"), filepath.FromSlash(file))
	if path.Ext(file) == ".xz" {
		return exec.Command("xz", "-dc", full).Output()
	}
	return os.ReadFile(full)
}

// modulesDep reads modules.dep: the modules that each needs, as paths below modules/.
func (k *Kernel) modulesDep() (map[string][]string, error) {
	b, err := os.ReadFile(k.Path("modules/modules.dep"))
	if err != nil {
		return nil, err
	}
	deps := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if file, needs, ok := strings.Cut(line, ":"); ok {
			deps[file] = strings.Fields(needs)
		}
	}
	return deps, nil
}

// moduleName is the name under which the kernel knows a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// addModules writes modules and those that they need, uncompressed, and a list for modprobe.
func addModules(a *cpio, k *Kernel, names []string) error {
	dir := "lib/modules/" + k.Release + "/"
	a.dir(dir[:len(dir)-1])
	if len(names) == 0 {
		return nil
	}
	deps, err := k.modulesDep()
	if err != nil {
		return err
	}
	files := map[string]string{}
	for file := range deps {
		files[moduleName(file)] = file
	}
	var list strings.Builder
	done := map[string]bool{}
	var add func(file string) error
	add = func(file string) error {
		if done[file] {
			return nil
		}
		done[file] = true
		list.WriteString(plain(file) + ":")
		for _, need := range deps[file] {
			list.WriteString(" " + plain(need))
		}
		list.WriteString("\n")
		b, err := k.readModule(file)
		if err != nil {
			return fmt.Errorf("module %s: %w", file, err)
		}
		a.file(dir+plain(file), 0o644, b)
		for _, need := range deps[file] {
			if err := add(need); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range names {
		file, ok := files[name]
		if !ok {
			return fmt.Errorf("no module %q in %s", name, k.Path("modules"))
		}
		if err := add(file); err != nil {
			return err
		}
	}
	a.file(dir+"modules.dep", 0o644, []byte(list.String()))
	return nil
}

func plain(file string) string { return strings.TrimSuffix(file, ".xz") }
