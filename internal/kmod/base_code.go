package kmod

// The base module keeps the list of redirected places of the kernel and the
// stack of versions of each, and changes the redirects. Its code is what
// follows, for both machines. The records are in direct.go.
//
// Patches are put on with enable and taken off with set. Both hold one lock
// and do not wait for it: a second caller gets EBUSY. A place has one owner,
// the record of a function whose ftrace_ops is registered there; the owner's
// top is the record on top of the place's stack. Records on top of others go
// on with the trampoline below (prev) while their gate is closed, the lowest
// with the old body. So a patch can be put on and taken off place by place
// without any effect; the gate, one byte, is what all of its functions have in
// common.

// The names of the base module and of what it exports.
const (
	BaseName     = "livepatch_direct"
	directEnable = "livepatch_direct_enable" + interfaceSuffix
	directSet    = "livepatch_direct_set" + interfaceSuffix
	sharedEnable = "livepatch_shared_enable" + interfaceSuffix
	sharedSet    = "livepatch_shared_set" + interfaceSuffix
)

// Interface is the version of the records that patches and the base module
// exchange. It ends the names of what the base module exports, so that a kernel
// which does not compare versions of symbols does not let them meet either, and
// is the version of the module (/sys/module/livepatch_direct/version).
const (
	Interface       = "2"
	interfaceSuffix = "_" + Interface
)

// The symbols that the code of the base module refers to in itself.
const (
	baseDetach    = "detach"
	baseLock      = "lock"
	baseOwners    = "owners"
	baseMessage   = "message"
	baseFunctions = "functions" // in place of the function where the kernel does not tell which it is
)

const theFunctions = "one of its functions\x00"

// message is what the kernel logs about a place that cannot be redirected: the
// module, the function, the error.
const message = "\x013" + BaseName + ": %s: %s cannot be redirected: error %d\n\x00"

// The errors of include/uapi/asm-generic/errno-base.h that the code returns.
const (
	errNoExec  = -8 // another kernel
	errBusy    = -16
	errInvalid = -22
	errIO      = -5
)

// admit takes the lock and makes sure that the patch in the first argument, s0 from
// then on, may be enabled: it is not in force, nor stuck, and this is its kernel.
func (p *program) admit(x directExports) {
	p.move(s0, a0)
	p.lock(baseLock)
	p.ifError(ret, "busy")
	p.load8(ret, s0, patchStuck)
	p.ifNot(ret, "held")
	p.load(ret, s0, patchAttached)
	p.ifNot(ret, "held")
	p.compareKernel(x)
}

// enableProgram is int livepatch_direct_enable(struct patch *): it makes sure
// that this is the kernel, redirects every place behind the closed gate, opens
// the gate and makes the module stay. When a place cannot be redirected, those
// before it are taken back, and tasks are waited for that may be on their way.
func enableProgram(x directExports) *program {
	p := &program{name: directEnable, global: true}
	p.admit(x)
	// From here on s1 is a function's record, s2 the number of those that are left.
	p.load(s1, s0, patchFuncs)
	p.load(s2, s0, patchCount)
	p.label("next")
	p.ifZero(s2, "open")
	p.address(s3, baseOwners)
	p.load(a3, s1, funcSite)
	p.label("find")
	p.load(s3, s3, funcNext)
	p.ifZero(s3, "new")
	p.load(a2, s3, funcSite)
	p.ifOther(a2, a3, "find")

	p.putOnTop(x)
	p.putFirst(x)
	p.label("done")
	p.load(a1, s0, patchAttached)
	p.plus(a1, 1)
	p.store(s0, patchAttached, a1)
	p.load(a1, s0, patchStride)
	p.sum(s1, a1)
	p.plus(s2, -1)
	p.jump("next")

	p.open(x)
	p.giveUp(x)
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

// compareKernel ends with an error if this is not the kernel that s0, the
// patch, was made for.
func (p *program) compareKernel(x directExports) {
	// The build-id where this kernel has it: it is read so that an address
	// that leads nowhere is an error.
	p.number(ret, errNoExec)
	p.move(s4, ret)
	p.room(a0)
	p.load(a1, s0, patchNotes)
	p.load(a2, s0, patchIDSize)
	p.call(x.read)
	p.ifError(ret, "end")
	p.room(a0)
	p.load(a1, s0, patchID)
	p.load(a2, s0, patchIDSize)
	p.call(x.compare)
	p.ifError(ret, "end")
}

// putOnTop redirects the place of s1 that s3 owns.
func (p *program) putOnTop(x directExports) {
	// s3 owns the place: on top of what is there.
	p.load(a0, s3, funcTop)
	p.store(s1, funcBelow, a0)
	p.load(a1, a0, funcTrampoline)
	p.store(s1, funcPrev, a1)
	p.store(s1, funcOwner, s3)
	p.fence()
	p.move(a0, s3)
	p.plus(a0, funcOps)
	p.load(a1, s1, funcTrampoline)
	p.call(x.modify)
	p.move(s4, ret)
	p.ifError(ret, "failed")
	p.store(s3, funcTop, s1)
	p.jump("done")
}

// putFirst redirects the place of s1 that nobody owns.
func (p *program) putFirst(x directExports) {
	// The first at this place.
	p.label("new")
	p.number(a1, 0)
	p.store(s1, funcBelow, a1)
	p.load(a1, s0, patchLeave)
	p.store(s1, funcPrev, a1)
	p.store(s1, funcOwner, s1)
	p.fence()
	p.move(a0, s1)
	p.plus(a0, funcOps)
	p.load(a1, s1, funcSite)
	p.number(a2, 0)
	p.number(a3, 0)
	p.call(x.filter)
	p.move(s4, ret)
	p.ifError(ret, "failed")
	p.move(a0, s1)
	p.plus(a0, funcOps)
	p.load(a1, s1, funcTrampoline)
	p.call(x.register)
	p.move(s4, ret)
	p.ifError(ret, "refused")
	p.store(s1, funcTop, s1)
	p.address(a1, baseOwners)
	p.load(a2, a1, funcNext)
	p.store(s1, funcNext, a2)
	p.store(a1, funcNext, s1)
}

// open opens the gate and makes the module stay.
func (p *program) open(x directExports) {
	p.label("open")
	p.fence()
	p.store8(s0, patchGate, 1)
	p.number(ret, 0)
	p.move(s4, ret)
	p.label("stay")
	p.load8(ret, s0, patchHeld)
	p.ifNot(ret, "end")
	p.store8(s0, patchHeld, 1)
	p.load(a0, s0, patchModule)
	p.call(x.hold)
	p.jump("end")
}

// giveUp takes back what was redirected before s1, whose redirect failed with
// the error s4.
func (p *program) giveUp(x directExports) {
	p.label("refused")
	p.move(a0, s1)
	p.plus(a0, funcOps)
	p.call(x.free)
	p.forget(s1, x)
	p.label("failed")
	p.address(a0, baseMessage)
	p.load(a1, s0, patchName)
	p.load(a2, s1, funcName)
	p.move(a3, s4)
	p.call(x.print)
	p.move(a0, s0)
	p.call(baseDetach)
	p.call(x.wait)
	// A redirect that could not be taken back leads into the module: it stays,
	// with its gate closed.
	p.load8(ret, s0, patchStuck)
	p.ifZero(ret, "end")
	p.number(ret, 0)
	p.move(s4, ret)
	p.jump("stay")
}

// forget clears the ftrace_ops of a record, whose filter is freed: ftrace keeps
// the pointers to it (ftrace_free_filter in kernel/trace/ftrace.c, 6.1 and
// 6.12), and would free it again the next time.
func (p *program) forget(record reg, x directExports) {
	p.move(a0, record)
	p.plus(a0, funcOps)
	p.number(a1, 0)
	p.load(a2, s0, patchStride)
	p.plus(a2, -funcOps)
	p.call(x.clear)
}

// detachProgram is void detach(struct patch *): it takes the records of the
// first functions of a patch, as many as are attached, off the stacks. The
// gate is closed, so that calls do not see it.
func detachProgram(x directExports) *program {
	p := &program{name: baseDetach}
	p.move(s0, a0)
	p.load(s1, s0, patchFuncs)
	p.load(s2, s0, patchAttached)
	p.label("next")
	p.ifZero(s2, "end")
	p.load(s3, s1, funcOwner)
	p.load(s4, s3, funcTop)
	p.ifOther(s4, s1, "covered")
	p.load(a1, s1, funcBelow)
	p.ifZero(a1, "last")
	p.move(a0, s3)
	p.plus(a0, funcOps)
	p.load(a1, s1, funcPrev)
	p.call(x.modify)
	p.ifError(ret, "stuck")
	p.load(a1, s1, funcBelow)
	p.store(s3, funcTop, a1)
	p.jump("done")

	// Nothing is left at this place.
	p.label("last")
	p.move(a0, s3)
	p.plus(a0, funcOps)
	p.load(a1, s1, funcTrampoline)
	p.number(a2, 0) // 6.4 and newer: leave the filter
	p.call(x.unregister)
	p.ifError(ret, "stuck")
	p.move(a0, s3)
	p.plus(a0, funcOps)
	p.call(x.free)
	p.forget(s3, x)
	p.address(a1, baseOwners)
	p.label("unlink")
	p.move(a2, a1)
	p.load(a1, a1, funcNext)
	p.ifOther(a1, s3, "unlink")
	p.load(a1, s3, funcNext)
	p.store(a2, funcNext, a1)
	p.jump("done")

	// Others are on top: the one above goes on with what is below.
	p.label("covered")
	p.move(a1, s4)
	p.load(s4, s4, funcBelow)
	p.ifOther(s4, s1, "covered")
	p.load(a2, s1, funcBelow)
	p.store(a1, funcBelow, a2)
	p.load(a2, s1, funcPrev)
	p.store(a1, funcPrev, a2)
	p.jump("done")

	p.label("stuck")
	p.store8(s0, patchStuck, 1)
	p.label("done")
	p.load(a1, s0, patchStride)
	p.sum(s1, a1)
	p.plus(s2, -1)
	p.jump("next")
	p.label("end")
	p.number(a1, 0)
	p.store(s0, patchAttached, a1)
	p.back()
	return p
}

// setProgram is int livepatch_direct_set(const char *, const struct
// kernel_param *), which the kernel calls for what is written to a parameter
// of a patch: 1 puts the patch on, 0 takes it off. arg is where struct
// kernel_param has the patch. livepatch_shared_set is the same with other names.
func setProgram(name, enable, detach string, arg int) *program {
	p := &program{name: name, global: true}
	p.load(s0, a1, arg)
	p.load8(s1, a0, 0)
	p.load8(a1, s0, patchHeld)
	p.ifZero(a1, "invalid") // given on the command line, before the module has begun
	p.number(a1, '1')
	p.ifSame(s1, a1, "on")
	p.number(a1, '0')
	p.ifOther(s1, a1, "invalid")
	p.lock(baseLock)
	p.ifError(ret, "busy")
	p.store8(s0, patchGate, 0)
	p.fence()
	p.move(a0, s0)
	p.call(detach)
	p.unlock(baseLock)
	p.load8(s1, s0, patchStuck)
	p.ifNot(s1, "stuck")
	p.backWith(0)
	p.label("on")
	p.move(a0, s0)
	p.call(enable)
	p.move(s1, ret)
	p.load8(s2, s0, patchStuck)
	p.ifNot(s2, "stuck")
	p.move(ret, s1)
	p.back()
	p.label("invalid")
	p.backWith(errInvalid)
	p.label("stuck")
	p.backWith(errIO)
	p.label("busy")
	p.backWith(errBusy)
	return p
}
