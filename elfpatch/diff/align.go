package diff

import "math"

// align finds a longest common subsequence of two lists: for each element of a
// its equal in b, in order, -1 for those without. Where lists differ by more
// than the work is worth, it settles for a shorter one.
//
// It is E. W. Myers' algorithm ("An O(ND) Difference Algorithm and Its
// Variations", 1986) in linear space: paths are followed from both ends, one
// difference more each round, until they meet; then both halves are done.
func align(a, b []int32) []int {
	w := &aligner{a: a, b: b, out: make([]int, len(a)), zero: len(a) + len(b) + 2}
	w.fwd, w.back = make([]int, 2*w.zero+1), make([]int, 2*w.zero+1)
	for i := range w.out {
		w.out[i] = -1
	}
	todo := []box{{0, len(a), 0, len(b)}}
	for len(todo) > 0 {
		x := w.trim(todo[len(todo)-1])
		todo = todo[:len(todo)-1]
		if x.a0 == x.a1 || x.b0 == x.b1 {
			continue
		}
		i, k := w.meet(x)
		todo = append(todo, box{x.a0, x.a0 + i, x.b0, x.b0 + k}, box{x.a0 + i, x.a1, x.b0 + k, x.b1})
	}
	return w.out
}

// maxPath bounds the differences that are followed from either end of a box:
// the work grows with their square.
const maxPath = 1000

// box is a stretch of each list.
type box struct{ a0, a1, b0, b1 int }

type aligner struct {
	a, b      []int32
	out       []int
	fwd, back []int // how far paths have come on each diagonal, from zero on
	zero      int
}

// trim takes what is equal at both ends off a box.
func (w *aligner) trim(x box) box {
	for x.a0 < x.a1 && x.b0 < x.b1 && w.a[x.a0] == w.b[x.b0] {
		w.out[x.a0] = x.b0
		x.a0++
		x.b0++
	}
	for x.a0 < x.a1 && x.b0 < x.b1 && w.a[x.a1-1] == w.b[x.b1-1] {
		x.a1--
		x.b1--
		w.out[x.a1] = x.b1
	}
	return x
}

// nowhere is how far a path has come that has left the box.
const nowhere = math.MinInt / 2

// meet returns a place inside of a trimmed box that a shortest way through it
// passes, other than its ends.
func (w *aligner) meet(x box) (int, int) {
	a, b := w.a[x.a0:x.a1], w.b[x.b0:x.b1]
	n, m := len(a), len(b)
	delta := n - m
	for d := 0; ; d++ {
		for k := -d; k <= d; k += 2 {
			at := w.step(w.fwd, d, k, n, m)
			for at >= 0 && at < n && at-k < m && a[at] == b[at-k] {
				at++
			}
			w.fwd[w.zero+k] = at
			if o := delta - k; delta%2 != 0 && o > -d && o < d && at+w.back[w.zero+o] >= n {
				return at, at - k
			}
		}
		for k := -d; k <= d; k += 2 {
			at := w.step(w.back, d, k, n, m)
			for at >= 0 && at < n && at-k < m && a[n-1-at] == b[m-1-at+k] {
				at++
			}
			w.back[w.zero+k] = at
			if o := delta - k; delta%2 == 0 && o >= -d && o <= d && at+w.fwd[w.zero+o] >= n {
				return n - at, m - at + k
			}
		}
		if d == maxPath {
			return w.furthest(d)
		}
	}
}

// step is where the path on a diagonal is after one more difference.
func (w *aligner) step(v []int, d, k, n, m int) int {
	if d == 0 {
		v[w.zero-1], v[w.zero+1] = nowhere, nowhere
		return 0
	}
	if k == -d {
		v[w.zero-d-1], v[w.zero+d+1] = nowhere, nowhere
	}
	at := max(v[w.zero+k+1], v[w.zero+k-1]+1)
	if at > n || at-k > m {
		return nowhere
	}
	return at
}

// furthest is the place that the paths from the beginning have come to.
func (w *aligner) furthest(d int) (int, int) {
	i, k := 0, 0
	for diag := -d; diag <= d; diag += 2 {
		if at := w.fwd[w.zero+diag]; at >= 0 && 2*at-diag > i+k {
			i, k = at, at-diag
		}
	}
	return i, k
}
