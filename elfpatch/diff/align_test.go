package diff

import (
	"math/rand/v2"
	"testing"
)

// lcs is the length of a longest common subsequence, by the textbook's table.
func lcs(a, b []int32) int {
	prev := make([]int, len(b)+1)
	for _, x := range a {
		row := make([]int, len(b)+1)
		for k, y := range b {
			if row[k+1] = max(row[k], prev[k+1]); x == y {
				row[k+1] = max(row[k+1], prev[k]+1)
			}
		}
		prev = row
	}
	return prev[len(b)]
}

// checkAlignment fails unless out pairs equals in order, and returns how many.
func checkAlignment(t *testing.T, a, b []int32, out []int) (pairs int) {
	t.Helper()
	last := -1
	for i, k := range out {
		if k < 0 {
			continue
		}
		if k <= last || k >= len(b) || a[i] != b[k] {
			t.Fatalf("align(%v, %v) = %v", a, b, out)
		}
		last = k
		pairs++
	}
	return pairs
}

func TestAlignIsLongest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		a, b := make([]int32, r.IntN(14)), make([]int32, r.IntN(14))
		letters := int32(1 + r.IntN(6))
		for _, l := range [][]int32{a, b} {
			for i := range l {
				l[i] = r.Int32N(letters)
			}
		}
		if got, want := checkAlignment(t, a, b, align(a, b)), lcs(a, b); got != want {
			t.Fatalf("align(%v, %v) has %d pairs, not %d", a, b, got, want)
		}
	}
}

// Long lists without anything in common, or with much, are aligned in bounded
// time.
func TestAlignLong(t *testing.T) {
	const n = 20000
	a, b := make([]int32, n), make([]int32, n+n/10)
	for i := range a {
		a[i] = int32(i)
	}
	for i := range b {
		b[i] = int32(-1 - i)
	}
	if got := checkAlignment(t, a, b, align(a, b)); got != 0 {
		t.Errorf("%d pairs of lists without common elements", got)
	}
	r := rand.New(rand.NewPCG(3, 4))
	b = b[:0]
	for _, x := range a {
		if r.IntN(10) > 0 {
			b = append(b, x)
		} else {
			b = append(b, -x)
		}
	}
	kept := lcsOfIncreasing(b)
	if got := checkAlignment(t, a, b, align(a, b)); got < kept*99/100 {
		t.Errorf("%d pairs, of %d possible", got, kept)
	}
}

// lcsOfIncreasing counts what b shares with 0, 1, 2, …
func lcsOfIncreasing(b []int32) (n int) {
	for i, x := range b {
		if x == int32(i) {
			n++
		}
	}
	return n
}
