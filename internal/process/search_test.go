package process

import (
	"encoding/binary"
	"slices"
	"testing"
)

// Addresses are found at every offset, whatever the highest bytes hold, and
// nothing else is.
func TestSearch(t *testing.T) {
	s := search{0x55550001f000, 0x555500021000} // in three blocks of 64 KB
	b := make([]byte, 256)
	var want []int
	for i, v := range []uint64{0x55550001f000, 0x55550001ffff, 0x555500020000, 0xbeef_5555_0002_0fff, 0x55550001efff, 0x555500021000} {
		at := i*20 + i // odd and even
		binary.LittleEndian.PutUint64(b[at:], v)
		if i < 4 {
			want = append(want, at)
		}
	}
	var have []int
	s.in(b, func(off int, v uint64) bool {
		have = append(have, off)
		return true
	})
	if slices.Sort(have); !slices.Equal(have, want) {
		t.Errorf("found at %d, want %d", have, want)
	}
	end := binary.LittleEndian.AppendUint64(nil, 0x555500020000)
	for n := range 9 {
		found := false
		s.in(end[:n], func(int, uint64) bool { found = true; return false })
		if found != (n >= addressBytes) {
			t.Errorf("in %d bytes: %v", n, found)
		}
	}
}

// Short addresses are looked for in low memory only.
func TestSearchShort(t *testing.T) {
	b := []byte{0xb8, 0x10, 0x50, 0x40, 0x00, 0xc3}
	for _, tc := range []struct {
		s    search
		want int
	}{{search{0x405000, 0x406000}, 1}, {search{0x406000, 0x407000}, 0}, {search{0x5500_0040_5000, 0x5500_0040_6000}, 0}} {
		n := 0
		tc.s.short(b, func(off int, v uint64) bool {
			n++
			return off == 1 && v == 0x405010
		})
		if n != tc.want {
			t.Errorf("%+v: %d", tc.s, n)
		}
	}
}
