package kstate

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// A symbolKey is a name in the kernel image ("vmlinux") or in a module.
type symbolKey struct{ object, name string }

// readSymbols returns the addresses of wanted symbols, in the order of
// /proc/kallsyms, which is the order in which the livepatch core counts.
// Addresses are 0 if the reader may not see them.
func readSymbols(r io.Reader, wanted map[symbolKey]bool) (map[symbolKey][]uint64, error) {
	found := map[symbolKey][]uint64{}
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 3 {
			continue
		}
		key := symbolKey{manifest.Vmlinux, f[2]}
		if len(f) > 3 {
			key.object = strings.Trim(f[3], "[]")
		}
		if !wanted[key] {
			continue
		}
		addr, err := strconv.ParseUint(f[0], 16, 64)
		if err != nil {
			continue
		}
		found[key] = append(found[key], addr)
	}
	return found, s.Err()
}

// A place is a function or variable that the package names.
type place struct {
	object, name string
	position     int
	section      string
	address      uint64
}

func places(k *manifest.Kernel) []place {
	var all []place
	for _, o := range k.Objects {
		for _, f := range o.Functions {
			all = append(all, place{o.Name, f.Name, f.Position, f.Section, f.Address})
		}
		for _, s := range o.Symbols {
			all = append(all, place{o.Name, s.Name, s.Position, s.Section, s.Address})
		}
	}
	return all
}

// Symbols looks every function and symbol of the package up in /proc/kallsyms
// as the kernel will, and compares where it is with where the package says it
// is: all of the kernel image must have moved by the same distance.
func (v *Verdict) Symbols(fsys fs.FS, k *manifest.Kernel, f *Facts) {
	all := places(k)
	wanted := map[symbolKey]bool{}
	for _, p := range all {
		wanted[symbolKey{p.object, p.name}] = true
	}
	r, err := fsys.Open("proc/kallsyms")
	if err != nil {
		v.Warnings = append(v.Warnings, fmt.Sprintf("the kernel's symbols cannot be read (%s), so positions were not checked", reason(err)))
		return
	}
	defer r.Close()
	found, err := readSymbols(r, wanted)
	if err != nil {
		v.Warnings = append(v.Warnings, fmt.Sprintf("read /proc/kallsyms: %v, so positions were not checked", err))
		return
	}
	c := &symbolCheck{fsys: fsys, v: v, found: found}
	for _, p := range all {
		if p.object == manifest.Vmlinux || f.Module(p.object) != nil {
			c.check(p)
		}
	}
}

type symbolCheck struct {
	fsys  fs.FS
	v     *Verdict
	found map[symbolKey][]uint64
	moved *moved
}

// moved is how far the kernel image is from where it was linked, and the first
// symbol that told so.
type moved struct {
	by   uint64
	from place
}

func (c *symbolCheck) refuse(code refusal.Code, p place, format string, args ...any) {
	c.v.Refusals = append(c.v.Refusals, refusal.New(code, p.object+": "+p.name, format, args...))
}

func (c *symbolCheck) check(p place) {
	at := c.found[symbolKey{p.object, p.name}]
	switch {
	case len(at) == 0:
		c.refuse(refusal.SymbolNotFound, p, "the running kernel has no such symbol")
		return
	case p.position == 0 && len(at) > 1:
		c.refuse(refusal.WrongPosition, p, "the running kernel has %d symbols of this name, the package knows one", len(at))
		return
	case p.position > len(at):
		c.refuse(refusal.WrongPosition, p, "the package means number %d of this name, the running kernel has %d", p.position, len(at))
		return
	}
	is := at[max(p.position, 1)-1]
	if is == 0 {
		return // not for this reader
	}
	if p.object == manifest.Vmlinux {
		c.image(p, is)
	} else {
		c.module(p, is)
	}
}

func (c *symbolCheck) image(p place, is uint64) {
	// Per-CPU variables have offsets instead of addresses on x86-64 before 6.15;
	// those do not move.
	const perCPU = 1 << 32
	if is == p.address && is < perCPU {
		return
	}
	if c.moved == nil {
		c.moved = &moved{is - p.address, p}
		return
	}
	if by := is - p.address; by != c.moved.by {
		c.refuse(refusal.WrongPosition, p, "is %#x from where the package says, but %s is %#x from there", by, c.moved.from.name, c.moved.by)
	}
}

func (c *symbolCheck) module(p place, is uint64) {
	text, err := line(c.fsys, path.Join(moduleDir, p.object, "sections", p.section))
	if err != nil || p.section == "" {
		return
	}
	base, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 64)
	if err != nil || base == 0 {
		return
	}
	if want := base + p.address; want != is {
		c.refuse(refusal.WrongPosition, p, "is at %#x, not at %#x where the package says", is, want)
	}
}
