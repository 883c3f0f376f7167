// Package unwind finds out where the functions on a thread's stack return to,
// from the tables that compilers write for exceptions and debuggers: .eh_frame
// and its index .eh_frame_hdr (Linux Standard Base, "Exception Frames"; DWARF 5,
// chapter 6.4, "Call Frame Information").
//
// Nothing is guessed. A walk is complete if every function on the way is
// described, every return address stands behind a call, the frames follow each
// other up the stack, and the last one says that it has no caller, or made a call
// and has the return address 0. What is above the last frame's stack pointer is
// told by nothing. Whoever asks
// has to do without an answer otherwise.
//
// It is pure: it takes registers and reads memory through an io.ReaderAt whose
// offsets are addresses.
package unwind

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

var le = binary.LittleEndian

// columns is the number of registers that are kept, by their DWARF numbers.
// Vector registers have higher ones; no frame is found through them.
const columns = 33

// Registers are those of a thread, by DWARF number.
type Registers struct {
	PC     uint64
	values [columns]uint64
	known  uint64 // bit n: values[n] is what the register holds
}

// NewRegisters takes the values of the first registers, by DWARF number.
func NewRegisters(pc uint64, values ...uint64) *Registers {
	r := &Registers{PC: pc}
	for n, v := range values[:min(len(values), columns)] {
		r.set(uint64(n), v)
	}
	return r
}

func (r *Registers) set(n, v uint64) { r.values[n], r.known = v, r.known|1<<n }

func (r *Registers) value(n uint64) (uint64, error) {
	if n >= columns || r.known>>n&1 == 0 {
		return 0, fmt.Errorf("register %d is not known", n)
	}
	return r.values[n], nil
}

// A Frame is a function on a stack that has not ended.
type Frame struct {
	PC  uint64 // where it goes on
	SP  uint64 // its stack pointer
	Top uint64 // where its frame ends and that of its caller begins; 0 if it has none

	// Interrupted says that PC is no return address: it is that of the thread, or
	// what a signal handler returns to. Then the function may be anywhere, and
	// Resting says that it stands behind the instruction for system calls.
	Interrupted, Resting bool

	// Signal says that the frame was made by the kernel, for a handler.
	Signal bool
}

// Unwinder walks the stacks of a process.
type Unwinder struct {
	Machine elf.Machine
	Mem     io.ReaderAt
	Tables  []*Table
	Signed  uint64 // bits of return addresses that hold signatures (arm64)
}

// The bounds of a walk.
const (
	maxFrames       = 1 << 12
	maxInstructions = 1 << 18 // bytes of what describes the frames
)

// Walk lists the functions on the stack of a thread, innermost first. low and
// high are the bounds of the stack. The error says why the list may not be
// complete.
func (u *Unwinder) Walk(r *Registers, low, high uint64) ([]Frame, error) {
	m, ok := machines[u.Machine]
	if !ok {
		return nil, fmt.Errorf("machine %v is not known", u.Machine)
	}
	var list []Frame
	sp, err := r.value(m.sp)
	if err != nil {
		return nil, err
	}
	spent := 0
	for interrupted := true; len(list) < maxFrames && spent < maxInstructions; {
		if sp < low || sp > high {
			return list, fmt.Errorf("stack pointer %#x is not on the stack", sp)
		}
		f := Frame{PC: r.PC, SP: sp, Interrupted: interrupted}
		f.Resting = interrupted && m.resting(u.Mem, r.PC)
		next, d, err := u.step(m, r, interrupted)
		if d != nil {
			f.Signal = d.signal
			spent += len(d.program) + len(d.common.program)
		}
		if err == nil && next != nil {
			f.Top = next.values[m.sp]
		}
		list = append(list, f)
		switch {
		case err != nil:
		case !interrupted && !f.Signal && !m.afterCall(u.Mem, f.PC):
			err = fmt.Errorf("no call stands before it")
		case next == nil:
			return list, nil
		case f.Top < sp || f.Top == sp && !(interrupted && m.leaf):
			err = fmt.Errorf("its caller's stack pointer %#x is not above its own", f.Top)
		case next.PC == 0 && !interrupted && !f.Signal: // no call stands before address 0
			list[len(list)-1].Top = 0
			return list, nil
		}
		if err != nil {
			return list, fmt.Errorf("frame %d at %#x: %w", len(list)-1, f.PC, err)
		}
		r, sp, interrupted = next, f.Top, f.Signal
	}
	return list, fmt.Errorf("more than %d frames, or they take more than %d bytes to describe", maxFrames, maxInstructions)
}

// step returns the registers of the caller; nil if there is none.
func (u *Unwinder) step(m *traits, r *Registers, interrupted bool) (*Registers, *description, error) {
	at := r.PC
	if !interrupted {
		at-- // a call may be the last instruction of a function
	}
	if m.handled != nil && !interrupted && !m.afterCall(u.Mem, r.PC) {
		if next, ok := m.handled(u, r); ok {
			return next, &description{common: &common{signal: true}}, nil
		}
	}
	d, err := u.find(at)
	if err != nil {
		return nil, nil, err
	}
	row, err := d.row(at)
	if err != nil {
		return nil, d, err
	}
	next, err := u.caller(m, d, row, r, interrupted)
	return next, d, err
}

// caller carries out the rules of a row.
func (u *Unwinder) caller(m *traits, d *description, row *row, r *Registers, interrupted bool) (*Registers, error) {
	cfa, err := u.cfa(row, r)
	if err != nil {
		return nil, err
	}
	if d.ra >= columns {
		return nil, fmt.Errorf("return address in register %d", d.ra)
	}
	next := &Registers{}
	for n := range uint64(columns) {
		rule := &row.rules[n]
		if rule.kind == ruleUndefined && n == d.ra {
			return nil, nil
		}
		v, err := u.register(n, rule, r, cfa)
		switch {
		case err == nil:
			next.set(n, v)
		case n == d.ra:
			return nil, fmt.Errorf("return address: %w", err)
		}
	}
	if ra := row.rules[d.ra].kind; ra == ruleSame && !(interrupted && m.leaf) {
		return nil, fmt.Errorf("its return address is not described")
	}
	if row.rules[m.sp].kind == ruleSame {
		next.set(m.sp, cfa)
	}
	next.PC = next.values[d.ra] &^ u.Signed
	return next, nil
}

// cfa is the address that the rules of a row count from.
func (u *Unwinder) cfa(row *row, r *Registers) (uint64, error) {
	switch row.cfa.kind {
	case ruleRegister:
		v, err := r.value(row.cfa.register)
		return v + uint64(row.cfa.offset), err
	case ruleExpression:
		return u.evaluate(row.cfa.code, r, nil)
	}
	return 0, fmt.Errorf("its frame is not described")
}

// register returns what a register held in the caller.
func (u *Unwinder) register(n uint64, rule *rule, r *Registers, cfa uint64) (uint64, error) {
	switch rule.kind {
	case ruleSame:
		return r.value(n)
	case ruleOffset:
		return u.word(cfa + uint64(rule.offset))
	case ruleValue:
		return cfa + uint64(rule.offset), nil
	case ruleRegister:
		return r.value(rule.register)
	case ruleExpression:
		at, err := u.evaluate(rule.code, r, &cfa)
		if err != nil {
			return 0, err
		}
		return u.word(at)
	case ruleValueExpression:
		return u.evaluate(rule.code, r, &cfa)
	}
	return 0, fmt.Errorf("register %d is lost", n)
}

func (u *Unwinder) word(addr uint64) (uint64, error) {
	var b [8]byte
	if n, err := u.Mem.ReadAt(b[:], int64(addr)); n != len(b) {
		return 0, fmt.Errorf("read the stack at %#x: %w", addr, err)
	}
	return le.Uint64(b[:]), nil
}

// find returns the description of the function that holds an address.
func (u *Unwinder) find(addr uint64) (*description, error) {
	for _, t := range u.Tables {
		if addr >= t.start && addr < t.end {
			return t.find(addr)
		}
	}
	return nil, fmt.Errorf("no table is about it")
}
