package resolve

import (
	"debug/elf"
	"io"
	"slices"
)

// maxDynamic bounds the bytes of one dynamic section; real ones have hundreds.
const maxDynamic = 1 << 16

// Order puts the images into the order in which the dynamic linker searches
// them: that of the link map (struct r_debug, found through DT_DEBUG of the
// program), then whatever the link map does not name. entry is an address
// inside the program (AT_ENTRY); it comes first where there is no link map.
func Order(mem io.ReaderAt, images []*Image, entry uint64) []*Image {
	list := slices.Clone(images)
	main := Main(list, entry)
	if main == nil {
		return list
	}
	rank := map[uint64]int{}
	for i, ld := range linkMap(mem, main, len(images)) {
		rank[ld] = i + 1
	}
	key := func(im *Image) int {
		if im == main {
			return 0
		}
		if r, ok := rank[im.Dynamic]; ok && im.Dynamic != 0 {
			return r
		}
		return len(images) + 2
	}
	slices.SortStableFunc(list, func(a, b *Image) int { return key(a) - key(b) })
	return list
}

// Main returns the image of the program: the one that contains entry.
func Main(images []*Image, entry uint64) *Image {
	for _, im := range images {
		if im.Contains(entry-im.Bias, 1, elf.PF_X) {
			return im
		}
	}
	return nil
}

// linkMap returns the addresses of the dynamic sections (l_ld) in link map
// order. The map may change while it is read, so its length is bounded.
func linkMap(mem io.ReaderAt, main *Image, images int) []uint64 {
	debug, ok := dynamicValue(mem, main, elf.DT_DEBUG)
	if !ok || debug == 0 {
		return nil
	}
	var word [16]byte
	if read(mem, word[:], debug) != nil { // int r_version; struct link_map *r_map
		return nil
	}
	var list []uint64
	at := le.Uint64(word[8:])
	for range images + 8 {
		var lm [32]byte // l_addr, l_name, l_ld, l_next
		if at == 0 || read(mem, lm[:], at) != nil {
			break
		}
		list = append(list, le.Uint64(lm[16:]))
		at = le.Uint64(lm[24:])
	}
	return list
}

// dynamicValue reads one entry of the dynamic section.
func dynamicValue(mem io.ReaderAt, im *Image, tag elf.DynTag) (uint64, bool) {
	for i, s := range im.Segments {
		if s.Type != elf.PT_DYNAMIC || s.MemSize > maxDynamic {
			continue
		}
		b := make([]byte, im.Segments[i].MemSize)
		if read(mem, b, im.Dynamic) != nil {
			return 0, false
		}
		for ; len(b) >= 16; b = b[16:] {
			switch elf.DynTag(le.Uint64(b)) {
			case tag:
				return le.Uint64(b[8:]), true
			case elf.DT_NULL:
				return 0, false
			}
		}
	}
	return 0, false
}
