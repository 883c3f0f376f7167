package kimage

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"livepatch/internal/testkit"
)

// packers compress the way that the kernel's build does (scripts/Makefile.lib, 6.12),
// which appends the unpacked size where the format does not have it at its end.
func packers(t *testing.T) map[string]func([]byte) []byte {
	t.Helper()
	tool := func(name string, args ...string) func([]byte) []byte {
		path := testkit.Tool(t, name)
		return func(b []byte) []byte {
			cmd := exec.Command(path, args...)
			cmd.Stdin = bytes.NewReader(b)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return out
		}
	}
	sized := func(f func([]byte) []byte) func([]byte) []byte {
		return func(b []byte) []byte { return le.AppendUint32(f(b), uint32(len(b))) }
	}
	return map[string]func([]byte) []byte{
		"gzip":           func(b []byte) []byte { return gz(t, b) },
		"xz of kernels":  sized(tool("xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB")),
		"xz of modules":  tool("xz", "--check=crc32", "--lzma2=dict=1MiB"),
		"lz4 of kernels": sized(tool("lz4", "-l", "-9", "-c")),
		"bzip2":          sized(tool("bzip2", "-9")),
		"zstd of kernels": sized(func(b []byte) []byte {
			w, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			return w.EncodeAll(b, nil)
		}),
		"zstd of modules": tool("zstd", "-T1", "-q", "-c"),
	}
}

// content looks like a file that compresses badly in places and well in others,
// longer than a block of lz4.
func content(size int) []byte {
	b := []byte("\x7fELF")
	x := uint32(1)
	for i := range size {
		if i>>12&1 == 0 {
			x = x*1664525 + 1013904223
		}
		b = append(b, byte(x>>24))
	}
	return b
}

func TestUnpackFormats(t *testing.T) {
	for name, pack := range packers(t) {
		want := content(1 << 20)
		if strings.HasPrefix(name, "lz4") {
			want = content(lz4Block + 1<<20)
		}
		packed := pack(want)
		for what, b := range map[string][]byte{"by itself": packed, "bzImage": bzImage(packed), "EFI image": zboot(packed)} {
			if name == "bzip2" && what == "by itself" {
				continue // it ends with a size in images only
			}
			got, err := Unpack(b)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: %d bytes of %d, %v", name, what, len(got), len(want), err)
			}
		}
		for _, n := range []int{len(packed) / 2, len(packed) - 40} {
			if got, err := Unpack(packed[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were unpacked to %d", name, n, len(packed), len(got))
			}
		}
	}
}

// bzImage wraps a payload as arch/x86/boot does.
func bzImage(payload []byte) []byte {
	const sects = 2
	b := make([]byte, (sects+1)*512+0x20)
	b[bzSetupSects] = sects
	copy(b[bzMagic:], "HdrS")
	le.PutUint16(b[bzVersion:], 0x20f)
	le.PutUint32(b[bzPayloadOffset:], 0x20)
	le.PutUint32(b[bzPayloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "relocations and more"...)
}

func zboot(payload []byte) []byte {
	b := make([]byte, 0x100)
	copy(b, "MZ")
	copy(b[zbootMagic:], "zimg")
	le.PutUint32(b[zbootOffset:], uint32(len(b)))
	le.PutUint32(b[zbootSize:], uint32(len(payload)))
	return append(append(b, payload...), "signature"...)
}

func TestUnpackImageErrors(t *testing.T) {
	payload := gz(t, []byte("\x7fELF"))
	for name, b := range map[string][]byte{
		"bzImage is cut":      bzImage(payload)[:0x5a0],
		"bzImage is too long": func() []byte { b := bzImage(payload); le.PutUint32(b[bzPayloadLength:], 1<<31); return b }(),
		"bzImage is too old":  func() []byte { b := bzImage(payload); le.PutUint16(b[bzVersion:], 0x207); return b }(),
		"bzImage of nothing":  bzImage([]byte("nothing that was compressed")),
		"EFI image is cut":    zboot(payload)[:0x105],
		"EFI image far away":  func() []byte { b := zboot(payload); le.PutUint32(b[zbootOffset:], 1<<31); return b }(),
	} {
		if got, err := Unpack(b); err == nil {
			t.Errorf("%s: unpacked to %d bytes", name, len(got))
		}
	}
	if _, err := Unpack(bzImage([]byte("\x89LZO\x00"))); !errors.Is(err, ErrCompression) {
		t.Errorf("lzo: %v", err)
	}
}

func TestUnpackLZ4Blocks(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"\x30abc", "abc"},
		{"\x31ab", ""},                                  // literals are cut
		{"\x10a\x01\x00\x10b", "aaaaab"},                // a copy over itself
		{"\x10a\x02\x00\x10b", ""},                      // from before the start
		{"\x10a\x00\x00\x10b", ""},                      // from nowhere
		{"\x1fa\x01\x00\x00\x10b", "a" + rep(19) + "b"}, // a longer copy
		{"\x10a\x01\x00", ""},                           // ends with a copy
		{"\xf0", ""},
		{"", ""},
	} {
		got, err := unpackLZ4(nil, []byte(c.in))
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func rep(n int) string { return string(bytes.Repeat([]byte("a"), n)) }
