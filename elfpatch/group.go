package elfpatch

import (
	"debug/elf"
	"fmt"
	"slices"
)

// Group is a section group (SHT_GROUP): sections that a linker keeps or drops
// together.
type Group struct {
	Section   int    // index of the SHT_GROUP section
	Flags     uint32 // elf.GRP_COMDAT: one group of each signature is kept
	Signature int    // index of the symbol whose name identifies the group
	Members   []int  // section indices
}

const groupComdat = 1 // GRP_COMDAT

// Comdat tells whether only one group of the signature is kept.
func (g *Group) Comdat() bool { return g.Flags&groupComdat != 0 }

// Groups returns the section groups in the order of their sections.
func (f *File) Groups() ([]Group, error) {
	var all []Group
	for _, s := range f.Sections {
		if s.Type != elf.SHT_GROUP {
			continue
		}
		where := fmt.Sprintf("section group %d", s.Index)
		if len(s.Data) < 4 {
			return nil, malformed(where, "it has no flags")
		}
		if int(s.Link) != f.symtab || uint64(s.Info) >= uint64(len(f.Symbols)) {
			return nil, malformed(where, "its signature is symbol %d of section %d", s.Info, s.Link)
		}
		g := Group{Section: s.Index, Flags: le.Uint32(s.Data), Signature: int(s.Info)}
		for off := 4; off+4 <= len(s.Data); off += 4 {
			m := le.Uint32(s.Data[off:])
			if m == 0 || uint64(m) >= uint64(len(f.Sections)) || int(m) == s.Index {
				return nil, malformed(where, "member section %d, there are %d", m, len(f.Sections))
			}
			g.Members = append(g.Members, int(m))
		}
		all = append(all, g)
	}
	return all, nil
}

// AddGroup appends a section group of the given members and marks them.
func (f *File) AddGroup(name string, flags uint32, signature int, members []int) *Section {
	data := le.AppendUint32(nil, flags)
	for _, m := range members {
		data = le.AppendUint32(data, uint32(m))
		f.Sections[m].Flags |= elf.SHF_GROUP
	}
	return f.AddSection(Section{
		Name: name, Type: elf.SHT_GROUP, Link: uint32(f.SymbolTable().Index), Info: uint32(signature),
		Align: 4, EntSize: 4, Data: data,
	})
}

// joinGroups makes a section a member of the groups that another is in.
func (f *File) joinGroups(with, added int) {
	for _, s := range f.Sections {
		if s.Type != elf.SHT_GROUP {
			continue
		}
		for off := 4; off+4 <= len(s.Data); off += 4 {
			if int(le.Uint32(s.Data[off:])) == with {
				s.Data = le.AppendUint32(slices.Clone(s.Data), uint32(added))
				s.Size = uint64(len(s.Data))
				break
			}
		}
	}
}
