package modcheck

import (
	"debug/elf"

	"livepatch/elfpatch/kernel"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// checkHashes asks whether what the kernel and the module call through pointers has the
// hash of a type before it, on kernels for arm64 that check such calls.
func (c *checker) checkHashes() {
	k := c.target.set.Kernel
	if k == nil || c.f.Machine != elf.EM_AARCH64 || !k.ChecksCalls() {
		return
	}
	before, n := c.refusals(whatEntry), 0
	for _, e := range c.entries() {
		if e.replaces {
			continue
		}
		n++
		if !c.hasHash(e.at) {
			c.refuse(refusal.TypeHash, whatEntry, c.name(e.at), "%s, but the word before it is no hash of a type", e.why)
		}
	}
	if known, ok := k.EntryHashes(); ok {
		c.checkOwnHashes(known)
	}
	if c.refusals(whatEntry) == before {
		c.ok(whatEntry, "", "%s called through pointers, with the hashes of their types", count(n, "function"))
	}
}

// hasHash reports a word of data that ends where a function begins.
func (c *checker) hasHash(at place) bool {
	if at.off < kernel.TypeHashSize {
		return false
	}
	data := c.mapping()[at.sec].within(at.off-kernel.TypeHashSize, at.off+1)
	return len(data) == 1 && data[0] == span{at.off - kernel.TypeHashSize, at.off}
}

// checkOwnHashes asks whether init and exit have the types by which the kernel calls them.
func (c *checker) checkOwnHashes(known kimage.EntryHashes) {
	s := c.f.Section(thisModule)
	if s == nil {
		return
	}
	for _, r := range c.refs[s.Index] {
		to, ok := c.to(r)
		if !ok || !c.hasHash(to) {
			continue
		}
		if h := le.Uint32(c.bytes(place{to.sec, to.off - kernel.TypeHashSize}, kernel.TypeHashSize)); h != known.Init && h != known.Exit {
			c.refuse(refusal.TypeHash, whatEntry, c.name(to), "the kernel calls it when the module is loaded or unloaded, and %#08x is the hash of neither type", h)
		}
	}
}
