package unwind

import "livepatch/internal/leb128"

// Encodings of addresses: the low half is the format, the high half what is
// added.
const (
	peAbs      = 0x00
	peUleb     = 0x01
	peU2       = 0x02
	peU4       = 0x03
	peU8       = 0x04
	peSigned   = 0x08
	peS2       = 0x0a
	peS4       = 0x0b
	peS8       = 0x0c
	pePCRel    = 0x10
	peDataRel  = 0x30
	peFormat   = 0x0f
	peApply    = 0x70
	peIndirect = 0x80
)

// reader reads from the front of b, which is at an address; bad is set once it is
// too short, or holds what is not known.
type reader struct {
	b   []byte
	at  uint64
	bad bool
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	s := r.b[:n]
	r.b, r.at = r.b[n:], r.at+n
	return s
}

func (r *reader) byte() uint8 {
	if s := r.take(1); s != nil {
		return s[0]
	}
	return 0
}

// number reads a number of n bytes, 1, 2, 4 or 8.
func (r *reader) number(n uint64, signed bool) (v uint64) {
	s := r.take(n)
	for i := len(s) - 1; i >= 0; i-- {
		v = v<<8 | uint64(s[i])
	}
	if signed && n < 8 {
		shift := 64 - 8*n
		v = uint64(int64(v<<shift) >> shift)
	}
	return v
}

func (r *reader) uleb() uint64 {
	v, n := leb128.Uint(r.b)
	r.skip(n)
	return v
}

func (r *reader) sleb() uint64 {
	v, n := leb128.Int(r.b)
	r.skip(n)
	return uint64(v)
}

// skip goes past a number of n bytes; 0 if there is none.
func (r *reader) skip(n int) {
	if n == 0 {
		r.b, r.bad = nil, true
	}
	r.take(uint64(n))
}

// pointer reads an address. Only encodings that linkers use for functions are
// known.
func (r *reader) pointer(encoding uint8) (v uint64) {
	at := r.at
	switch encoding & peFormat {
	case peAbs, peU8, peS8:
		v = r.number(8, false)
	case peU4, peS4:
		v = r.number(4, encoding&peSigned != 0)
	case peU2, peS2:
		v = r.number(2, encoding&peSigned != 0)
	case peUleb:
		v = r.uleb()
	default:
		r.bad = true
	}
	switch encoding &^ peFormat {
	case 0:
	case pePCRel:
		v += at
	default:
		r.bad = true
	}
	return v
}
