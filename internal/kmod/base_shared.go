package kmod

// Patches of the shared dispatch have one ftrace_ops each, which claims the
// instruction pointer (IPMODIFY) of all of its places, and ftrace calls one
// function of the base module for all of them, the handler: it looks the place
// up in the tables of the patches that are on, the newest first, and goes on in
// the replacement. It calls nothing and keeps nothing, so it needs no protection
// from recursion, and what it reads is never freed, so it needs none by RCU: a
// task may be preempted in it. ftrace cannot trace it, for it has no place, and
// kprobes are told to keep out of it.
//
// One IPMODIFY is all that a function can have, so a place stays with the
// ftrace_ops that claimed it first as long as a patch that is on has it; a
// newer patch claims what nobody has yet. An ftrace_ops is registered with all
// of its places at once, which the kernel does for all or none, and none is
// added later: only registering makes sure that direct calls can share them
// (prepare_direct_functions_for_ipmodify in kernel/trace/ftrace.c, 6.1 and
// 6.12).

// The symbols of the shared dispatch in the base module.
const (
	SharedHandler = "livepatch_shared"
	sharedHeads   = "shared_heads" // a record of a patch, for its two lists
	sharedFlags   = "shared_flags" // of struct ftrace_ops
	sharedFind    = "find"
	sharedOwned   = "owned"
	sharedRelease = "release"
	sharedPrune   = "prune"
	sharedRetire  = "retire"
)

// sharedOpsFlags are FTRACE_OPS_FL_IPMODIFY and FTRACE_OPS_FL_PERMANENT: ftrace
// cannot be switched off while a patch is on (include/linux/ftrace.h, 6.1 and
// 6.12).
const sharedOpsFlags = 1<<12 | 1<<16

// opsLayout is where a kernel has what the shared dispatch needs.
type opsLayout struct {
	fn, flags int // in struct ftrace_ops
	size      int // of it
	ip        int // where execution goes on, in the registers that ftrace hands over
}

// everyPatch runs through a list of patches: body is put in a loop with the patch
// in t0, and jumps to skip for the next one.
func (p *program) everyPatch(next int, skip, end string, body func()) {
	p.address(t0, sharedHeads)
	p.label(skip)
	p.load(t0, t0, next)
	p.ifZero(t0, end)
	body()
}

// search looks the place a0 up in the table of the patch t0: t2 is its entry
// at found. It changes a1, a2 and t1 to t3.
func (p *program) search(found, missing string) {
	p.load(a1, t0, patchFuncs)
	p.load(a2, t0, patchCount)
	p.label("half")
	p.ifZero(a2, missing)
	p.move(t1, a2)
	p.down(t1, 1)
	p.move(t2, t1)
	p.up(t2, entryShift)
	p.sum(t2, a1)
	p.load(t3, t2, entrySite)
	p.ifSame(t3, a0, found)
	p.ifBelow(t3, a0, "right")
	p.move(a2, t1)
	p.jump("half")
	p.label("right")
	p.move(a1, t2)
	p.plus(a1, entrySize)
	p.less(a2, t1)
	p.plus(a2, -1)
	p.jump("half")
}

// handlerProgram is void livepatch_shared(unsigned long ip, unsigned long parent,
// struct ftrace_ops *, struct ftrace_regs *).
func handlerProgram(l opsLayout) *program {
	p := &program{name: SharedHandler, bare: true}
	p.everyPatch(patchNext, "skip", "end", func() {
		p.load8(t1, t0, patchGate)
		p.ifZero(t1, "skip")
		p.search("found", "missing")
		p.label("found")
		p.load(t3, t2, entryReplacement)
		p.store(a3, l.ip, t3)
		p.jump("end")
		// What a patch that replaces all others does not have is the original's.
		p.label("missing")
		p.load8(t1, t0, patchReplaces)
		p.ifZero(t1, "skip")
	})
	p.label("end")
	p.back()
	return p
}

// findProgram is bool find(unsigned long site): whether a patch that is on has
// the place.
func findProgram() *program {
	p := &program{name: sharedFind, bare: true}
	p.everyPatch(patchNext, "skip", "end", func() {
		p.search("found", "skip")
	})
	p.label("end")
	p.backWith(0)
	p.label("found")
	p.backWith(1)
	return p
}

// ownedProgram is bool owned(unsigned long site): whether a registered
// ftrace_ops has claimed the place.
func ownedProgram() *program {
	p := &program{name: sharedOwned, bare: true}
	p.everyPatch(patchOwner, "skip", "end", func() {
		p.search("found", "skip")
		p.label("found")
		p.load8(t1, t2, entryOwned)
		p.ifZero(t1, "skip")
		p.backWith(1)
	})
	p.label("end")
	p.backWith(0)
	return p
}

// releaseProgram is void release(struct patch *): it forgets what the patch has
// claimed, when its ftrace_ops is not registered.
func releaseProgram(x directExports, l opsLayout) *program {
	p := &program{name: sharedRelease}
	p.move(s0, a0)
	p.plus(a0, patchOps)
	p.call(x.free)
	// ftrace keeps the pointers to the filter that it has freed, see forget.
	p.opsOf(s0)
	p.number(a1, 0)
	p.number(a2, l.size)
	p.call(x.clear)
	p.store8(s0, patchClaims, 0)
	p.store8(s0, patchRegistered, 0)
	p.load(s1, s0, patchFuncs)
	p.load(s2, s0, patchCount)
	p.label("next")
	p.ifZero(s2, "end")
	p.store8(s1, entryOwned, 0)
	p.plus(s1, entrySize)
	p.plus(s2, -1)
	p.jump("next")
	p.label("end")
	p.back()
	return p
}

// pruneProgram is void prune(void): it unregisters every ftrace_ops of whose
// places no patch that is on has one.
func pruneProgram(x directExports) *program {
	p := &program{name: sharedPrune}
	p.address(s0, sharedHeads)
	p.label("patch")
	p.load(s1, s0, patchOwner)
	p.ifZero(s1, "end")
	p.load(s2, s1, patchFuncs)
	p.load(s3, s1, patchCount)
	p.label("entry")
	p.ifZero(s3, "last")
	p.load8(a1, s2, entryOwned)
	p.ifZero(a1, "other")
	p.load(a0, s2, entrySite)
	p.call(sharedFind)
	p.ifNot(ret, "keep")
	p.label("other")
	p.plus(s2, entrySize)
	p.plus(s3, -1)
	p.jump("entry")
	p.label("last")
	p.opsOf(s1)
	p.call(x.unclaim)
	p.ifError(ret, "stuck")
	p.load(a1, s1, patchOwner)
	p.store(s0, patchOwner, a1)
	p.move(a0, s1)
	p.call(sharedRelease)
	p.jump("patch")
	p.label("stuck")
	p.store8(s1, patchStuck, 1)
	p.label("keep")
	p.move(s0, s1)
	p.jump("patch")
	p.label("end")
	p.back()
	return p
}

// retireProgram is void retire(struct patch *): it takes a patch whose gate is
// closed out of the list that the handler reads. The patch goes on leading to
// the next one, for a handler that has just come to it.
func retireProgram() *program {
	p := &program{name: sharedRetire}
	p.address(a1, sharedHeads)
	p.label("find")
	p.move(a2, a1)
	p.load(a1, a1, patchNext)
	p.ifZero(a1, "end") // it was not on
	p.ifOther(a1, a0, "find")
	p.load(a3, a0, patchNext)
	p.store(a2, patchNext, a3)
	p.number(a1, 0)
	p.store(a0, patchAttached, a1)
	p.call(sharedPrune)
	p.label("end")
	p.back()
	return p
}

// enableSharedProgram is int livepatch_shared_enable(struct patch *): as
// livepatch_direct_enable, for a patch of the shared dispatch. Up to the last
// step no handler sees the patch, so nothing has to be waited for when it fails.
func enableSharedProgram(x directExports, l opsLayout) *program {
	p := &program{name: sharedEnable, global: true}
	p.admit(x)
	p.claimPlaces(x, l)
	p.label("on")
	p.number(a1, 1)
	p.store(s0, patchAttached, a1)
	p.address(a1, sharedHeads)
	p.load(a2, a1, patchNext)
	p.store(s0, patchNext, a2)
	p.fence()
	p.store(a1, patchNext, s0)
	p.open(x)

	p.label("mixed")
	p.number(a1, errBusy)
	p.move(s4, a1)
	p.load(a2, s1, entryName)
	p.jump("print")
	p.findTaken(x)
	p.label("failed")
	p.move(a0, s0)
	p.call(sharedRelease)
	p.address(a2, baseFunctions)
	p.label("print")
	p.address(a0, baseMessage)
	p.load(a1, s0, patchName)
	p.move(a3, s4)
	p.call(x.print)
	p.jump("end")
	p.label("held")
	p.number(ret, errBusy)
	p.move(s4, ret)
	p.label("end")
	p.unlock(baseLock)
	p.move(ret, s4)
	p.back()
	p.label("busy")
	p.backWith(errBusy)
	return p
}

// claimPlaces claims the places of the patch s0 that nobody has claimed.
func (p *program) claimPlaces(x directExports, l opsLayout) {
	p.load8(ret, s0, patchRegistered)
	p.ifNot(ret, "places")
	p.address(a1, SharedHandler)
	p.store(s0, patchOps+l.fn, a1)
	p.address(a1, sharedFlags)
	p.load(a1, a1, 0)
	p.store(s0, patchOps+l.flags, a1)
	p.label("places")
	p.load(s1, s0, patchFuncs)
	p.load(s2, s0, patchCount)
	p.label("next")
	p.ifZero(s2, "claim")
	p.load(a0, s1, entrySite)
	p.call(sharedOwned)
	p.ifNot(ret, "done")
	p.load8(ret, s0, patchRegistered)
	p.ifNot(ret, "mixed") // some of its places were given up, others not
	p.filterPlace(x, 0)
	p.move(s4, ret)
	p.ifError(ret, "found")
	p.store8(s1, entryOwned, 1)
	p.store8(s0, patchClaims, 1)
	p.label("done")
	p.plus(s1, entrySize)
	p.plus(s2, -1)
	p.jump("next")

	p.label("claim")
	p.load8(ret, s0, patchRegistered)
	p.ifNot(ret, "on")
	p.load8(ret, s0, patchClaims)
	p.ifZero(ret, "on")
	p.opsOf(s0)
	p.call(x.claim)
	p.move(s4, ret)
	p.ifError(ret, "taken")
	p.store8(s0, patchRegistered, 1)
	p.address(a1, sharedHeads)
	p.load(a2, a1, patchOwner)
	p.store(s0, patchOwner, a2)
	p.fence()
	p.store(a1, patchOwner, s0)
}

// opsOf loads the ftrace_ops of a patch as the first argument of a call.
func (p *program) opsOf(patch reg) {
	p.move(a0, patch)
	p.plus(a0, patchOps)
}

// filterPlace makes the place of the entry s1 one of those of the patch s0, or, with
// reset, the only one: ftrace_set_filter_ip(ops, site, remove, reset).
func (p *program) filterPlace(x directExports, reset int) {
	p.opsOf(s0)
	p.load(a1, s1, entrySite)
	p.number(a2, 0)
	p.number(a3, reset)
	p.call(x.filter)
}

// findTaken finds the function for which all were refused with the error s4: each
// is claimed alone for a moment, in which the handler does not see the patch. Where
// none is refused now, whoever held it has let go of it.
func (p *program) findTaken(x directExports) {
	const reset = 1 // the place is the only one then
	p.label("taken")
	p.load(s1, s0, patchFuncs)
	p.load(s2, s0, patchCount)
	p.label("ask")
	p.ifZero(s2, "failed")
	p.load8(ret, s1, entryOwned)
	p.ifZero(ret, "asked")
	p.filterPlace(x, reset)
	p.ifError(ret, "failed")
	p.opsOf(s0)
	p.call(x.claim)
	p.ifError(ret, "found")
	p.opsOf(s0)
	p.call(x.unclaim)
	p.ifError(ret, "stuck")
	p.label("asked")
	p.plus(s1, entrySize)
	p.plus(s2, -1)
	p.jump("ask")
	p.label("found")
	p.move(a0, s0)
	p.call(sharedRelease)
	p.load(a2, s1, entryName)
	p.jump("print")
	// ftrace does not let go of the place: the module stays, out of the list.
	p.label("stuck")
	p.store8(s0, patchStuck, 1)
	p.number(ret, 0)
	p.move(s4, ret)
	p.jump("stay")
}
