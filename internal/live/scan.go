package live

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
)

// A Range is code that no thread may be inside of.
type Range struct {
	Start, End uint64
	Name       string // of the function
	Open       bool   // it may end with a call, so that End is a return address into it
	Written    bool   // it is written over, and no more: who returns to its end goes on behind it
}

// longestCall is the length of the longest call that is looked for: call *disp32(base,index).
const longestCall = 7

// nearCall is the length of call rel32.
const nearCall = 5

// MayEndWithCall reports whether the last instruction of code may be a call,
// judged by its last bytes alone.
func MayEndWithCall(m elf.Machine, code []byte) bool {
	if m == elf.EM_AARCH64 {
		return arm64EndsWithCall(code)
	}
	return x86EndsWithCall(code)
}

// arm64EndsWithCall knows bl, blr and the forms of blr that authenticate.
func arm64EndsWithCall(code []byte) bool {
	const word = 4
	if len(code) < word {
		return false
	}
	w := le.Uint32(code[len(code)-word:])
	return w&0xfc000000 == 0x94000000 || w&0xfefff000 == 0xd63f0000
}

func x86EndsWithCall(code []byte) bool {
	last := func(n int) byte { return code[len(code)-n] }
	if len(code) >= nearCall && last(nearCall) == 0xe8 {
		return true
	}
	for n := 2; n <= min(longestCall, len(code)); n++ { // ff /2, ff /3
		if reg := last(n-1) >> 3 & 7; last(n) == 0xff && (reg == 2 || reg == 3) {
			return true
		}
	}
	return false
}

// Ranges is a set of ranges made for asking about many words.
type Ranges struct {
	list     []Range
	low, top uint64 // all ranges lie within
}

// NewRanges makes the set. Empty ranges are left out; ranges may overlap.
func NewRanges(list []Range) *Ranges {
	r := &Ranges{low: ^uint64(0)}
	for _, x := range list {
		if x.Start < x.End {
			r.list = append(r.list, x)
			r.low, r.top = min(r.low, x.Start), max(r.top, x.End)
		}
	}
	slices.SortFunc(r.list, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	return r
}

// A Hit is a place in a range.
type Hit struct {
	Name   string
	Offset uint64
}

func (h Hit) String() string { return fmt.Sprintf("%s+%#x", h.Name, h.Offset) }

// PC asks whether an instruction pointer is in a range: [start, end).
func (r *Ranges) PC(pc uint64) (Hit, bool) {
	if pc < r.low || pc >= r.top {
		return Hit{}, false
	}
	return r.closest(pc, func(x *Range) bool { return pc >= x.Start && pc < x.End })
}

// closest returns the narrowest range that an address is in.
func (r *Ranges) closest(addr uint64, is func(x *Range) bool) (Hit, bool) {
	var best *Range
	for i := range r.list {
		x := &r.list[i]
		if is(x) && (best == nil || x.End-x.Start < best.End-best.Start) {
			best = x
		}
	}
	if best == nil {
		return Hit{}, false
	}
	return Hit{best.Name, addr - best.Start}, true
}

// Word asks whether a word could be a return address into a range: (start,
// end). The start itself is no return address but what function pointers hold,
// and so is the end, where the next function starts, unless a call stands right
// before it.
func (r *Ranges) Word(v uint64) (Hit, bool) {
	if v <= r.low || v > r.top {
		return Hit{}, false
	}
	return r.closest(v, func(x *Range) bool { return v > x.Start && (v < x.End || v == x.End && x.Open) })
}

// Words asks about every aligned word of b and returns the first hit and its
// offset. A trailing part of a word is not looked at.
func (r *Ranges) Words(b []byte) (hit Hit, offset int, found bool) {
	low, span := r.low+1, r.top-r.low-1
	if len(r.list) == 0 {
		return Hit{}, 0, false
	}
	for i := 0; i+8 <= len(b); i += 8 {
		v := le.Uint64(b[i:])
		if v-low > span {
			continue
		}
		if hit, ok := r.Word(v); ok {
			return hit, i, true
		}
	}
	return Hit{}, 0, false
}
