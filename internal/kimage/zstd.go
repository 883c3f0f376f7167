package kimage

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// unpackZstd decodes into the room itself: a reader would keep a window of its own and
// copy all of it once more.
func unpackZstd(b []byte, into room) ([]byte, error) {
	frame, err := firstZstdFrame(b)
	if err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(uint64(into.most)), zstd.WithDecoderMaxWindow(maxDict))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	out, err := d.DecodeAll(frame, make([]byte, 0, into.expected+zstdSlack))
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return nil, into.tooMuch()
	}
	return out, err
}

// zstdSlack is room behind what is decoded, where the decoder may write ahead.
const zstdSlack = 64

// Block types: RFC 8878, section 3.1.1.2.2.
const (
	zstdRLE      = 1
	zstdReserved = 3
)

// firstZstdFrame cuts off what follows the first frame, such as the unpacked
// size that the kernel's build appends: RFC 8878, section 3.1.1.
func firstZstdFrame(b []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, err
	}
	at := h.HeaderSize
	for {
		if at < 0 || len(b)-at < 3 {
			return nil, io.ErrUnexpectedEOF
		}
		v := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		last, typ, size := v&1 != 0, v>>1&3, v>>3
		switch typ {
		case zstdReserved:
			return nil, fmt.Errorf("block of a reserved type at %#x", at)
		case zstdRLE:
			size = 1
		}
		if at += 3; size > len(b)-at {
			return nil, io.ErrUnexpectedEOF
		}
		at += size
		if last {
			break
		}
	}
	if h.HasCheckSum {
		if len(b)-at < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		at += 4
	}
	return b[:at], nil
}
