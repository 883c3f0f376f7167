package kimage

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

// An arm64 Image is the bytes of the kernel from its symbol _text on, behind a header
// of 64 bytes (Documentation/arch/arm64/booting.rst, 6.12). It says neither
// where it is linked nor where its sections are. Both follow from the symbol
// table: _text is the first byte, and _stext, _etext and so on bound the
// sections. The address of _text follows from the pointers in the image, which
// must lead to symbols. A kernel moves itself at boot by relative relocations:
// they hold the pointers as addends (RELA, 6.12), or leave them in place (RELR, 7.2).

const (
	arm64HeaderSize = 64
	arm64ImageSize  = 16 // offset of the size in memory
	arm64Magic      = 56
	relativeARM64   = uint64(elf.R_AARCH64_RELATIVE)
	relaSize        = 24
	// minRelas is the shortest run of relocations that counts as a table; kernels have tens
	// of thousands.
	minRelas = 64
	// imageAlign is what addresses of kernels are a multiple of: SEGMENT_ALIGN, 64 KiB, in
	// arch/arm64/include/asm/memory.h (6.12); KIMAGE_VADDR itself is a multiple of 2 MiB.
	imageAlign = 1 << 16
	// minPointers is what the address is told from at least, sample what is looked at
	// of them at most.
	minPointers = 64
	sample      = 8192
	maxTries    = 1 << 25 // of pointers at addresses; those of a kernel of 128 MiB need half of it
)

func isARM64Image(b []byte) bool {
	return len(b) >= arm64HeaderSize && bytes.Equal(b[arm64Magic:arm64Magic+4], []byte("ARM\x64"))
}

// rela is a relative relocation of the image.
type rela struct{ place, value uint64 }

// relas returns the longest run of relative relocations in an image.
func relas(raw []byte) []rela {
	best, bestLen := 0, 0
	for at := 0; at+relaSize <= len(raw); at += 8 {
		n := 0
		for at+(n+1)*relaSize <= len(raw) && le.Uint64(raw[at+n*relaSize+8:]) == relativeARM64 {
			n++
		}
		if n > bestLen {
			best, bestLen = at, n
		}
		if n > 0 {
			at += n*relaSize - 8
		}
	}
	if bestLen < minRelas {
		return nil
	}
	out := make([]rela, bestLen)
	for i := range out {
		b := raw[best+i*relaSize:]
		out[i] = rela{le.Uint64(b), le.Uint64(b[16:])}
	}
	return out
}

// fromARM64Image makes an executable of a raw Image.
func (k *Kernel) fromARM64Image(raw []byte) error {
	size := le.Uint64(raw[arm64ImageSize:])
	if size < uint64(len(raw)) || size > 2*maxUnpacked {
		return fmt.Errorf("arm64 Image: %d bytes in memory, %d in the file", size, len(raw))
	}
	t, err := findKallsyms([]region{{0, raw}})
	if err != nil {
		return err
	}
	syms, err := t.symbols(anchors{
		base: func(int) (uint64, bool) { return 0, true },
		code: func(uint64) bool { return true }, // where code is follows from the symbols
		fits: func(s []Symbol) bool {
			text, ok := addrOf(s, "_text")
			end, ok2 := addrOf(s, "_end")
			return ok && ok2 && end-text == size
		},
	})
	if err != nil {
		return fmt.Errorf("arm64 Image of %#x bytes: %w", size, err)
	}
	text, _ := addrOf(syms, "_text")
	for i := range syms {
		syms[i].Addr -= text
	}
	list := relas(raw)
	base, err := imageBase(syms, pointers(raw, list), size)
	if err != nil {
		return err
	}
	for i := range syms {
		syms[i].Addr += base
	}
	k.Symbols = syms
	k.File, err = arm64File(raw, base, syms, list)
	return err
}

// pointers returns the addresses that the image holds: those that relocations
// put into it, else all words that are kernel addresses by their form.
func pointers(raw []byte, list []rela) []uint64 {
	var out []uint64
	for _, r := range list {
		out = append(out, r.value)
	}
	if out != nil {
		return out
	}
	const kernelHalf = 0xffff << 48 // bits 63 to 48 are set in them, with 48-bit addresses or more
	for at := arm64HeaderSize; at+8 <= len(raw); at += 8 {
		if v := le.Uint64(raw[at:]); v >= kernelHalf && v < ^uint64(0)-maxUnpacked {
			out = append(out, v)
		}
	}
	return out
}

// imageBase finds the address of _text: the only one at which most pointers are
// in the image, and many of those addresses of symbols, as those of functions
// are. The symbols count from _text.
func imageBase(syms []Symbol, ptrs []uint64, size uint64) (uint64, error) {
	slices.Sort(ptrs)
	lo, n := densest(ptrs, size)
	if n < minPointers || n < len(ptrs)/2 {
		return 0, errors.New("arm64 Image: its pointers do not tell its address")
	}
	at := make(map[uint64]bool, len(syms))
	for _, s := range syms {
		at[s.Addr] = true
	}
	ptrs = ptrs[lo : lo+n]
	step := max(1, n/min(sample, maxTries/(int(size/imageAlign)+1)))
	var base uint64
	best, second, all := 0, 0, (n+step-1)/step
	for b := ptrs[0] &^ (imageAlign - 1); ptrs[n-1]-b < size; b -= imageAlign {
		hits := 0
		for i := 0; i < n; i += step {
			if at[ptrs[i]-b] {
				hits++
			}
		}
		if hits > best {
			best, second, base = hits, best, b
		} else if hits > second {
			second = hits
		}
	}
	if best < all/8 || best < 4*second {
		return 0, errors.New("arm64 Image: its pointers do not tell its address")
	}
	return base, nil
}

// densest returns the longest run of sorted values within less than size of
// each other.
func densest(v []uint64, size uint64) (at, n int) {
	lo := 0
	for hi := range v {
		for v[hi]-v[lo] >= size {
			lo++
		}
		if hi-lo+1 > n {
			at, n = lo, hi-lo+1
		}
	}
	return at, n
}

func addrOf(syms []Symbol, name string) (uint64, bool) {
	for i := range syms {
		if syms[i].Name == name {
			return syms[i].Addr, true
		}
	}
	return 0, false
}
