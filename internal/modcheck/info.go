package modcheck

import (
	"cmp"
	"debug/elf"
	"slices"
	"strconv"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch/kernel"
)

// Info is what a livepatch module would make the kernel do.
type Info struct {
	Name        string        `json:"name"`
	Machine     string        `json:"machine"` // "x86-64", "arm64"
	Flavour     string        `json:"flavour"` // FlavourStatic and so on; "" if the module describes no patch
	Modinfo     []Modinfo     `json:"modinfo"`
	Signed      bool          `json:"signed"`
	Replace     *bool         `json:"replace,omitempty"` // absent where init decides it
	Objects     []Object      `json:"objects"`
	States      []State       `json:"states"`
	Symbols     []Symbol      `json:"symbols"`     // that livepatch relocations refer to
	Relocations []Relocations `json:"relocations"` // of loaded sections
	Imports     []Import      `json:"imports"`
	Tables      []Table       `json:"tables"`
}

// Object is the kernel or a module whose functions are replaced.
type Object struct {
	Name      string     `json:"name"` // "vmlinux", or of a module
	Functions []Function `json:"functions"`
	Callbacks []Callback `json:"callbacks"`
}

// Function is a function that is replaced.
type Function struct {
	Name        string `json:"name"`
	Position    uint64 `json:"position"` // among the symbols of that name, 0 if there is only one
	Replacement string `json:"replacement"`
	Section     string `json:"section"`
	Size        uint64 `json:"size"` // of the replacement
}

// Callback is a function that is called when an object is patched or
// unpatched.
type Callback struct {
	Kind     string `json:"kind"`
	Function string `json:"function"`
}

// State is a change of the system's state.
type State struct {
	ID      uint64 `json:"id"`
	Version uint32 `json:"version"`
}

// Symbol is a symbol of an object that livepatch relocations refer to.
type Symbol struct {
	Object   string `json:"object"`
	Name     string `json:"name"`
	Position string `json:"position"` // as it is written
	Uses     int    `json:"uses"`
}

// Relocations counts those of one section.
type Relocations struct {
	Section string `json:"section"`          // that they apply to
	Object  string `json:"object,omitempty"` // whose loading applies them: livepatch relocations only
	Count   int    `json:"count"`
}

// Import is an exported symbol that the module needs.
type Import struct {
	Name string  `json:"name"`
	CRC  *uint32 `json:"crc,omitempty"`
	Weak bool    `json:"weak,omitempty"`
}

// Table is a special section.
type Table struct {
	Section string `json:"section"`
	What    string `json:"what"`
	Size    uint64 `json:"size"`
	Entries int    `json:"entries,omitempty"` // where the size of entries is known
}

// Describe reads a module, compressed or not. It describes what it can of any
// kernel module; whether the module is sound is for Check to say.
func Describe(b []byte) (*Info, error) {
	m, err := open(b)
	if err != nil {
		return nil, err
	}
	x := &Info{Name: m.moduleName(), Machine: disasm.MachineName(m.f.Machine), Modinfo: m.info, Signed: signed(b),
		Objects: []Object{}, States: []State{}, Symbols: []Symbol{}, Relocations: []Relocations{}, Imports: m.imports(), Tables: []Table{}}
	if x.Modinfo == nil {
		x.Modinfo = []Modinfo{}
	}
	if m.isBase() {
		x.Flavour = FlavourBase
	} else if p := m.findPatch(usual); p != nil {
		x.Flavour, x.Replace = p.flavour, p.replace
		x.States = append(x.States, p.states...)
		for _, o := range p.objects {
			x.Objects = append(x.Objects, m.describeObject(o))
		}
	}
	m.describeRelocations(x)
	m.describeTables(x)
	return x, nil
}

// signed reports the mark that ends a signed module: kernel/module/signing.c.
func signed(b []byte) bool {
	return strings.HasSuffix(string(b[max(0, len(b)-28):]), "~Module signature appended~\n")
}

// moduleName is the name in .modinfo, else that in struct module, whose offset
// has been 24 on 64-bit kernels for as long as there is livepatch.
func (m *module) moduleName() string {
	if name, ok := m.tag("name"); ok {
		return name
	}
	if s := m.f.Section(thisModule); s != nil {
		if name, ok := m.str(place{s.Index, 24}); ok {
			return name
		}
	}
	return ""
}

func (m *module) describeObject(o object) Object {
	out := Object{Name: o.name, Functions: []Function{}, Callbacks: []Callback{}}
	for _, f := range o.funcs {
		d := Function{Name: f.name, Position: f.pos}
		if f.ok {
			d.Replacement, d.Section = m.name(f.to), m.section(f.to.sec).Name
			if list := m.functionsAt(f.to); len(list) > 0 {
				d.Size = list[0].end - list[0].start
			}
		}
		out.Functions = append(out.Functions, d)
	}
	for _, c := range o.calls {
		d := Callback{Kind: c.kind}
		if c.ok {
			d.Function = m.name(c.to)
		}
		out.Callbacks = append(out.Callbacks, d)
	}
	return out
}

func (m *module) describeRelocations(x *Info) {
	uses := map[string]int{}
	var order []string
	for _, r := range m.relas {
		if r.target == nil || r.target.Flags&elf.SHF_ALLOC == 0 || len(r.entries) == 0 {
			continue
		}
		d := Relocations{Section: r.target.Name, Count: len(r.entries)}
		if r.klp {
			d.Object, _, _ = strings.Cut(strings.TrimPrefix(r.sec.Name, klpRela), ".")
			for _, e := range r.entries {
				s, ok := m.symbol(e.Symbol)
				if !ok {
					continue
				}
				if uses[s.Name] == 0 {
					order = append(order, s.Name)
				}
				uses[s.Name]++
			}
		}
		x.Relocations = append(x.Relocations, d)
	}
	for _, name := range order {
		object, symbol, pos, ok := splitSymbol(name)
		if !ok {
			object, symbol = "", name
		}
		x.Symbols = append(x.Symbols, Symbol{object, symbol, pos, uses[name]})
	}
}

func (m *module) describeTables(x *Info) {
	for _, s := range m.f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Size == 0 {
			continue
		}
		row := kernel.Lookup(m.f.Machine, s.Name)
		if row == nil || row.Use == kernel.Dropped {
			continue
		}
		t := Table{Section: s.Name, What: row.What, Size: s.Size}
		if l := m.layoutOf(s, row, 0); l != nil {
			t.Entries = int((s.Size + l.Size - 1) / l.Size)
		}
		x.Tables = append(x.Tables, t)
	}
}

// imports lists undefined symbols by name, with the checksums of __versions.
func (m *module) imports() []Import {
	versions, _ := m.versions()
	list := []Import{}
	for i, s := range m.f.Symbols {
		if i == 0 || s.Section != 0 || s.Name == "" {
			continue
		}
		im := Import{Name: s.Name, Weak: s.Bind == elf.STB_WEAK}
		if crc, ok := versions[s.Name]; ok {
			im.CRC = &crc
		}
		list = append(list, im)
	}
	slices.SortFunc(list, func(a, b Import) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(list, func(a, b Import) bool { return a.Name == b.Name })
}

// versions reads __versions (64 bytes: checksum and name) and, of 6.14 and
// newer, __version_ext_crcs and __version_ext_names. The second answer says
// what is wrong with them.
func (m *module) versions() (map[string]uint32, string) {
	all := map[string]uint32{}
	bad := ""
	if s := m.f.Section("__versions"); s != nil {
		if s.Size%64 != 0 {
			bad = "__versions is no whole number of entries of 64 bytes"
		}
		for off := 0; off+64 <= len(s.Data); off += 64 {
			name, ok := cstring(s.Data[off+8 : off+64])
			if !ok {
				bad = "a name in __versions has no end"
				continue
			}
			if _, twice := all[name]; !twice { // the kernel takes the first
				all[name] = uint32(le.Uint64(s.Data[off:]))
			}
		}
	}
	crcs, names := m.f.Section("__version_ext_crcs"), m.f.Section("__version_ext_names")
	if crcs == nil || names == nil {
		return all, bad
	}
	list := strings.Split(strings.TrimSuffix(string(names.Data), "\x00"), "\x00")
	if len(crcs.Data)%4 != 0 || len(crcs.Data)/4 != len(list) {
		return all, strconv.Itoa(len(crcs.Data)/4) + " checksums and " + strconv.Itoa(len(list)) + " names in __version_ext_*"
	}
	for i, name := range list {
		if _, twice := all[name]; !twice {
			all[name] = le.Uint32(crcs.Data[4*i:])
		}
	}
	return all, bad
}

// Wants lists the modules of the kernel that questions about the patch are answered
// by: those that it patches, refers to, or depends on.
func (x *Info) Wants() []string {
	var list []string
	for _, o := range x.Objects {
		list = append(list, o.Name)
	}
	for _, s := range x.Symbols {
		list = append(list, s.Object)
	}
	for _, i := range x.Modinfo {
		if i.Key == "depends" {
			for _, d := range strings.Split(i.Value, ",") {
				list = append(list, strings.ReplaceAll(d, "-", "_"))
			}
		}
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" || s == "vmlinux" })
}
