//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// injection is a thread that is made to run system calls. See frame.go for how
// it gets back.
type injection struct {
	p        *proc
	t        *thread
	gadgets  gadgets
	saved    registers // with which it shall go on
	state    vectorState
	mask     uint64 // its signal mask
	frame    uint64 // address of the signal frame
	deadline time.Time
	opt      *Options

	running   bool // code of the patch, not a system call
	returning bool // it stands at the entry of the system call that ends all
}

// inject builds the frame, lets run make its calls and brings the thread back.
func (p *proc) inject(t *thread, g gadgets, deadline time.Time, opt *Options, run func(*injection) error) (err error) {
	defer p.release()
	defer func() {
		if errors.Is(err, errGone) {
			err = p.lost()
		}
	}()
	if err := p.same(); err != nil {
		return err // the gadgets may be elsewhere
	}
	in := &injection{p: p, t: t, gadgets: g, deadline: deadline, opt: opt, saved: t.regs.restarted()}
	if in.state, err = t.vectors(); err != nil {
		return err
	}
	if in.mask, err = t.sigmask(); err != nil {
		return err
	}
	restore, err := p.placeGadgets(g, t)
	if err != nil {
		return err
	}
	if err := in.begin(); err != nil {
		return errors.Join(err, in.abandon(), restore())
	}
	err = run(in)
	if !errors.Is(err, errLate) {
		err = errors.Join(err, in.end())
	}
	if errors.Is(err, errLate) {
		return in.late() // it still needs the gadgets
	}
	return errors.Join(err, restore())
}

// late says that a thread has not come back when the time was over. It goes on
// alone, and finds its way back. A system call that it has not made yet is not made
// any more: what it would change may be in use by then.
func (in *injection) late() error {
	busy := &BusyError{PID: in.p.pid, Thread: in.t.tid, Reason: "does not come back from a call that it makes for the patch"}
	if in.running {
		return busy
	}
	if !in.t.stopped && (in.t.interrupt() != nil || in.t.waitStop(time.Now().Add(time.Minute)) != nil) {
		return busy
	}
	r := in.registers(unix.SYS_GETPID) // and then the return
	if err := in.t.setRegs(&r); err != nil {
		return errors.Join(busy, err)
	}
	return busy
}

// begin writes the frame and moves the thread to the system call instruction.
// From here on it finds its way back alone.
func (in *injection) begin() error {
	addr, frame, err := frameFor(&in.saved, in.state, in.mask, in.gadgets.sigreturn)
	if err != nil {
		return err
	}
	in.frame = addr
	if err := in.p.writeMem(frame, addr, in.t); err != nil {
		return err
	}
	in.opt.at("frame")
	// First the registers, then the mask: a thread that goes on with all
	// signals blocked must have the frame before it that unblocks them.
	r := in.registers(unix.SYS_GETPID)
	if err := in.t.setRegs(&r); err != nil {
		return err
	}
	in.opt.at("registers")
	return in.t.setSigmask(^uint64(0))
}

// registers are those of a thread that is about to make a system call.
func (in *injection) registers(nr uint64, args ...uint64) registers {
	return in.saved.calling(in.gadgets, in.frame, nr, args...)
}

// call makes one system call. The error is the call's syscall.Errno, or what
// kept the call from being made.
func (in *injection) call(nr uint64, args ...uint64) (uint64, error) {
	if in.opt.refuse != nil && in.opt.refuse(nr) {
		return 0, unix.ENOMEM
	}
	r := in.registers(nr, args...)
	if err := in.t.setRegs(&r); err != nil {
		return 0, err
	}
	in.opt.at("call")
	if err := in.toSyscallStop(); err != nil {
		return 0, err
	}
	in.opt.at("entry")
	if err := in.toSyscallStop(); err != nil {
		return 0, err
	}
	in.opt.at("exit")
	if err := in.t.getRegs(); err != nil {
		return 0, err
	}
	result := in.t.regs.result()
	if v := int64(result); v < 0 && v > -4096 {
		return 0, syscall.Errno(-v)
	}
	return result, nil
}

// callStack is the stack that code run by a thread may need besides.
const callStack = 16 << 10

// run lets the thread run code of a patch, as if that were a signal handler, up
// to the system call by which it returns; end does the rest. The code finds its
// way back alone. If the time is over it is left to that.
func (in *injection) run(code uint64) error {
	in.running = true
	r := in.saved.running(in.gadgets, in.frame, code)
	if err := in.t.setRegs(&r); err != nil {
		return err
	}
	in.opt.at("run")
	for entry := true; ; entry = !entry {
		if err := in.toSyscallStop(); err != nil {
			return err
		}
		if err := in.t.getRegs(); err != nil {
			return err
		}
		nr, err := in.t.callNumber()
		if err != nil {
			return err
		}
		if entry && nr == unix.SYS_RT_SIGRETURN {
			in.returning = true
			return nil
		}
	}
}

// toSyscallStop runs the thread to the next entry to or exit from a system
// call. Everything is blocked but SIGSTOP and what the thread's own
// instructions raise.
func (in *injection) toSyscallStop() error {
	for {
		if err := in.t.resume(unix.PTRACE_SYSCALL, 0); err != nil {
			return err
		}
		ws, err := in.t.wait(in.deadline)
		if err != nil {
			return fmt.Errorf("thread %d in an injected system call: %w", in.t.tid, err)
		}
		in.t.stopped = true
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|traceSyscall:
			return nil
		case int(ws)>>16 == unix.PTRACE_EVENT_STOP:
		case s == unix.SIGSTOP:
			in.t.signal = int(s) // once more when it is let go
		default:
			return fmt.Errorf("thread %d in an injected system call: unexpected signal %d", in.t.tid, s)
		}
	}
}

// end lets the thread return through the frame and checks that it is what it
// was before.
func (in *injection) end() error {
	if !in.t.stopped { // it was not in time, and is on its way
		return nil
	}
	var err error
	if !in.returning {
		err = in.toSyscallStop()
	}
	if err == nil {
		err = in.onItsWay()
	}
	in.opt.at("sigreturn")
	if err == nil {
		err = in.toSyscallStop()
	}
	if errors.Is(err, errGone) {
		return err
	}
	if err == nil {
		err = in.verify()
	}
	if err != nil {
		return errors.Join(err, in.abandon())
	}
	if in.t.kept { // its registers are read again
		return in.t.outOfCall(in.deadline)
	}
	return nil
}

// onItsWay makes sure that the call that the thread has come to is the return
// from the frame.
func (in *injection) onItsWay() error {
	nr, err := in.t.callNumber()
	if err == nil && nr != unix.SYS_RT_SIGRETURN {
		err = fmt.Errorf("thread %d: made system call %d on its way back", in.t.tid, nr)
	}
	return err
}

func (in *injection) verify() error {
	if err := in.t.getRegs(); err != nil {
		return err
	}
	if !in.t.regs.cameBack(in.saved) {
		return fmt.Errorf("thread %d: came back with other registers", in.t.tid)
	}
	state, err := in.t.vectors()
	if err != nil {
		return err
	}
	if !sameState(state, in.state) {
		return fmt.Errorf("thread %d: came back with other vector registers", in.t.tid)
	}
	mask, err := in.t.sigmask()
	if err == nil && mask != in.mask {
		err = fmt.Errorf("thread %d: came back with another signal mask", in.t.tid)
	}
	return err
}

// abandon puts registers and mask back by hand. A thread that still runs is
// left to its frame.
func (in *injection) abandon() error {
	if !in.t.stopped {
		return nil
	}
	if err := in.t.setRegs(&in.saved); err != nil {
		return err
	}
	return in.t.setSigmask(in.mask)
}
