// Package kstate reads what a running Linux kernel tells about itself through
// sysfs, procfs, tracefs and debugfs, and judges whether a livepatch module can
// be loaded there. Every function works on an fs.FS whose root stands for "/",
// so a captured tree is judged on any host as the machine itself would be.
// Reading changes nothing.
package kstate

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Facts are what a kernel says about itself. Facts that could not be read are
// listed in Unknown and have their zero value.
type Facts struct {
	Release    string `json:"release"`
	BuildID    string `json:"build_id"`  // hexadecimal
	Livepatch  bool   `json:"livepatch"` // the kernel has a livepatch core
	BTF        bool   `json:"btf"`
	SigEnforce bool   `json:"sig_enforce"` // unsigned modules are refused
	Lockdown   string `json:"lockdown"`    // "none", "integrity", "confidentiality", "" without that security module

	ModulesDisabled bool `json:"modules_disabled"`
	FtraceEnabled   bool `json:"ftrace_enabled"`
	CanLoad         bool `json:"can_load"` // the reader has CAP_SYS_MODULE

	Modules    []Module        `json:"modules"`
	Patches    []Patch         `json:"patches"`
	Traced     []Traced        `json:"traced"`
	Kprobes    []Kprobe        `json:"kprobes"`
	Injectable map[string]bool `json:"injectable,omitempty"` // functions whose return value may be overridden; nil: not known
	BPF        []BPFLink       `json:"bpf,omitempty"`        // not read from files: nil if nobody asked bpf(2)
	Unknown    []Unknown       `json:"unknown"`
}

// Unknown is a fact that could not be read, and why.
type Unknown struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Module is a loaded module.
type Module struct {
	Name       string `json:"name"`
	State      string `json:"state"` // "live", "coming", "going"
	BuildID    string `json:"build_id,omitempty"`
	Srcversion string `json:"srcversion,omitempty"`
	Version    string `json:"version,omitempty"`
	Refs       int    `json:"refs"`
	Taint      string `json:"taint,omitempty"` // letters as in /proc/sys/kernel/tainted's documentation; K is a livepatch
}

// Where the kernel keeps what is read here.
const (
	livepatchDir = "sys/kernel/livepatch"
	moduleDir    = "sys/module"
)

// tracing are the places at which tracefs is mounted.
var tracing = []string{"sys/kernel/tracing", "sys/kernel/debug/tracing"}

// maxFile is the most that is read of one file; the largest of them,
// /proc/kallsyms, is streamed instead.
const maxFile = 64 << 20

// Read collects the facts of the kernel whose root directory is fsys. The only
// error is a tree that is no kernel's: one without /proc.
func Read(fsys fs.FS) (*Facts, error) {
	f := &Facts{FtraceEnabled: true}
	release, err := line(fsys, "proc/sys/kernel/osrelease")
	if err != nil {
		return nil, err
	}
	f.Release = release
	notes, err := file(fsys, "sys/kernel/notes")
	f.unless(err, "the build-id of the kernel")
	f.BuildID = hex.EncodeToString(BuildID(notes))
	f.Livepatch = exists(fsys, livepatchDir)
	f.BTF = exists(fsys, "sys/kernel/btf/vmlinux")
	f.SigEnforce = is(fsys, "sys/module/module/parameters/sig_enforce", "Y")
	f.ModulesDisabled = is(fsys, "proc/sys/kernel/modules_disabled", "1")
	f.FtraceEnabled = !is(fsys, "proc/sys/kernel/ftrace_enabled", "0")
	if text, err := line(fsys, "sys/kernel/security/lockdown"); err == nil {
		f.Lockdown = chosen(text)
	}
	f.CanLoad = canLoad(fsys)
	f.Modules, err = readModules(fsys)
	f.unless(err, "the loaded modules")
	f.Patches, err = ReadPatches(fsys)
	f.unless(err, "the loaded livepatches")
	direct, err := ReadDirect(fsys)
	f.unless(err, "the patches of direct calls")
	f.Patches = append(f.Patches, direct...)
	f.readTracers(fsys)
	return f, nil
}

func (f *Facts) readTracers(fsys fs.FS) {
	b, err := tracingFile(fsys, "enabled_functions")
	f.unless(err, "the users of ftrace")
	f.Traced = ParseEnabledFunctions(b)
	const debug, injection = "sys/kernel/debug", "sys/kernel/debug/error_injection/list"
	b, err = file(fsys, debug+"/kprobes/list")
	if entries, _ := fs.ReadDir(fsys, debug); !errors.Is(err, fs.ErrNotExist) || len(entries) == 0 { // else it is a kernel without any
		f.unless(err, "the kprobes")
	}
	f.Kprobes = ParseKprobes(b)
	switch b, err = file(fsys, injection); {
	case err == nil:
		f.Injectable = ParseErrorInjection(b)
	case errors.Is(err, fs.ErrNotExist) && exists(fsys, debug+"/kprobes"):
		f.Injectable = map[string]bool{} // a kernel without such functions
	}
}

func (f *Facts) unless(err error, what string) {
	if err != nil {
		f.Unknown = append(f.Unknown, Unknown{what, reason(err)})
	}
}

// reason is an error without the operation; the path stays.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return "/" + p.Path + ": " + p.Err.Error()
	}
	return err.Error()
}

// Module returns the loaded module of a name, nil if there is none.
func (f *Facts) Module(name string) *Module {
	i := slices.IndexFunc(f.Modules, func(m Module) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Modules[i]
}

// Patch returns the livepatch of a name, nil if there is none.
func (f *Facts) Patch(name string) *Patch {
	i := slices.IndexFunc(f.Patches, func(p Patch) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Patches[i]
}

func readModules(fsys fs.FS) ([]Module, error) {
	dirs, err := fs.ReadDir(fsys, moduleDir)
	if err != nil {
		return nil, err
	}
	var all []Module
	for _, d := range dirs {
		if m, ok := readModule(fsys, d.Name()); ok {
			all = append(all, m)
		}
	}
	return all, nil
}

// readModule reads one module; built-in ones have no state.
func readModule(fsys fs.FS, name string) (Module, bool) {
	dir := path.Join(moduleDir, name)
	state, err := line(fsys, path.Join(dir, "initstate"))
	if err != nil {
		return Module{}, false
	}
	m := Module{Name: name, State: state}
	if b, err := file(fsys, path.Join(dir, "notes/.note.gnu.build-id")); err == nil {
		m.BuildID = hex.EncodeToString(BuildID(b))
	}
	m.Srcversion, _ = line(fsys, path.Join(dir, "srcversion"))
	m.Version, _ = line(fsys, path.Join(dir, "version"))
	m.Taint, _ = line(fsys, path.Join(dir, "taint"))
	if refs, err := line(fsys, path.Join(dir, "refcnt")); err == nil {
		m.Refs, _ = strconv.Atoi(refs)
	}
	return m, true
}

// canLoad reports whether the reader's effective capabilities hold
// CAP_SYS_MODULE, bit 16 (include/uapi/linux/capability.h).
func canLoad(fsys fs.FS) bool {
	b, err := file(fsys, "proc/self/status")
	if err != nil {
		return false
	}
	for l := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(l, []byte("CapEff:")); ok {
			caps, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 16, 64)
			return err == nil && caps>>16&1 == 1
		}
	}
	return false
}

// chosen is the word in brackets of a list such as "none [integrity]
// confidentiality".
func chosen(text string) string {
	for _, w := range strings.Fields(text) {
		if in, ok := strings.CutPrefix(w, "["); ok {
			return strings.TrimSuffix(in, "]")
		}
	}
	return ""
}

func tracingFile(fsys fs.FS, name string) ([]byte, error) {
	var first error
	for _, dir := range tracing {
		b, err := file(fsys, path.Join(dir, name))
		if err == nil {
			return b, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// line reads a file of one line.
func line(fsys fs.FS, name string) (string, error) {
	b, err := file(fsys, name)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(b), "\n"), nil
}

func is(fsys fs.FS, name, value string) bool {
	got, err := line(fsys, name)
	return err == nil && got == value
}

func exists(fsys fs.FS, name string) bool {
	_, err := fs.Stat(fsys, name)
	return err == nil
}
