package kbuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"livepatch/internal/child"
)

// A Checksum is that of an exported symbol, where the patch makes it another one.
// It is made of the types that lead from the symbol; the kernel binds a module to
// the symbol if both were built with the same.
type Checksum struct {
	Name          string
	Before, After string   // "0x6915c0fa"
	Types         []string // that are other ones: "struct vlan_info"
	Known         bool     // they are not: before the patch the object only declared them
}

// symver begins the lines that kbuild keeps beside an object, one an export,
// and that genksyms prints: "#SYMVER vlan_vid_add 0x60ebcb5e" (scripts/Makefile.build
// and scripts/genksyms, 5.19 and later).
const symver = "#SYMVER "

func addSymver(to map[string]string, line string) {
	if words := strings.Fields(strings.TrimPrefix(line, symver)); strings.HasPrefix(line, symver) && len(words) == 2 {
		to[words[0]] = words[1]
	}
}

// checksums compares those of the exports of an object; moved is its command with
// the patched source.
func (t *Tree) checksums(ctx context.Context, o *Object, moved command, dir string) error {
	saved, err := os.ReadFile(savedPath(t.out(), o.Name))
	if err != nil {
		return fmt.Errorf("read the command of %s: %w", o.Name, err)
	}
	before := map[string]string{}
	for line := range strings.Lines(string(saved)) {
		addSymver(before, strings.TrimSpace(line))
	}
	tool := filepath.Join(t.obj(), "scripts/genksyms/genksyms")
	if len(before) == 0 || !isFile(tool) {
		o.uncompared = len(before) > 0
		return nil
	}
	types, err := t.typesBefore(ctx, o, tool, dir)
	if err != nil {
		return err
	}
	after, reasons := map[string]string{}, map[string][]string{}
	p := child.Program{
		Dir: t.obj(), Argv: []string{tool, "-r", types},
		Output: func(line string) { addSymver(after, line) },
		Errors: func(line string) { addReason(reasons, line) },
	}
	if err := t.genksyms(ctx, moved, filepath.Join(dir, "after", o.Name+".i"), &p); err != nil {
		return err
	}
	for _, name := range sortedKeys(before) {
		if now := after[name]; now != "" && now != before[name] {
			c := Checksum{Name: name, Before: before[name], After: now, Known: len(reasons[name]) > 0}
			for _, typ := range reasons[name] {
				typ, known := strings.CutSuffix(typ, defined)
				c.Types, c.Known = append(c.Types, typ), c.Known && known
			}
			o.Checksums = append(o.Checksums, c)
		}
	}
	return nil
}

// typesBefore is the file in which genksyms lists the types of an object of the
// unchanged source. It is made once if that stays as it is.
func (t *Tree) typesBefore(ctx context.Context, o *Object, tool, dir string) (string, error) {
	types, kept := filepath.Join(dir, "before", o.Name+".symtypes"), filepath.Join(t.beforeDir(), o.Name+".symtypes")
	if t.Immutable && isFile(kept) {
		return types, copyFile(kept, types)
	}
	p := child.Program{Dir: t.obj(), Argv: []string{tool, "-T", types}}
	if err := t.genksyms(ctx, o.command, filepath.Join(dir, "before", o.Name+".i"), &p); err != nil || !t.Immutable {
		return types, err
	}
	return types, copyFile(types, kept)
}

// genksyms runs it on what the compiler's preprocessor makes of a source, as kbuild
// does.
func (t *Tree) genksyms(ctx context.Context, c command, text string, p *child.Program) error {
	if err := c.preprocessed().run(ctx, t, text); err != nil {
		return err
	}
	source, err := os.ReadFile(text)
	if err != nil {
		return err
	}
	p.Stdin = string(source)
	_, err = p.Run(ctx)
	return err
}

// preprocessed is the command that only runs the preprocessor, as for genksyms.
func (c command) preprocessed() command {
	out := c
	argv := slices.Clone(c.programs[0])
	argv[slices.Index(argv, "-c")] = "-E"
	out.programs = [][]string{slices.Insert(argv, len(argv)-1, "-D__GENKSYMS__")}
	return out
}

// defined ends the name of a type that was only declared.
const defined = " (became defined)"

// addReason reads why a checksum is another one: "FILE:N: warning: NAME: modversion
// changed because of changes in struct a, enum b (became defined)".
func addReason(to map[string][]string, line string) {
	before, list, ok := strings.Cut(line, ": modversion changed because of changes in ")
	if i := strings.LastIndexByte(before, ' '); ok && i >= 0 {
		to[before[i+1:]] = strings.Split(list, ", ")
	}
}
