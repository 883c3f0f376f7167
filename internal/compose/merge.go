package compose

import (
	"bytes"
	"debug/elf"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Part is a package that goes into a merged one.
type Part struct {
	File    string // base name, for messages and the record
	SHA256  []byte // of the file
	Package *pack.Package
}

// Options are what a merged package is made with.
type Options struct {
	Name    string // of the patch
	Version string // of the tool

	// Sign appends a signature to a module of a kernel; nil for none.
	Sign func(module []byte) ([]byte, error)
}

// Merged is the package that several became.
type Merged struct {
	Package *pack.Package
	Once    []Once
}

// Once is a function that two packages replace in the same way: the code of
// one is used.
type Once struct {
	Target   string `json:"target"` // file of a program, or object of a kernel
	Function string `json:"function"`
	Used     string `json:"used"` // file of the package whose code is used
	Left     string `json:"left"` // that of the other
}

// Merge makes one package of several, for programs or for one kernel. Of
// programs each payload stays the object that it is:
// a target that several packages patch is in the merged one as often, each time
// with functions of its own. A function that two packages replace in the same way
// is replaced by the first. Modules of a kernel become one module, and the order of the
// packages does not matter. The error is a refusal.List with everything that
// the packages disagree about.
func Merge(o Options, parts []Part) (*Merged, error) {
	kernels := 0
	for _, p := range parts {
		if p.Package.Manifest.Kernel != nil {
			kernels++
		}
	}
	switch kernels {
	case 0:
		return mergePrograms(o, parts)
	case len(parts):
		return mergeKernels(o, parts)
	}
	var list refusal.List
	for _, p := range parts {
		if p.Package.Manifest.Kernel != nil {
			list = append(list, refusal.New(refusal.MergeKernel, p.File, "it patches a kernel, others patch programs: no package does both"))
		}
	}
	return nil, list
}

func mergePrograms(o Options, parts []Part) (*Merged, error) {
	m := &merger{out: &pack.Package{
		Manifest: &manifest.Manifest{Format: manifest.Format, Name: o.Name, Tool: manifest.Tool{Name: "livepatch", Version: o.Version}},
		Members:  map[string][]byte{},
	}}
	// From here on every payload is a patch object of a program.
	for i := range parts {
		for k := range parts[i].Package.Manifest.Targets {
			if err := m.add(&parts[i], &parts[i].Package.Manifest.Targets[k]); err != nil {
				return nil, fmt.Errorf("merge %s: %w", parts[i].File, err)
			}
		}
	}
	if err := m.refusals.Err(); err != nil {
		return nil, err
	}
	m.out.Manifest.Build = record(parts)
	requires, err := requirements(parts)
	if err != nil {
		return nil, err
	}
	m.out.Manifest.Requires = requires
	if err := m.out.Manifest.Validate(); err != nil {
		return nil, fmt.Errorf("make the manifest: %w", err)
	}
	return &Merged{m.out, m.once}, nil
}

// requirements are what the parts build on, without what is one of them.
func requirements(parts []Part) (list []manifest.Requirement, err error) {
	var have [][]byte
	for _, p := range parts {
		sum, err := manifest.Digest(p.Package.Manifest)
		if err != nil {
			return nil, fmt.Errorf("merge %s: %w", p.File, err)
		}
		have = append(have, sum[:])
	}
	for _, p := range parts {
		for _, r := range p.Package.Manifest.Requires {
			if !slices.ContainsFunc(have, func(sum []byte) bool { return bytes.Equal(sum, r.SHA256) }) {
				list, have = append(list, r), append(have, r.SHA256)
			}
		}
	}
	return list, nil
}

// A merger collects the merged package.
type merger struct {
	out      *pack.Package
	taken    []*taken // in the order of the targets
	once     []Once
	refusals refusal.List
}

// taken is a target of the merged package and where it is from.
type taken struct {
	*payload
	part *Part
}

func (m *merger) refuse(code refusal.Code, where, format string, args ...any) {
	m.refusals = append(m.refusals, refusal.New(code, where, format, args...))
}

// add takes what a target of a package has and the targets before it have not.
func (m *merger) add(part *Part, t *manifest.Target) error {
	data := part.Package.Members[t.Payload.Member]
	p, err := open(t, data)
	if err != nil {
		return err
	}
	kept := slices.Clone(t.Functions)
	for _, old := range m.taken {
		if !sameFile(old.target, t) {
			continue
		}
		if sameTarget(old.target, t) { // the very same patch of it
			for _, f := range kept {
				m.once = append(m.once, Once{t.Name, f.Name, old.part.File, part.File})
			}
			return nil
		}
		if kept, err = m.distinct(old, p, part, kept); err != nil {
			return err
		}
	}
	if len(kept) == 0 {
		return nil
	}
	for _, old := range m.taken {
		if sameFile(old.target, t) {
			m.shared(old, p, part)
		}
	}
	m.keep(part, p, kept, data)
	return nil
}

func sameFile(a, b *manifest.Target) bool {
	return bytes.Equal(a.BuildID, b.BuildID) && bytes.Equal(a.SHA256, b.SHA256)
}

// sameTarget reports whether two entries say the same, whatever their payloads
// are called.
func sameTarget(a, b *manifest.Target) bool {
	x := *b
	x.Payload.Member = a.Payload.Member
	return reflect.DeepEqual(*a, x)
}

// distinct returns those of the functions that another package does not
// replace in the same way, and refuses those that it replaces differently.
func (m *merger) distinct(old *taken, p *payload, part *Part, functions []manifest.Function) (kept []manifest.Function, err error) {
	for i := range functions {
		f := &functions[i]
		k := slices.IndexFunc(old.target.Functions, func(g manifest.Function) bool {
			return f.Address < g.Address+g.Size && g.Address < f.Address+f.Size
		})
		if k < 0 {
			kept = append(kept, *f)
			continue
		}
		why, err := differ(old.payload, p, &old.target.Functions[k], f)
		if err != nil {
			return nil, err
		}
		if why != "" {
			m.refuse(refusal.MergeConflict, p.target.Name+": "+f.Name, "%s and %s %s", old.part.File, part.File, why)
			continue
		}
		m.once = append(m.once, Once{p.target.Name, f.Name, old.part.File, part.File})
	}
	return kept, nil
}

// differ says why the replacements of a function cannot stand for each other;
// empty if they can.
func differ(a, b *payload, f, g *manifest.Function) (string, error) {
	if f.Address != g.Address || f.Size != g.Size || !bytes.Equal(f.SHA256, g.SHA256) {
		return fmt.Sprintf("disagree about the function: %s has %d bytes at %#x, and %s %d at %#x", f.Name, f.Size, f.Address, g.Name, g.Size, g.Address), nil
	}
	x, err := a.replacementOf(f)
	if err != nil {
		return "", err
	}
	y, err := b.replacementOf(g)
	switch {
	case err != nil:
		return "", err
	case x.digest != y.digest:
		return fmt.Sprintf("replace it differently, by code with digest %x and %x", x.digest[:8], y.digest[:8]), nil
	case len(x.state) > 0:
		return "replace it in the same way, but with variables of their own: " + strings.Join(x.state, ", "), nil
	}
	return "", nil
}

// shared refuses two packages that bring variables of the same name: they may
// be one in the source, and each package would have its own.
func (m *merger) shared(old *taken, p *payload, part *Part) {
	mine := p.variables()
	for _, name := range old.variables() {
		if slices.Contains(mine, name) {
			m.refuse(refusal.MergeConflict, p.target.Name+": "+name, "%s and %s both bring a new variable of this name, and would each use their own", old.part.File, part.File)
		}
	}
}

// variables lists the variables that a payload brings.
func (p *payload) variables() []string { return variablesOf(p.code, nil) }

// variablesOf lists the variables of an object less those that are left out, by
// the names in the source: without the number that compilers give static variables of
// functions, and the one that linking gives to the second of a name.
func variablesOf(c *code, leaveOut func(unit) bool) (names []string) {
	for _, s := range c.obj.Sections {
		const both = elf.SHF_ALLOC | elf.SHF_WRITE
		if s.Flags&both != both {
			continue
		}
		for _, u := range c.units[s.Index] {
			if leaveOut != nil && leaveOut(u) {
				continue
			}
			name := plainName(u.name)
			if i := strings.LastIndexByte(name, '.'); i > 0 && strings.Trim(name[i+1:], "0123456789") == "" {
				name = name[:i]
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// keep adds a target with those of its functions that are left.
func (m *merger) keep(part *Part, p *payload, kept []manifest.Function, data []byte) {
	t := *p.target
	t.Payload.Member = fmt.Sprintf("payload/%d.o", len(m.out.Manifest.Targets))
	t.Functions, t.Writes = kept, nil
	for _, w := range p.target.Writes {
		f := p.target.Functions[w.Function].Address
		i := slices.IndexFunc(kept, func(k manifest.Function) bool { return k.Address == f })
		if i < 0 {
			continue
		}
		w.Function = i
		m.apart(part, &t, w)
		t.Writes = append(t.Writes, w)
	}
	m.out.Members[t.Payload.Member] = data
	m.out.Manifest.Targets = append(m.out.Manifest.Targets, t)
	m.taken = append(m.taken, &taken{p, part})
}

// apart refuses a write that touches one of another package, in the filler
// between functions.
func (m *merger) apart(part *Part, t *manifest.Target, w manifest.Write) {
	for i, old := range m.taken {
		if !sameFile(old.target, t) {
			continue
		}
		for _, o := range m.out.Manifest.Targets[i].Writes {
			if w.Address < o.Address+uint64(o.Length) && o.Address < w.Address+uint64(w.Length) {
				m.refuse(refusal.MergeConflict, fmt.Sprintf("%s: %s", t.Name, t.Functions[w.Function].Name), "%s and %s both write at %#x", old.part.File, part.File, w.Address)
			}
		}
	}
}
