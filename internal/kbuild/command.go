package kbuild

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"livepatch/internal/child"
)

// A command is how kbuild makes an object: the compiler, and perhaps objtool
// after it.
type command struct {
	programs [][]string
	source   string // as the compiler is given it
	object   string // as both are given it, below the directory for output
}

// check makes sure that the command is one that can be run again elsewhere.
func (c *command) check() error {
	argv := c.programs[0]
	if !slices.Contains(argv, c.source) || !slices.Contains(argv, c.object) || !slices.Contains(argv, "-c") {
		return fmt.Errorf("the command of %s does not compile %s", c.object, c.source)
	}
	for _, argv := range c.programs[1:] {
		if path.Base(argv[0]) != "objtool" || argv[len(argv)-1] != c.object {
			return fmt.Errorf("the command of %s runs %s, which is not known", c.object, argv[0])
		}
	}
	return nil
}

// define returns the value of a macro of the command line.
func (c *command) define(name string) string {
	for _, w := range c.programs[0] {
		if value, ok := strings.CutPrefix(w, "-D"+name+"="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// module is the name of the module that the object is a part of.
func (c *command) module() string {
	if slices.Contains(c.programs[0], "-DMODULE") {
		return c.define("KBUILD_MODNAME")
	}
	return Vmlinux
}

// edit returns the command with its words changed.
func (c command) edit(f func(word string) string) command {
	out := c
	out.programs = nil
	for _, argv := range c.programs {
		var words []string
		for _, w := range argv {
			words = append(words, f(w))
		}
		out.programs = append(out.programs, words)
	}
	return out
}

// withFlags adds flags of the compiler.
func (c command) withFlags(flags []string) command {
	out := c.edit(func(w string) string { return w })
	out.programs[0] = slices.Insert(out.programs[0], len(out.programs[0])-1, flags...)
	return out
}

// withSource compiles another file.
func (c command) withSource(source string) command {
	out := c.edit(func(w string) string {
		if w == c.source {
			return source
		}
		return w
	})
	if source == os.DevNull {
		i := slices.Index(out.programs[0], source)
		out.programs[0] = slices.Insert(out.programs[0], i, "-x", "c")
	}
	out.source = source
	return out
}

// moved has the command read another tree instead of one.
func (c command) moved(from, to string) command {
	out := c.edit(func(w string) string {
		if strings.HasSuffix(w, from) && !strings.HasSuffix(w, "="+from) { // -I and the tree itself
			return strings.TrimSuffix(w, from) + to
		}
		return strings.ReplaceAll(w, from, to)
	})
	out.source, out.object = strings.ReplaceAll(c.source, from, to), strings.ReplaceAll(c.object, from, to)
	return out
}

// depFile is where the compiler lists what an object depends on.
func depFile(object string) string { return object + ".d" }

// run makes the object at another place.
func (c command) run(ctx context.Context, t *Tree, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	for i, argv := range c.programs {
		words := slices.Clone(argv)
		for k, w := range words {
			switch {
			case w == c.object:
				words[k] = to
			case i == 0 && (strings.HasPrefix(w, "-Wp,-MMD,") || strings.HasPrefix(w, "-Wp,-MD,")):
				words[k] = w[:strings.LastIndexByte(w, ',')+1] + depFile(to)
			}
		}
		p := child.Program{Dir: t.obj(), Argv: words, Env: t.env()}
		if _, err := p.Run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// flags are those of the compiler that a reader of the package learns: without
// what is ours, the files, and the places of this machine.
func (c *command) flags(t *Tree) (out []string) {
	argv := c.programs[0][1:]
	for i := 0; i < len(argv); i++ {
		w := argv[i]
		switch {
		case w == "-o":
			i++
		case w == "-c", w == c.source, strings.HasPrefix(w, "-Wp,-M"), strings.Contains(w, "-prefix-map="), w == "-I"+t.include():
		default:
			if t.module != nil {
				w = strings.ReplaceAll(w, t.src, "$(M)")
			}
			w = strings.ReplaceAll(w, t.srctree, "$(srctree)")
			out = append(out, strings.ReplaceAll(w, t.obj(), "$(objtree)"))
		}
	}
	return out
}
