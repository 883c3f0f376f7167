package kstate

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"livepatch/manifest"
)

// The files of a patch module that ftrace calls directly: its parameters
// (docs/module-format.md). The modules are those that use the base module.
const (
	baseHolders    = moduleDir + "/" + manifest.BaseModule + "/holders"
	paramEnabled   = "parameters/enabled"
	paramFunctions = "parameters/functions"
	paramDispatch  = "parameters/dispatch" // of those of the shared dispatch
)

// Way is what redirects the patch's functions. A function has one: the kernel lets
// neither the livepatch core nor direct calls nor the handler of the shared
// dispatch share it with another.
func (p *Patch) Way() string { return wayOf(p.Flavour, p.Dispatch) }

func wayOf(flavour, dispatch string) string {
	switch {
	case dispatch == manifest.DispatchShared:
		return WayShared
	case flavour == manifest.FlavourDirect:
		return WayDirect
	}
	return WayCore
}

// The ways, in words.
const (
	WayCore   = "the livepatch core"
	WayDirect = "a direct call"
	WayShared = "the shared handler"
)

// IsDirect reports a patch that does without the livepatch core.
func (p *Patch) IsDirect() bool { return p.Flavour == manifest.FlavourDirect }

// DirectSwitch is the file, from the root, by which a patch of direct calls is
// put on ("1") and taken off ("0").
func DirectSwitch(module string) string { return path.Join(moduleDir, module, paramEnabled) }

// ReadDirect reads the patches of direct calls that are loaded, in the order of
// their names.
func ReadDirect(fsys fs.FS) ([]Patch, error) {
	return readEach(fsys, baseHolders, func(name string) (Patch, error) { return readDirect(fsys, name) })
}

func readDirect(fsys fs.FS, name string) (Patch, error) {
	p := Patch{Name: name, Flavour: manifest.FlavourDirect}
	enabled, err := line(fsys, DirectSwitch(name))
	if err != nil {
		return p, err
	}
	p.Enabled = enabled == "Y"
	if p.Dispatch, err = line(fsys, path.Join(moduleDir, name, paramDispatch)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	list, err := line(fsys, path.Join(moduleDir, name, paramFunctions))
	if err != nil {
		return p, err
	}
	o := PatchObject{Name: manifest.Vmlinux, Functions: []PatchFunction{}}
	for _, text := range strings.Fields(list) {
		function, position, _ := strings.Cut(text, ",")
		if n, err := strconv.Atoi(position); err == nil { // else cut off: the kernel prints a page
			o.Functions = append(o.Functions, PatchFunction{function, max(n, 1)})
		}
	}
	p.Objects = []PatchObject{o}
	return p, nil
}
