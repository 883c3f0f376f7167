package main

import (
	"cmp"
	"debug/elf"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch"
	"livepatch/elfpatch/diff"
	"livepatch/internal/build"
	"livepatch/internal/compile"
	"livepatch/internal/image"
	"livepatch/internal/refusal"
	"livepatch/internal/srcpatch"
	"livepatch/manifest"
)

// buildProgramFlags are the flags of build that only programs take.
func buildProgramFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "src", Usage: "program: source `DIR`"},
		&cli.StringFlag{Name: "compdb", Usage: "program: compile database `FILE` (default: compile_commands.json in the source)"},
		&cli.StringFlag{Name: "debug", Usage: "program: separate debug `FILE` of the --target"},
	}
}

// buildProgram compiles the objects that the patches touch and opens the
// target.
func (o *images) buildProgram(c *cli.Context, p *printer, record *manifest.Build) (in build.Inputs, err error) {
	targets := c.StringSlice("target")
	switch {
	case c.String("src") == "":
		return in, hintHelp(usageErrorf("build needs --src, or --kernel or --kernel-src"), c.Command)
	case len(targets) == 0:
		return in, hintHelp(usageErrorf("build needs --target"), c.Command)
	case len(targets) > 1 && c.String("debug") != "":
		return in, hintHelp(usageErrorf("--debug goes with one --target"), c.Command)
	}
	b := &programBuild{c: c, p: p, record: record}
	for _, file := range targets {
		t, err := o.target(targetPaths{file: file, debug: c.String("debug")})
		if err != nil {
			return in, err
		}
		b.targets = append(b.targets, t)
		record.Inputs = append(record.Inputs, o.input("target", file))
	}
	if debug := c.String("debug"); debug != "" {
		record.Inputs = append(record.Inputs, o.input("debug", debug))
	}
	compiled, err := b.compile()
	if err != nil {
		return in, err
	}
	err = image.Guard(func() error { return b.assign(compiled) })
	if err != nil {
		return in, err
	}
	in.Targets = slices.DeleteFunc(b.targets, func(t build.Target) bool { return len(t.Pairs) == 0 })
	if len(in.Targets) == 0 {
		return in, build.ErrNothingToPatch
	}
	manifest.SortInputs(record.Inputs)
	return in, nil
}

// programBuild is what is known while a program's objects are made.
type programBuild struct {
	c        *cli.Context
	p        *printer
	record   *manifest.Build
	targets  []build.Target
	sources  map[string]bool // which target has which source
	refusals refusal.List
}

// compile reads the database and the patches and compiles.
func (b *programBuild) compile() (*compile.Compiled, error) {
	path := b.c.String("compdb")
	if path == "" {
		path = filepath.Join(b.c.String("src"), "compile_commands.json")
	}
	text, err := readFile(path)
	if err != nil {
		return nil, hinted(err, "livepatch cc records how a build compiles; --compdb names its database")
	}
	entries, err := compile.ParseDatabase(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var lock sync.Mutex
	program := &compile.Program{
		Source: b.c.String("src"), Entries: entries, OneDataSection: b.targets[0].File.Machine != elf.EM_X86_64,
		Progress: func(what string, done, total int) {
			lock.Lock()
			defer lock.Unlock()
			b.p.Progress(what, done, total)
		},
	}
	for _, file := range b.c.StringSlice("patch") {
		text, err := readFile(file)
		if err != nil {
			return nil, err
		}
		patch, err := srcpatch.Parse(file, text)
		if err != nil {
			return nil, err
		}
		program.Patches = append(program.Patches, patch)
		b.input("patch", filepath.Base(file), text)
	}
	compiled, err := program.Compile(b.c.Context)
	b.p.clear()
	if b.c.Context.Err() != nil {
		return nil, errInterrupted
	}
	return compiled, err
}

func (b *programBuild) input(role, name string, data []byte) {
	b.record.Inputs = append(b.record.Inputs, inputOf(role, name, data))
}

// assign gives each unit to the targets that it is linked into.
func (b *programBuild) assign(compiled *compile.Compiled) error {
	lines, err := diff.ParseLines(compiled.Diff)
	if err != nil {
		return fmt.Errorf("tell how lines moved: %w", err)
	}
	b.record.Compiler = compiled.Compiler
	for _, name := range compiled.Removed {
		b.p.Warn("%s: the patch removes it; its code stays in the target", name)
	}
	for _, name := range compiled.Unread {
		b.decline(refusal.New(refusal.UnitNotInTarget, name, "no command of the compile database reads it"))
	}
	for _, name := range compiled.BuildFiles {
		b.decline(refusal.New(refusal.BuildFiles, name, "what it changes in how the program is built has no effect here"))
	}
	var added []*unit
	for _, u := range parseUnits(compiled) {
		switch {
		case u.err != nil:
			return u.err
		case u.New:
			added = append(added, u)
			continue
		}
		if err := b.place(u, compiled, lines); err != nil {
			return err
		}
	}
	for _, u := range added {
		b.add(b.patched(), u, lines)
	}
	return b.refusals.Err()
}

// unit is a unit with its objects read.
type unit struct {
	compile.Unit
	before, after, plain *elfpatch.File
	err                  error
}

func parseUnits(compiled *compile.Compiled) (out []*unit) {
	for _, c := range compiled.Units {
		u := &unit{Unit: c}
		for _, o := range []struct {
			data []byte
			to   **elfpatch.File
		}{{c.Before, &u.before}, {c.After, &u.after}, {c.Plain, &u.plain}} {
			if o.data == nil || u.err != nil {
				continue
			}
			f, err := elfpatch.Parse(o.data)
			if err != nil {
				u.err = fmt.Errorf("read what %s was compiled to: %w", c.Source, err)
			}
			*o.to = f
		}
		out = append(out, u)
	}
	return out
}

// place finds the targets that hold a unit. Of the ways in which a source is
// compiled the first that a target holds is that target's.
func (b *programBuild) place(u *unit, compiled *compile.Compiled, lines *diff.LineShift) error {
	if slices.Contains([]string{".s", ".S", ".sx"}, filepath.Ext(u.Source)) {
		b.decline(refusal.New(refusal.Assembly, u.Source, "it is assembler code"))
		return nil
	}
	if u.LinkTime {
		b.decline(refusal.New(refusal.LinkTime, u.Source, "it is compiled with optimization at link time: its code may be anywhere in the target"))
		return nil
	}
	differs, err := build.Differs(build.Pair{OrigName: u.Object, Orig: u.before, Patched: u.after, Lines: lines})
	if err != nil || !differs {
		return err
	}
	placed, best, total := false, 0, 0
	for i := range b.targets {
		t := &b.targets[i]
		held, of, err := build.Holds(u.plain, t)
		if err != nil {
			return fmt.Errorf("look for %s in %s: %w", u.Source, t.Name, err)
		}
		best, total = max(best, held), max(total, of)
		if 2*held >= of {
			placed = true
			b.add(t, u, lines)
		}
	}
	others := slices.ContainsFunc(compiled.Units, func(c compile.Unit) bool { return c.Source == u.Source && !slices.Equal(c.Flags, u.Flags) })
	switch {
	case placed || b.has(u.Source):
	case others && b.later(u, compiled):
	case u.Profiled:
		b.decline(refusal.New(refusal.ProfileUse, u.Source, "it is compiled by a profile, and %d of its %d functions come out as the target has them", best, total))
	default:
		b.decline(refusal.New(refusal.UnitNotInTarget, u.Source, "the target holds %d of its %d functions: it is not linked from it, or it was compiled otherwise", best, total))
	}
	return nil
}

// later reports whether the same source comes again, compiled otherwise.
func (b *programBuild) later(u *unit, compiled *compile.Compiled) bool {
	seen := false
	for i := range compiled.Units {
		c := &compiled.Units[i]
		if c.Source != u.Source {
			continue
		}
		if seen {
			return true
		}
		seen = c.Object == u.Object && slices.Equal(c.Flags, u.Flags)
	}
	return false
}

func (b *programBuild) has(source string) bool {
	return slices.ContainsFunc(b.record.Units, func(u manifest.Unit) bool { return u.Source == source })
}

// patched is the target that new sources go to: the first that has pairs.
func (b *programBuild) patched() *build.Target {
	for i := range b.targets {
		if len(b.targets[i].Pairs) > 0 {
			return &b.targets[i]
		}
	}
	return &b.targets[0]
}

// add makes a unit a pair of a target, unless the target has its source.
func (b *programBuild) add(t *build.Target, u *unit, lines *diff.LineShift) {
	name := u.Object
	clash := func(p build.Pair) bool { return p.OrigName == name }
	if b.sources == nil {
		b.sources = map[string]bool{}
	}
	key := t.Name + "\x00" + u.Source
	if b.sources[key] {
		return
	}
	b.sources[key] = true
	if slices.ContainsFunc(t.Pairs, clash) {
		name = strings.ReplaceAll(filepath.Dir(u.Source), "/", "_") + "_" + u.Object
	}
	t.Pairs = append(t.Pairs, build.Pair{OrigName: name, PatchedName: name, Orig: u.before, Patched: u.after, Plain: u.plain, Lines: lines})
	if b.has(u.Source) {
		return // for another target
	}
	b.record.Units = append(b.record.Units, manifest.Unit{Source: u.Source, Object: name, Flags: u.Flags})
	b.input("before", name, u.Before)
	b.input("after", name, u.After)
	if u.Plain != nil {
		b.input("plain", name, u.Plain)
	}
	slices.SortStableFunc(b.record.Units, func(x, y manifest.Unit) int { return cmp.Compare(x.Source, y.Source) })
}

// decline refuses, unless the code is allowed: then it is a finding.
func (b *programBuild) decline(r refusal.Refusal) {
	if (r.Code == refusal.UnitNotInTarget || r.Code == refusal.BuildFiles) && slices.Contains(b.c.StringSlice("allow"), string(r.Code)) {
		b.p.Warn("%s: %s; left out, as allowed", r.Where, r.Text)
		b.record.Findings = append(b.record.Findings, manifest.Finding{Code: string(r.Code), Where: r.Where, Text: r.Text, Allowed: true})
		return
	}
	b.refusals = append(b.refusals, r)
}
