//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
	"livepatch/internal/resolve"
)

// reuse looks for memory of the same patch, left by an earlier loader, and
// makes the installation use it: a patch that is applied and reverted a thousand
// times takes the memory of one. All of its code and constants must be there as
// they would be written now.
func (in *installation) reuse() bool {
	for i, r := range in.p.patches.Records {
		// A child has what was being prepared in its parent when it was forked.
		own := r.Owner == in.record.Owner
		idle := r.State == live.Reverted || r.State == live.Hosting || r.State == live.Preparing && (own || !alive(r.Owner))
		if idle && r.Digest == in.record.Digest && r.Bias == in.record.Bias && in.fits(r) {
			in.was, in.reused = r.Control, true
			if r.State == live.Hosting { // it is one of the hosts, and stays one
				in.record.State, in.record.Column = r.State, r.Column
				in.p.patches.Records[i] = &in.record
			}
			for i := range r.Unwinders {
				in.record.Unwinders[i].State = r.Unwinders[i].State
			}
			if data := in.variables(); len(data) > 0 {
				in.data = data
			}
			return true
		}
	}
	return false
}

// fits reports whether the memory of a record is what the installation would
// map and fill at that place. If so the installation is linked for it.
func (in *installation) fits(r *live.Record) bool {
	if slices.ContainsFunc(r.Unwinders, func(u live.Unwinder) bool { return u.State == live.Telling || u.State == live.Forgetting }) {
		return false // a thread may be on its way to say so
	}
	if r.Sizes != in.record.Sizes || r.Base < in.window.low || r.Base > in.window.high || in.link(r.Base) != nil {
		return false
	}
	copy(in.memory[partRead][live.ControlOffset:], r.Control.Encode())
	if !in.p.mappedAs(r) {
		return false
	}
	at := r.Base
	for i, size := range r.Sizes {
		have := make([]byte, size)
		if i != partWrite && (in.p.readMem(have, at) != nil || !bytes.Equal(have, in.memory[i])) {
			return false
		}
		at += size
	}
	return true
}

// mappedAs reports whether the memory of a record is mapped as that of a patch is.
func (p *proc) mappedAs(r *live.Record) bool {
	at := r.Base
	for i, prot := range protections() {
		size := r.Sizes[i]
		if size == 0 {
			continue
		}
		m := resolve.Find(p.maps, at)
		if m == nil || at+size > m.End || m.Shared || m.Inode != 0 ||
			m.Write != (prot&unix.PROT_WRITE != 0) || m.Exec != (prot&unix.PROT_EXEC != 0) {
			return false
		}
		at += size
	}
	return true
}
