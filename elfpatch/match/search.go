package match

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"

	"livepatch/elfpatch"
)

// Limits of the search.
const (
	maxFits     = 4096 // equal places remembered; more are as good as none
	maxNear     = 64   // unequal places looked at for the message
	keySize     = 8    // bytes that a function is looked up by when many are searched
	fewPatterns = 3    // up to this many are searched one by one
	// minEvidence is the number of bytes that a place must share with a function
	// when nothing else says that a function begins there.
	minEvidence = 12
	minNear     = 4 // bytes that a place must share to be looked at for the message
)

// A pattern is what is searched for: a run of bytes that linking leaves alone.
type pattern struct {
	f     *function
	off   int // of the run in the function
	run   []byte
	fixed int      // bytes outside all fields
	hits  []uint64 // addresses at which the function would begin
	many  bool     // more than maxFits
}

// newPattern takes the longest run of fixed bytes that does not start with
// filler, which would be slow to search for.
func newPattern(m elf.Machine, f *function) *pattern {
	p := &pattern{f: f}
	runs := fixedRuns(m, f)
	for _, r := range runs {
		p.fixed += r[1] - r[0]
		if r[1]-r[0] > len(p.run) {
			p.off, p.run = r[0], f.code[r[0]:r[1]]
		}
	}
	return p
}

// fixedRuns returns the maximal runs [lo, hi) of bytes that no relocation and
// no rewrite can change.
func fixedRuns(m elf.Machine, f *function) [][2]int {
	var runs [][2]int
	pos := 0
	for _, r := range f.rels {
		lo, hi := variable(m, r)
		lo, hi = max(lo, pos), min(hi, len(f.code))
		if lo > pos {
			runs = append(runs, [2]int{pos, lo})
		}
		pos = max(pos, hi)
	}
	if pos < len(f.code) {
		runs = append(runs, [2]int{pos, len(f.code)})
	}
	return runs
}

// variable is the stretch that linking may change on behalf of a relocation.
func variable(m elf.Machine, r elfpatch.Rela) (lo, hi int) {
	off := int(r.Offset)
	if m == elf.EM_AARCH64 {
		return off &^ 3, off&^3 + instSize
	}
	info, _ := elfpatch.RelocInfo(m, r.Type)
	before, after := variableX86(r.Type)
	return off - before, off + info.Size + after
}

// search finds every place of the text that holds the run of each pattern. It
// is linear in the text for any number of patterns.
func (img *image) search(pats []*pattern) {
	if len(pats) <= fewPatterns {
		for _, p := range pats {
			img.searchOne(p)
		}
		return
	}
	byKey := map[uint64][]*pattern{}
	for _, p := range pats {
		if len(p.run) < keySize {
			img.searchOne(p)
			continue
		}
		k := binary.LittleEndian.Uint64(p.run)
		byKey[k] = append(byKey[k], p)
	}
	if len(byKey) > 0 {
		img.searchKeys(byKey)
	}
}

func (img *image) searchOne(p *pattern) {
	if len(p.run) == 0 {
		p.many = true
		return
	}
	for _, s := range img.exec {
		for i := 0; ; i++ {
			k := bytes.Index(s.data[i:], p.run)
			if k < 0 {
				break
			}
			i += k
			if !p.hit(s, i) {
				return
			}
		}
	}
}

// hit notes that the run stands at s.data[i:]; false when there are too many.
func (p *pattern) hit(s stretch, i int) bool {
	if i < p.off || i-p.off+len(p.f.code) > len(s.data) {
		return true
	}
	if len(p.hits) == maxFits {
		p.many = true
		return false
	}
	p.hits = append(p.hits, s.addr+uint64(i-p.off))
	return true
}

// searchKeys slides over the text once. A small bitmap keeps most places from
// the map.
func (img *image) searchKeys(byKey map[uint64][]*pattern) {
	const bits = 16
	hash := func(k uint64) uint64 { return k * 0x9e3779b97f4a7c15 >> (64 - bits) }
	var seen [1 << bits / 64]uint64
	for k := range byKey {
		h := hash(k)
		seen[h/64] |= 1 << (h % 64)
	}
	for _, s := range img.exec {
		for i := 0; i+keySize <= len(s.data); i++ {
			k := binary.LittleEndian.Uint64(s.data[i:])
			if h := hash(k); seen[h/64]>>(h%64)&1 == 0 {
				continue
			}
			for _, p := range byKey[k] {
				if !p.many && bytes.HasPrefix(s.data[i:], p.run) {
					p.hit(s, i)
				}
			}
		}
	}
}

// near finds places that hold some part of a function's fixed runs, for the
// message that says where the best of them differs.
func (img *image) near(f *function, runs [][2]int) []uint64 {
	runs = slices.Clone(runs)
	slices.SortStableFunc(runs, func(a, b [2]int) int { return (b[1] - b[0]) - (a[1] - a[0]) })
	var out []uint64
	for _, r := range runs[:min(len(runs), 4)] {
		// The difference may be anywhere in a run: try its halves too.
		mid := (r[0] + r[1]) / 2
		for _, h := range [][2]int{r, {r[0], mid}, {mid, r[1]}} {
			if h[1]-h[0] < minNear {
				continue
			}
			p := &pattern{f: f, off: h[0], run: f.code[h[0]:h[1]]}
			img.searchOne(p)
			out = append(out, p.hits[:min(len(p.hits), maxNear)]...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
