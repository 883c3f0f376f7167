//go:build linux && amd64

package process

import (
	"bytes"
	"debug/elf"
	"fmt"

	"livepatch/internal/resolve"
)

// The two pieces of code that an injected system call needs. They exist in
// nearly every program.
var (
	codeSyscall    = []byte{0x0f, 0x05, 0xc3}                                     // syscall; ret
	codeSigreturn  = []byte{0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05}             // mov $15,%eax; syscall
	codeSigreturn8 = []byte{0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05} // mov $15,%rax; syscall
)

// gadgets are the addresses of that code in the target.
type gadgets struct {
	syscall, sigreturn uint64
	slack              uint64 // where both were written for want of it, 0 otherwise
}

// findGadgets looks through the executable files and the vdso of the target.
func (p *proc) findGadgets() (gadgets, error) {
	var g gadgets
	const chunk = 1 << 20
	buf := make([]byte, chunk)
	for i := range p.maps {
		m := &p.maps[i]
		if !m.Exec || !m.Read || m.Inode == 0 && m.Path != "[vdso]" {
			continue
		}
		for at := m.Start; at < m.End; {
			n := min(chunk, m.End-at)
			if p.readMem(buf[:n], at) != nil {
				break
			}
			g.look(buf[:n], at)
			if g.syscall != 0 && g.sigreturn != 0 {
				return g, nil
			}
			if at += n; at < m.End {
				at -= uint64(len(codeSigreturn8) - 1) // what straddles the chunks
			}
		}
	}
	var err error
	if g.slack, err = p.findSlack(); err != nil {
		return g, err
	}
	g.syscall, g.sigreturn = g.slack, g.slack+uint64(len(codeSyscall))
	return g, nil
}

func (g *gadgets) look(b []byte, at uint64) {
	find := func(to *uint64, code []byte) {
		if i := bytes.Index(b, code); i >= 0 && *to == 0 {
			*to = at + uint64(i)
		}
	}
	find(&g.syscall, codeSyscall)
	find(&g.sigreturn, codeSigreturn)
	find(&g.sigreturn, codeSigreturn8)
}

func slackCode() []byte { return append(bytes.Clone(codeSyscall), codeSigreturn...) }

// findSlack returns the end of a text segment whose last page has zeros left
// for the code: bytes of the file's padding that nothing runs or reads.
func (p *proc) findSlack() (uint64, error) {
	need := uint64(len(slackCode()))
	have := make([]byte, need)
	for _, im := range p.images {
		for _, s := range im.Segments {
			if s.Type != elf.PT_LOAD || s.Flags&elf.PF_X == 0 || s.FileSize != s.MemSize {
				continue
			}
			at := alignUp(im.Bias+s.VAddr+s.FileSize, 16)
			m := resolve.Find(p.maps, at)
			if m == nil || !m.Exec || at+need > m.End || p.readMem(have, at) != nil {
				continue
			}
			if len(bytes.Trim(have, "\x00")) == 0 {
				return at, nil
			}
		}
	}
	return 0, fmt.Errorf("process %d: found neither a syscall instruction to use nor room for one", p.pid)
}

// placeGadgets writes the code into the slack if need be and returns how to
// take it away again.
func (p *proc) placeGadgets(g gadgets, t *thread) (restore func() error, err error) {
	if g.slack == 0 {
		return func() error { return nil }, nil
	}
	code := slackCode()
	if err := p.writeMem(code, g.slack, t); err != nil {
		return nil, err
	}
	return func() error { return p.writeMem(make([]byte, len(code)), g.slack, t) }, nil
}
