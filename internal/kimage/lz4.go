package kimage

import (
	"errors"
	"fmt"
	"io"
)

// The kernel packs with "lz4 -l", the legacy frame: the magic number, then blocks of
// {u32 size, data}, each of which unpacks to 8 MiB but the last one, which may
// be shorter. Behind the last block the kernel's build puts the unpacked size, a
// word that is larger than what is left and so no block (lib/decompress_unlz4.c, 6.12).

const lz4Block = 8 << 20

var errLZ4 = errors.New("damaged block")

type legacyLZ4 struct {
	in    []byte
	out   []byte // of the block, not read yet
	block []byte
}

func newLegacyLZ4(b []byte) *legacyLZ4 { return &legacyLZ4{in: b[4:]} }

func (r *legacyLZ4) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if len(r.in) <= 4 { // the unpacked size, or nothing
			return 0, io.EOF
		}
		size := le.Uint32(r.in)
		if uint64(size) > uint64(len(r.in)-4) {
			return 0, fmt.Errorf("a block of %d bytes, %d are left", size, len(r.in)-4)
		}
		var err error
		r.block, err = unpackLZ4(r.block[:0], r.in[4:4+size])
		if err != nil {
			return 0, err
		}
		r.out, r.in = r.block, r.in[4+size:]
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// unpackLZ4 appends one block to dst, which must be empty ("LZ4 Block Format
// Description"): sequences of a token, literals, and a copy of what came
// before. The last one ends with its literals.
func unpackLZ4(dst, src []byte) ([]byte, error) {
	for len(src) > 0 {
		token := src[0]
		lit, rest, ok := lz4Length(int(token>>4), src[1:])
		if !ok || lit > len(rest) || len(dst)+lit > lz4Block {
			return nil, errLZ4
		}
		dst = append(dst, rest[:lit]...)
		src = rest[lit:]
		if len(src) == 0 {
			return dst, nil
		}
		if len(src) < 2 {
			return nil, errLZ4
		}
		back := int(le.Uint16(src))
		n, rest, ok := lz4Length(int(token&15), src[2:])
		n += 4
		if !ok || back == 0 || back > len(dst) || len(dst)+n > lz4Block {
			return nil, errLZ4
		}
		for range n {
			dst = append(dst, dst[len(dst)-back])
		}
		src = rest
	}
	return nil, errLZ4
}

// lz4Length reads the rest of a length whose first four bits are n.
func lz4Length(n int, src []byte) (int, []byte, bool) {
	if n < 15 {
		return n, src, true
	}
	for i, c := range src {
		n += int(c)
		if n > lz4Block {
			return 0, nil, false
		}
		if c != 255 {
			return n, src[i+1:], true
		}
	}
	return 0, nil, false
}
