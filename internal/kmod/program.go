package kmod

import (
	"fmt"

	"livepatch/elfpatch"
)

// A program is code of the module's own in operations that both machines have.
// It is written once (base_code.go) and encoded for either; the encodings are
// in x86_program.go and arm64_program.go. Each function has the same frame: it
// saves the registers s0 to s4 and has room for frameRoom bytes of its own. One
// without a frame calls nothing and leaves s0 to s4 alone.
type program struct {
	name   string
	global bool // other modules call it
	bare   bool // it has no frame
	ops    []op
}

// reg is a register of a program. s0 to s4 keep their value across calls; a0
// to a3 are the arguments of a call, ret is its result, t0 to t3 are free. On arm64 ret and a0
// are one register: the result is used before the next argument is set.
type reg uint8

const (
	s0 reg = iota
	s1
	s2
	s3
	s4
	a0
	a1
	a2
	a3
	ret
	t0
	t1
	t2
	t3
)

// frameRoom is the size of the room on the stack that a function has.
const frameRoom = 32

// opcode is what an op does.
type opcode uint8

const (
	opLabel      opcode = iota // to:
	opMove                     // a = b
	opNumber                   // a = n
	opAddress                  // a = &to
	opRoom                     // a = the room on the stack
	opLoad                     // a = 8 bytes at b+n
	opLoad8                    // a = the byte at b+n
	opStore                    // 8 bytes at b+n = a
	opStore8                   // the byte at b+n = m, 0 or 1
	opAdd                      // a += n
	opSum                      // a += b
	opLess                     // a -= b
	opUp                       // a <<= n
	opDown                     // a >>= n, without a sign
	opCall                     // ret = to(a0, …)
	opLock                     // ret = what the word to was, which is 1 now
	opUnlock                   // the word to = 0, all that was written before is seen first
	opFence                    // all that was written before is seen before what follows
	opJump                     // goto to
	opIfSame                   // if a == b goto to
	opIfOther                  // if a != b goto to
	opIfBelow                  // if a < b, without signs, goto to
	opIfZero                   // if a == 0 goto to
	opIfNot                    // if a != 0 goto to
	opIfError                  // if the int a != 0 goto to
	opReturn                   // return ret
	opReturnBare               // the same without a frame
)

type op struct {
	do   opcode
	a, b reg
	n, m int
	to   string // a label, or a symbol of the module or of the kernel
}

func (p *program) add(o op)                 { p.ops = append(p.ops, o) }
func (p *program) label(to string)          { p.add(op{do: opLabel, to: to}) }
func (p *program) move(a, b reg)            { p.add(op{do: opMove, a: a, b: b}) }
func (p *program) number(a reg, n int)      { p.add(op{do: opNumber, a: a, n: n}) }
func (p *program) address(a reg, to string) { p.add(op{do: opAddress, a: a, to: to}) }
func (p *program) room(a reg)               { p.add(op{do: opRoom, a: a}) }
func (p *program) load(a, b reg, at int)    { p.add(op{do: opLoad, a: a, b: b, n: at}) }
func (p *program) load8(a, b reg, at int)   { p.add(op{do: opLoad8, a: a, b: b, n: at}) }
func (p *program) store(b reg, at int, a reg) {
	p.add(op{do: opStore, a: a, b: b, n: at})
}
func (p *program) store8(b reg, at, v int)     { p.add(op{do: opStore8, b: b, n: at, m: v}) }
func (p *program) plus(a reg, n int)           { p.add(op{do: opAdd, a: a, n: n}) }
func (p *program) sum(a, b reg)                { p.add(op{do: opSum, a: a, b: b}) }
func (p *program) less(a, b reg)               { p.add(op{do: opLess, a: a, b: b}) }
func (p *program) up(a reg, n int)             { p.add(op{do: opUp, a: a, n: n}) }
func (p *program) down(a reg, n int)           { p.add(op{do: opDown, a: a, n: n}) }
func (p *program) call(to string)              { p.add(op{do: opCall, to: to}) }
func (p *program) lock(word string)            { p.add(op{do: opLock, to: word}) }
func (p *program) unlock(word string)          { p.add(op{do: opUnlock, to: word}) }
func (p *program) fence()                      { p.add(op{do: opFence}) }
func (p *program) jump(to string)              { p.add(op{do: opJump, to: to}) }
func (p *program) ifSame(a, b reg, to string)  { p.add(op{do: opIfSame, a: a, b: b, to: to}) }
func (p *program) ifOther(a, b reg, to string) { p.add(op{do: opIfOther, a: a, b: b, to: to}) }
func (p *program) ifBelow(a, b reg, to string) { p.add(op{do: opIfBelow, a: a, b: b, to: to}) }
func (p *program) ifZero(a reg, to string)     { p.add(op{do: opIfZero, a: a, to: to}) }
func (p *program) ifNot(a reg, to string)      { p.add(op{do: opIfNot, a: a, to: to}) }
func (p *program) ifError(a reg, to string)    { p.add(op{do: opIfError, a: a, to: to}) }
func (p *program) back() {
	if p.bare {
		p.add(op{do: opReturnBare})
	} else {
		p.add(op{do: opReturn})
	}
}
func (p *program) backWith(n int) { p.number(ret, n); p.back() }

// An encoded op is its bytes, and a field in them that depends on where
// something else is.
type encoded struct {
	bytes []byte
	field int    // offset of the field of a branch to a label, 0 for none
	rels  []wish // relocations
	sites code   // the offsets of calls and returns in it, and where the stack pointer moved
}

// wish is a relocation to a symbol that is known by name.
type wish struct {
	at     uint64
	typ    uint32
	to     string
	addend int64
}

// assemble encodes a program for the machine of the module.
func (e *emitter) assemble(p *program) code {
	list := make([]encoded, 0, len(p.ops)+1)
	list = append(list, e.ops.enter(p.bare))
	labels, at := map[string]int{}, len(list[0].bytes)
	for _, o := range p.ops {
		if o.do == opLabel {
			labels[o.to] = at
		}
		enc := e.ops.encode(e, o)
		list = append(list, enc)
		at += len(enc.bytes)
	}
	var c code
	for i, enc := range list {
		at := len(c.bytes)
		if enc.field > 0 {
			to, ok := labels[p.ops[i-1].to]
			if !ok {
				panic(fmt.Sprintf("BUG: %s has no label %s", p.name, p.ops[i-1].to))
			}
			e.ops.branch(enc.bytes, enc.field, to-at)
		}
		c.bytes = append(c.bytes, enc.bytes...)
		for _, w := range enc.rels {
			c.rels = append(c.rels, elfpatch.Rela{Offset: uint64(at) + w.at, Type: w.typ, Symbol: e.named(w.to), Addend: w.addend})
		}
		for _, off := range enc.sites.calls {
			c.calls = append(c.calls, at+off)
		}
		for _, off := range enc.sites.returns {
			c.returns = append(c.returns, at+off)
		}
		for _, f := range enc.sites.frames {
			c.frames = append(c.frames, frame{at + f.at, f.depth})
		}
	}
	return c
}

// named is the symbol of a name: of the module's own code and data, or exported.
func (e *emitter) named(name string) uint32 {
	if i, ok := e.labels[name]; ok {
		return i
	}
	return e.own(name)
}
