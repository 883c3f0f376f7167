package leb128

import (
	"encoding/binary"
	"math"
	"testing"
)

// The examples are those of DWARF 5, figures 7.22 and 7.23, and the limits.
func TestInt(t *testing.T) {
	for _, tc := range []struct {
		b    string
		want int64
		n    int
	}{
		{"\x02", 2, 1}, {"\x7e", -2, 1}, {"\xff\x00", 127, 2}, {"\x81\x7f", -127, 2}, {"\x80\x01", 128, 2}, {"\x80\x7f", -128, 2}, {"\x81\x01", 129, 2}, {"\xff\x7e", -129, 2},
		{"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x7f", math.MinInt64, 10}, {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", math.MaxInt64, 10},
		{"\x02rest", 2, 1}, {"", 0, 0}, {"\x80", 0, 0}, {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 0, 0},
	} {
		if v, n := Int([]byte(tc.b)); v != tc.want || n != tc.n {
			t.Errorf("%x: %d in %d bytes, want %d in %d", tc.b, v, n, tc.want, tc.n)
		}
	}
}

func TestUint(t *testing.T) {
	for _, tc := range []struct {
		b    string
		want uint64
		n    int
	}{
		{"\x02", 2, 1}, {"\x7f", 127, 1}, {"\x80\x01", 128, 2}, {"\x81\x01", 129, 2}, {"\xb9\x64", 12857, 2},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", math.MaxUint64, 10}, {"", 0, 0}, {"\xff", 0, 0},
	} {
		if v, n := Uint([]byte(tc.b)); v != tc.want || n != tc.n {
			t.Errorf("%x: %d in %d bytes, want %d in %d", tc.b, v, n, tc.want, tc.n)
		}
	}
}

// The standard library's varints are unsigned LEB128, refused where they overflow.
func FuzzUint(f *testing.F) {
	f.Add([]byte("\xb9\x64"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n := Uint(b)
		if n < 0 || n > len(b) || n > 10 {
			t.Fatalf("%x: %d bytes", b, n)
		}
		if want, m := binary.Uvarint(b); m > 0 && (v != want || n != m) || m == 0 && n != 0 {
			t.Errorf("%x: %d in %d bytes, want %d in %d", b, v, n, want, m)
		}
		if _, m := Int(b); m != n {
			t.Errorf("%x: %d bytes signed, %d unsigned", b, m, n)
		}
	})
}
