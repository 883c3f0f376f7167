package main

import (
	"cmp"
	"debug/elf"
	"fmt"
	"path/filepath"
	"slices"
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
	if err := oneProgram(b.targets); err != nil {
		return in, err
	}
	compiled, err := b.compile()
	if err != nil {
		return in, err
	}
	err = image.Guard(func() (err error) { in.Targets, err = b.assign(compiled); return err })
	if err != nil {
		return in, err
	}
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
func (b *programBuild) assign(compiled *compile.Compiled) ([]build.Target, error) {
	lines, err := diff.ParseLines(compiled.Diff)
	if err != nil {
		return nil, fmt.Errorf("tell how lines moved: %w", err)
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
	units := make([]*build.Unit, len(compiled.Units))
	of := map[*build.Unit]*compile.Unit{}
	for i := range compiled.Units {
		if units[i], err = parseUnit(&compiled.Units[i], lines); err != nil {
			return nil, err
		}
		of[units[i]] = &compiled.Units[i]
	}
	allow, err := allowed(b.c.StringSlice("allow"), ofStubs...)
	if err != nil {
		return nil, err
	}
	a, err := build.Assign(units, b.targets, allow)
	if err != nil {
		return nil, err
	}
	for _, f := range a.Findings {
		b.allow(f.Refusal())
	}
	for _, name := range a.Unused {
		b.p.Warn("%s: it is new, and nothing that changed refers to it; left out", name)
	}
	for _, u := range a.Used {
		b.use(of[u.Unit], u.Name)
	}
	slices.SortStableFunc(b.record.Units, func(x, y manifest.Unit) int { return cmp.Compare(x.Source, y.Source) })
	return a.Targets, append(b.refusals, a.Refusals...).Err()
}

// parseUnit reads the objects of a unit.
func parseUnit(c *compile.Unit, lines *diff.LineShift) (*build.Unit, error) {
	u := &build.Unit{Source: c.Source, Object: c.Object, LinkTime: c.LinkTime, Profiled: c.Profiled, New: c.New, Lines: lines}
	for _, o := range []struct {
		data []byte
		to   **elfpatch.File
	}{{c.Before, &u.Before}, {c.After, &u.After}, {c.Plain, &u.Plain}} {
		if o.data == nil {
			continue
		}
		f, err := elfpatch.Parse(o.data)
		if err != nil {
			return nil, fmt.Errorf("read what %s was compiled to: %w", c.Source, err)
		}
		*o.to = f
	}
	return u, nil
}

// use records a unit that is part of the package.
func (b *programBuild) use(u *compile.Unit, name string) {
	b.record.Units = append(b.record.Units, manifest.Unit{Source: u.Source, Object: name, Flags: u.Flags})
	b.input("before", name, u.Before)
	b.input("after", name, u.After)
	if u.Plain != nil {
		b.input("plain", name, u.Plain)
	}
}

// decline refuses, unless the code is allowed: then it is a finding.
func (b *programBuild) decline(r refusal.Refusal) {
	if slices.Contains(b.c.StringSlice("allow"), string(r.Code)) {
		b.allow(r)
		return
	}
	b.refusals = append(b.refusals, r)
}

// allow records a refusal that is allowed.
func (b *programBuild) allow(r refusal.Refusal) {
	how := "left out"
	if r.Code == refusal.UnitDoubtful {
		how = "taken"
	}
	b.p.Warn("%s: %s; %s, as allowed", r.Where, r.Text, how)
	b.record.Findings = append(b.record.Findings, manifest.Finding{Code: string(r.Code), Where: r.Where, Text: r.Text, Allowed: true})
}
