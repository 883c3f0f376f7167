package kimage

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/therootcompany/xz"
)

var le = binary.LittleEndian

// maxUnpacked bounds what a compressed file may grow to. Kernels without debug
// information stay below 200 MB; modules with it too.
const maxUnpacked = 1 << 30

// maxLayers is how many wrappings are taken off: an arm64 EFI image that was
// compressed again has two.
const maxLayers = 4

// ErrCompression is wrapped by the errors for compressions that are known but
// cannot be undone here.
var ErrCompression = errors.New("compression not supported")

// Unpack takes the wrappings off a kernel image or module: bzImage, arm64 EFI
// image (vmlinuz.efi), gzip, xz, zstd, lz4, bzip2. ELF files and raw arm64 Images are
// returned as they are, without a copy; anything else is an error.
func Unpack(b []byte) ([]byte, error) {
	for range maxLayers {
		if isELF(b) || isARM64Image(b) {
			return b, nil
		}
		inner, err := unwrap(b)
		if err != nil {
			return nil, err
		}
		b = inner
	}
	return nil, errors.New("unpack: too many layers of compression")
}

// unwrap takes one wrapping off.
func unwrap(b []byte) ([]byte, error) {
	switch {
	case isBzImage(b):
		payload, err := bzImagePayload(b)
		if err != nil {
			return nil, err
		}
		return decompress(payload, "bzImage", true)
	case isZboot(b):
		payload, err := zbootPayload(b)
		if err != nil {
			return nil, err
		}
		return decompress(payload, "EFI image", true)
	}
	return decompress(b, "file", false)
}

// format is one kind of compression.
type format struct {
	name   string
	magic  string
	unpack func(b []byte, into room) ([]byte, error) // nil: known, not supported
	strict bool                                      // minds what follows it
}

// formats: Documentation/arch/x86/boot.rst (6.12), "payload_offset", lists what an
// image may be compressed with; the magic numbers are those of lib/decompress.c.
var formats = []format{
	{name: "gzip", magic: "\x1f\x8b\x08", unpack: asReader(func(b io.Reader) (io.Reader, error) {
		r, err := gzip.NewReader(b)
		if err == nil {
			r.Multistream(false) // the kernel appends what is not compressed
		}
		return r, err
	})},
	{name: "xz", magic: "\xfd7zXZ\x00", unpack: asReader(func(b io.Reader) (io.Reader, error) {
		r, err := xz.NewReader(b, maxDict)
		if err == nil {
			r.Multistream(false)
		}
		return r, err
	})},
	{name: "zstd", magic: "\x28\xb5\x2f\xfd", unpack: unpackZstd},
	{name: "lz4", magic: "\x02\x21\x4c\x18", unpack: func(b []byte, into room) ([]byte, error) { return into.read(newLegacyLZ4(b)) }},
	{name: "bzip2", magic: "BZh", unpack: asReader(func(b io.Reader) (io.Reader, error) { return bzip2.NewReader(b), nil }), strict: true},
	{name: "lzma", magic: "\x5d\x00\x00"},
	{name: "lzo", magic: "\x89LZO\x00"},
	{name: "lz4 frame", magic: "\x04\x22\x4d\x18"},
}

// asReader makes a format of a reader that undoes it.
func asReader(open func(io.Reader) (io.Reader, error)) func([]byte, room) ([]byte, error) {
	return func(b []byte, into room) ([]byte, error) {
		r, err := open(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return into.read(r)
	}
}

// maxDict is the largest dictionary of xz and window of zstd that is taken:
// kernels are packed with 32 MiB (scripts/xz_wrap.sh) and up to 128 MiB (zstd -22 --ultra).
const maxDict = 1 << 27

// decompress undoes the compression of b. An image's payload ends with its
// unpacked size; gzip has it there itself.
func decompress(b []byte, what string, image bool) ([]byte, error) {
	for _, f := range formats {
		if !bytes.HasPrefix(b, []byte(f.magic)) {
			continue
		}
		if f.unpack == nil {
			return nil, fmt.Errorf("unpack %s: %s: %w", what, f.name, ErrCompression)
		}
		size := 4 * len(b)
		if image && len(b) >= 4 {
			size = int(le.Uint32(b[len(b)-4:]))
		}
		into := roomFor(len(b), size)
		if f.strict && image {
			b = b[:max(len(f.magic), len(b)-4)]
		}
		out, err := f.unpack(b, into)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %s: %w", what, f.name, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("unpack %s: %w: neither ELF, nor an image, nor compressed in a known way", what, ErrNotKernel)
}

// Kernels shrink to about a quarter. What grows far more than that, beyond
// freeGrowth, was made to fill the memory.
const (
	mostGrowth = 100
	freeGrowth = 64 << 20
)

// room is how many bytes something is expected to unpack to, for which memory is
// taken at once, and how many it may.
type room struct{ expected, most int }

// roomFor is the room for packed bytes that are said to be size unpacked, which
// is believed as far as it is likely.
func roomFor(packed, size int) room {
	return room{expected: min(size, 16*packed), most: min(maxUnpacked, freeGrowth+mostGrowth*packed)}
}

// tooMuch is the error for what does not fit.
func (into room) tooMuch() error { return fmt.Errorf("unpacks to more than %d bytes", into.most) }

// read reads all of r, but no more than a kernel can have.
func (into room) read(r io.Reader) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(into.expected + bytes.MinRead)
	n, err := io.Copy(&out, io.LimitReader(r, int64(into.most)+1))
	switch {
	case err != nil:
		return nil, err
	case n > int64(into.most):
		return nil, into.tooMuch()
	}
	return out.Bytes(), nil
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte("\x7fELF")) }

// Offsets in the header of a bzImage: Documentation/arch/x86/boot.rst (6.12).
const (
	bzSetupSects    = 0x1f1
	bzMagic         = 0x202 // "HdrS"
	bzVersion       = 0x206
	bzPayloadOffset = 0x248
	bzPayloadLength = 0x24c
	bzHeaderEnd     = 0x250
	bzPayloadSince  = 0x208 // boot protocol version that has the payload fields
)

func isBzImage(b []byte) bool {
	return len(b) >= bzHeaderEnd && string(b[bzMagic:bzMagic+4]) == "HdrS"
}

// bzImagePayload returns the compressed kernel of a bzImage. Except with gzip,
// whose trailer has it already, the size of the unpacked kernel is its last
// word, which no decompressor minds.
func bzImagePayload(b []byte) ([]byte, error) {
	if v := le.Uint16(b[bzVersion:]); v < bzPayloadSince {
		return nil, fmt.Errorf("unpack bzImage: boot protocol %d.%02d does not say where the kernel is", v>>8, v&0xff)
	}
	sects := uint64(b[bzSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + uint64(le.Uint32(b[bzPayloadOffset:]))
	size := uint64(le.Uint32(b[bzPayloadLength:]))
	if start > uint64(len(b)) || size > uint64(len(b))-start {
		return nil, fmt.Errorf("unpack bzImage: the payload of %#x bytes at %#x exceeds the file of %#x bytes", size, start, len(b))
	}
	return b[start : start+size], nil
}

// Offsets in the header of an EFI image: drivers/firmware/efi/libstub/zboot-header.S (6.12).
const (
	zbootMagic  = 4 // "zimg"
	zbootOffset = 8
	zbootSize   = 12
	zbootHeader = 64
)

func isZboot(b []byte) bool {
	return len(b) >= zbootHeader && string(b[:2]) == "MZ" && string(b[zbootMagic:zbootMagic+4]) == "zimg"
}

func zbootPayload(b []byte) ([]byte, error) {
	start, size := uint64(le.Uint32(b[zbootOffset:])), uint64(le.Uint32(b[zbootSize:]))
	if start > uint64(len(b)) || size > uint64(len(b))-start {
		return nil, fmt.Errorf("unpack EFI image: the payload of %#x bytes at %#x exceeds the file of %#x bytes", size, start, len(b))
	}
	return b[start : start+size], nil
}
