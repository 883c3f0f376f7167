package kstate

import (
	"cmp"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Patch is one livepatch as /sys/kernel/livepatch shows it
// (Documentation/ABI/testing/sysfs-kernel-livepatch). What older kernels do not
// tell is nil.
type Patch struct {
	Name       string        `json:"name"`               // of the module
	Flavour    string        `json:"flavour,omitempty"`  // manifest.FlavourDirect; nothing for those of the livepatch core
	Dispatch   string        `json:"dispatch,omitempty"` // manifest.DispatchShared; nothing for direct calls
	Enabled    bool          `json:"enabled"`
	Transition bool          `json:"transition"`            // some tasks still have to switch
	Replace    *bool         `json:"replace,omitempty"`     // it took the place of all before it; from 6.11 on
	StackOrder *int          `json:"stack_order,omitempty"` // the highest one of a function is used; newer than 6.12
	Objects    []PatchObject `json:"objects"`
}

// PatchObject is the kernel image ("vmlinux") or a module that a livepatch
// changes.
type PatchObject struct {
	Name      string          `json:"name"`
	Patched   *bool           `json:"patched,omitempty"` // false while the module is not loaded; from 6.1 on
	Functions []PatchFunction `json:"functions"`
}

// PatchFunction is a function that a livepatch replaces. Position counts among
// the functions of that name, from 1.
type PatchFunction struct {
	Name     string `json:"name"`
	Position int    `json:"position"`
}

// ReadPatches reads all livepatches that are loaded, in the order of their
// names. A kernel without a livepatch core has none.
func ReadPatches(fsys fs.FS) ([]Patch, error) {
	return readPatches(fsys, livepatchDir)
}

// ReadPatchDir reads livepatches from a copy of /sys/kernel/livepatch.
func ReadPatchDir(dir fs.FS) ([]Patch, error) { return readPatches(dir, ".") }

// ReadPatch reads one livepatch, nil if there is none of the name.
func ReadPatch(fsys fs.FS, name string) (*Patch, error) {
	p, err := readPatch(fsys, path.Join(livepatchDir, name), name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, nil
	}
	return &p, err
}

func readPatches(fsys fs.FS, dir string) ([]Patch, error) {
	return readEach(fsys, dir, func(name string) (Patch, error) { return readPatch(fsys, path.Join(dir, name), name) })
}

// readEach reads the patch of each name in a directory, which need not be there.
func readEach(fsys fs.FS, dir string, read func(name string) (Patch, error)) ([]Patch, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Patch
	for _, e := range entries {
		switch p, err := read(e.Name()); {
		case errors.Is(err, fs.ErrNotExist): // it went away meanwhile, or did not load
		case err != nil:
			return nil, err
		default:
			all = append(all, p)
		}
	}
	return all, nil
}

func readPatch(fsys fs.FS, dir, name string) (Patch, error) {
	p := Patch{Name: name}
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return p, err
	}
	enabled, err := line(fsys, path.Join(dir, "enabled"))
	if err != nil && !exists(fsys, dir) {
		return p, fs.ErrNotExist // a file that goes away while it is read has errors of its own
	}
	if err != nil {
		return p, err
	}
	p.Enabled = enabled == "1"
	p.Transition = is(fsys, path.Join(dir, "transition"), "1")
	p.Replace = flag(fsys, path.Join(dir, "replace"))
	if text, err := line(fsys, path.Join(dir, "stack_order")); err == nil {
		if n, err := strconv.Atoi(text); err == nil {
			p.StackOrder = &n
		}
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		// Objects that only neutralise a replaced patch go away with its end.
		at := path.Join(dir, e.Name())
		o, err := readObject(fsys, at, e.Name())
		if err != nil && !exists(fsys, at) {
			continue
		}
		if err != nil {
			return p, err
		}
		p.Objects = append(p.Objects, o)
	}
	return p, nil
}

func readObject(fsys fs.FS, dir, name string) (PatchObject, error) {
	o := PatchObject{Name: name, Patched: flag(fsys, path.Join(dir, "patched")), Functions: []PatchFunction{}}
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return o, err
	}
	for _, e := range entries {
		// A function's directory is "name,position".
		at := strings.LastIndexByte(e.Name(), ',')
		if !e.IsDir() || at < 0 {
			continue
		}
		pos, err := strconv.Atoi(e.Name()[at+1:])
		if err != nil {
			continue
		}
		o.Functions = append(o.Functions, PatchFunction{e.Name()[:at], pos})
	}
	slices.SortFunc(o.Functions, func(a, b PatchFunction) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Position, b.Position))
	})
	return o, nil
}

// flag reads a file that holds 0 or 1; nil if there is none.
func flag(fsys fs.FS, name string) *bool {
	text, err := line(fsys, name)
	if err != nil || text != "0" && text != "1" {
		return nil
	}
	v := text == "1"
	return &v
}

// Claims reports whether the livepatch replaces a function. Position 0 means
// the same as 1.
func (p *Patch) Claims(object, name string, position int) bool {
	for _, o := range p.Objects {
		if o.Name == object && slices.Contains(o.Functions, PatchFunction{name, max(position, 1)}) {
			return true
		}
	}
	return false
}

// Names are the object's functions, with their position where it is not 1.
func (o *PatchObject) Names() []string {
	var names []string
	for _, f := range o.Functions {
		if f.Position > 1 {
			f.Name += "," + strconv.Itoa(f.Position)
		}
		names = append(names, f.Name)
	}
	return names
}

// Condition is the state of the livepatch in one word or two.
func (p *Patch) Condition() string {
	switch {
	case p.IsDirect() && !p.Enabled:
		return Retired
	case p.Transition && p.Enabled:
		return "enabling"
	case p.Transition:
		return "disabling"
	case p.Enabled:
		return "enabled"
	}
	return "disabled"
}

// Retired is the condition of a patch of direct calls that was taken back. Its
// module stays until the next boot: nothing tells whether a task is still in its
// code.
const Retired = "retired"
