package fentry

import "debug/elf"

// fillerAt returns the length of the instruction at the front of b, which is
// not empty, and whether it is filler; the length is 0 if none is there.
func (fd *Finder) fillerAt(b []byte) (int, bool) {
	if fd.machine == elf.EM_AARCH64 {
		return arm64FillerAt(b)
	}
	return x86FillerAt(b)
}

// fillerAfter returns how much of b, from its front, is filler.
func (fd *Finder) fillerAfter(b []byte) int {
	for off := 0; off < len(b); {
		n, filler := fd.fillerAt(b[off:])
		if !filler {
			return off
		}
		off += n
	}
	return len(b)
}

// fillerBefore returns how much of b, up to its end, is filler. It decodes from
// the front, so that it knows where instructions begin; behind something that
// is none it does not, and finds nothing.
func (fd *Finder) fillerBefore(b []byte) int {
	run := 0
	for off := 0; off < len(b); {
		n, filler := fd.fillerAt(b[off:])
		if n == 0 {
			return 0
		}
		off += n
		run += n
		if !filler {
			run = 0
		}
	}
	return run
}

// endOfCode returns the length of code without trailing filler, at least one
// instruction.
func (fd *Finder) endOfCode(b []byte) int {
	end := 0
	for off := 0; off < len(b); {
		n, filler := fd.fillerAt(b[off:])
		off += max(n, fd.step())
		if !filler || end == 0 {
			end = off
		}
	}
	return min(end, len(b))
}

// readEntry looks at the first instructions of a function.
func (fd *Finder) readEntry(b []byte) entry {
	if fd.machine == elf.EM_AARCH64 {
		return fd.arm64Entry(b)
	}
	return x86Entry(b)
}

// fentrySite recognises what the compiler left for the function tracer.
func (fd *Finder) fentrySite(t *text, site, limit int) (Kind, bool) {
	if fd.machine != elf.EM_X86_64 {
		return "", false
	}
	return fd.x86FentrySite(t, site, limit)
}

// step is the length of the shortest instruction.
func (fd *Finder) step() int {
	if fd.machine == elf.EM_AARCH64 {
		return 4
	}
	return 1
}
