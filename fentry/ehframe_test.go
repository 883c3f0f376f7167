package fentry

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit"
)

// entry lays out one CIE or FDE: its length, the id, the body padded to four.
func frameEntry(id uint32, body []byte) []byte {
	for len(body)%4 != 0 {
		body = append(body, 0) // DW_CFA_nop
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(4+len(body)))
	b = binary.LittleEndian.AppendUint32(b, id)
	return append(b, body...)
}

func cie(t testing.TB, body string) []byte { return frameEntry(0, unhex(t, body)) }

// fde appends an FDE that refers to the CIE at offset 0.
func fde(t testing.TB, data []byte, body string) []byte {
	return append(data, frameEntry(uint32(len(data)+4), unhex(t, body))...)
}

func TestParseEHFrame(t *testing.T) {
	const at = 0x1000
	tests := []struct {
		name string
		cie  string // version, augmentation, alignments, register, data
		fde  string // start, size
		want frame
	}{
		{"pcrel sdata4", "01 7a5200 01 78 10 01 1b", "f0ffffff 20000000 00", frame{start: at + 0x1c - 0x10, size: 0x20}},
		{"pcrel sdata8", "01 7a5200 01 78 10 01 1c", "f0ffffffffffffff 2000000000000000 00", frame{start: at + 0x1c - 0x10, size: 0x20}},
		{"udata4", "01 7a5200 01 78 10 01 03", "00104080 20000000 00", frame{start: 0x80401000, size: 0x20}},
		{"sdata4", "01 7a5200 01 78 10 01 0b", "00104080 200000f0 00", frame{start: 0xffffffff80401000, size: 0xf0000020}},
		{"udata2", "01 7a5200 01 78 10 01 02", "0080 2000 00", frame{start: 0x8000, size: 0x20}},
		{"sdata2", "01 7a5200 01 78 10 01 0a", "0080 2000 00", frame{start: 0xffffffffffff8000, size: 0x20}},
		{"uleb", "01 7a5200 01 78 10 01 01", "8080808008 20 00", frame{start: 0x80000000, size: 0x20}},
		{"sleb", "01 7a5200 01 78 10 01 19", "70 20 00", frame{start: at + 0x1c - 0x10, size: 0x20}},
		{"absolute", "01 7a5200 01 78 10 01 00", "0010400000000000 2000000000000000 00", frame{start: 0x401000, size: 0x20}},
		{"no augmentation", "01 00 01 78 10 000000", "0010400000000000 2000000000000000", frame{start: 0x401000, size: 0x20}},
		{"personality and LSDA first", "01 7a504c5200 01 78 10 07 9b 11223344 1b 1b", "f0ffffff 20000000 00", frame{start: at + 0x24 - 0x10, size: 0x20}},
		{"signal frame", "01 7a525300 01 78 10 01 1b", "f0ffffff 20000000 00", frame{start: at + 0x1c - 0x10, size: 0x20}},
		{"keyed return addresses", "01 7a524200 01 78 1e 01 1b", "f0ffffff 20000000 00", frame{start: at + 0x1c - 0x10, size: 0x20}},
		{"version 3", "03 7a5200 01 78 8001 01 1b", "f0ffffff 20000000 00", frame{start: at + 0x1c - 0x10, size: 0x20}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := fde(t, cie(t, tt.cie), tt.fde)
			got, err := parseEHFrame(data, at, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || got[0].start != tt.want.start || got[0].size != tt.want.size {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestEHFrameEnds(t *testing.T) {
	one := fde(t, cie(t, "01 7a5200 01 78 10 01 1b"), "f0ffffff 20000000 00")
	empty := fde(t, bytes.Clone(one), "f0ffffff 00000000 00") // of a section that was discarded
	zero := append(bytes.Clone(one), 0, 0, 0, 0)
	more := append(zero, cie(t, "01 00 01 78 10")...) // linkers may put a zero in the middle
	for _, tt := range []struct {
		name   string
		data   []byte
		toZero bool
		want   int
	}{
		{"empty", nil, false, 0},
		{"one", one, false, 1},
		{"without size", empty, false, 1},
		{"zero at the end", zero, false, 1},
		{"zero in the middle", more, false, 1},
		{"garbage after zero", append(bytes.Clone(zero), 0xff, 0xff, 0xff, 0x7f), true, 1},
	} {
		got, err := parseEHFrame(tt.data, 0, tt.toZero)
		if err != nil || len(got) != tt.want {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}

func TestEHFrameRefuses(t *testing.T) {
	good := cie(t, "01 7a5200 01 78 10 01 1b")
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"64-bit length", unhex(t, "ffffffff 0000000000000000"), ".eh_frame+0x0: entries of 64-bit length are not used"},
		{"no room for the id", unhex(t, "02000000 0000"), ".eh_frame+0x0: entry of 0x2 bytes, 0x2 are left"},
		{"past the end", unhex(t, "10000000 00000000"), ".eh_frame+0x0: entry of 0x10 bytes, 0x4 are left"},
		{"before the start", frameEntry(100, unhex(t, "00000000 00000000")), ".eh_frame+0x0: its common entry is 0x60 bytes before the section"},
		{"common entry cut off", fde(t, fde(t, bytes.Clone(good), "f0ffffff 20000000 00")[20:], "f0ffffff 20000000 00"), ".eh_frame+0x0: its common entry is 0x14 bytes before the section"},
		{"refers to itself", frameEntry(4, unhex(t, "f0ffffff 20000000 00")), ".eh_frame+0x0: an entry refers to this place, which holds no common entry"},
		{"version", fde(t, cie(t, "02 7a5200 01 78 10 01 1b"), "f0ffffff 20000000"), ".eh_frame+0x0: common entry of version 2, or its augmentation has no end"},
		{"endless augmentation", fde(t, cie(t, "01"+strings.Repeat("7a", 200)), "f0ffffff 20000000"), ".eh_frame+0x0: common entry of version 1, or its augmentation has no end"},
		{"augmentation", fde(t, cie(t, "01 656800 0000000000000000 01 78 10"), "f0ffffff 20000000"), `.eh_frame+0x0: augmentation "eh" is not known`},
		{"letter", fde(t, cie(t, "01 7a5100 01 78 10 01 1b"), "f0ffffff 20000000"), `.eh_frame+0x0: augmentation "zQ" is not known`},
		{"encoding", fde(t, cie(t, "01 7a5200 01 78 10 01 3b"), "f0ffffff 20000000"), ".eh_frame+0x0: pointer encoding 0x3b is not used for functions"},
		{"format", fde(t, cie(t, "01 7a5200 01 78 10 01 1e"), "f0ffffff 20000000"), ".eh_frame+0x0: pointer encoding 0x1e is not used for functions"},
		{"indirect", fde(t, cie(t, "01 7a5200 01 78 10 01 9b"), "f0ffffff 20000000"), ".eh_frame+0x0: pointer encoding 0x9b is not used for functions"},
		{"omitted", fde(t, cie(t, "01 7a5200 01 78 10 01 ff"), "f0ffffff 20000000"), ".eh_frame+0x0: pointer encoding 0xff is not used for functions"},
		{"personality", fde(t, cie(t, "01 7a505200 01 78 10 07 1c 1122"), "f0ffffff 20000000"), ".eh_frame+0x0: personality pointer of encoding 0x1c is cut short"},
		{"cut common entry", fde(t, frameEntry(0, unhex(t, "01 7a5200")), "f0ffffff 20000000"), ".eh_frame+0x0: common entry is cut short"},
		{"start", fde(t, bytes.Clone(good), ""), ".eh_frame+0x14: pointer of encoding 0x1b is cut short"},
		{"size", fde(t, bytes.Clone(good), "f0ffffff"), ".eh_frame+0x14: size of encoding 0x1b is cut short"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseEHFrame(tt.data, 0, false)
			if err == nil || err.Error() != tt.want {
				t.Errorf("%v, error %v, want %s", got, err, tt.want)
			}
		})
	}
}

// Without section headers the functions are found through the index of
// .eh_frame, which a segment points to.
func TestWithoutSectionHeaders(t *testing.T) {
	for _, dir := range []string{"x86_64-gcc", "aarch64-gcc"} {
		path := filepath.Join("..", "testdata", "binaries", dir, "prog.stripped")
		whole := testkit.ELF(t, path)
		b := bytes.Clone(readAll(t, path))
		clear(b[0x28:0x30]) // e_shoff
		clear(b[0x3a:0x40]) // e_shentsize, e_shnum, e_shstrndx
		bare, err := elfpatch.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Find(whole, Options{})
		if err != nil {
			t.Fatal(err)
		}
		finder, err := NewFinder(bare, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range want {
			got, err := finder.At(f.Addr, f.Size)
			if err != nil {
				t.Fatal(err)
			}
			if got.Site != f.Site || got.Verdict != f.Verdict || !bytes.Equal(got.Expected[:4], f.Expected[:4]) {
				t.Errorf("%s: got %s, want %s", dir, line(&got), line(&f))
			}
		}
		if n := len(finder.All()); n < len(want) {
			t.Errorf("%s: %d functions, %d with section headers", dir, n, len(want))
		}
	}
}

func TestEHFrameIndexRefuses(t *testing.T) {
	image := func(hdr []byte) *elfpatch.File {
		b := make([]byte, 64+2*56, 4096)
		copy(b, "\x7fELF\x02\x01\x01")
		le := binary.LittleEndian
		le.PutUint16(b[16:], uint16(elf.ET_DYN))
		le.PutUint16(b[18:], uint16(elf.EM_X86_64))
		le.PutUint32(b[20:], 1)
		le.PutUint64(b[32:], 64)
		le.PutUint16(b[52:], 64)
		le.PutUint16(b[54:], 56)
		le.PutUint16(b[56:], 2)
		le.PutUint16(b[58:], 64)
		size := uint64(len(b) + len(hdr))
		for i, p := range []struct {
			typ, flags uint32
			off, n     uint64
		}{{uint32(elf.PT_LOAD), 5, 0, size}, {uint32(ptGNUEHFrame), 4, uint64(len(b)), uint64(len(hdr))}} {
			h := b[64+56*i:]
			le.PutUint32(h, p.typ)
			le.PutUint32(h[4:], p.flags)
			le.PutUint64(h[8:], p.off)
			le.PutUint64(h[16:], p.off)
			le.PutUint64(h[24:], p.off)
			le.PutUint64(h[32:], p.n)
			le.PutUint64(h[40:], p.n)
		}
		f, err := elfpatch.Parse(append(b, hdr...))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, tt := range []struct{ hdr, want string }{
		{"01 1b 03 3b 0c000000 00000000 00000000 00000000", ""},
		{"02 1b 03 3b 0c000000", "index of .eh_frame: no header of version 1 at 0xb0"},
		{"01 1b 03", "index of .eh_frame: no header of version 1 at 0xb0"},
		{"01 3b 03 3b 0c000000", "index of .eh_frame: pointer encoding 0x3b is not used here"},
		{"01 1b 03 3b 0c000070", "index of .eh_frame: the address 0x700000c0 of .eh_frame is in no segment"},
	} {
		_, err := Find(image(unhex(t, tt.hdr)), Options{})
		if got := errText(err); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.hdr, got, tt.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzEHFrame(f *testing.F) {
	f.Add(fde(f, cie(f, "01 7a5200 01 78 10 01 1b"), "f0ffffff 20000000 00"), uint64(0x1000), false)
	f.Add(fde(f, cie(f, "01 7a504c5200 01 78 10 07 9b 11223344 1b 1b"), "f0ffffff 20000000 00"), uint64(0), true)
	f.Add(fde(f, cie(f, "03 00 01 78 8001"), "0010400000000000 2000000000000000"), uint64(1)<<63, false)
	if s := testkit.ELF(f, filepath.Join("..", "testdata", "binaries", "x86_64-gcc", "except")).Section(".eh_frame"); s != nil {
		f.Add(s.Data, s.Addr, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, addr uint64, toZero bool) {
		frames, err := parseEHFrame(data, addr, toZero)
		if err != nil {
			if _, ok := err.(*elfpatch.FormatError); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if 12*len(frames) > len(data) {
			t.Fatalf("%d functions in %d bytes", len(frames), len(data))
		}
		for _, fr := range frames {
			if fr.size == 0 || fr.field < 8 || fr.field >= len(data) {
				t.Fatalf("%+v", fr)
			}
		}
	})
}
