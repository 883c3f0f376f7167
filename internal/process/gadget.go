//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"

	"livepatch/internal/resolve"
)

// findGadgets looks through the vdso, which is small and on arm64 the one that has
// sigreturn, and the executable files of the target.
func (p *proc) findGadgets() (gadgets, error) {
	var g gadgets
	const vdso = "[vdso]"
	const chunk, overlap = 1 << 20, 16
	buf := make([]byte, chunk)
	maps := slices.Clone(p.maps)
	if i := slices.IndexFunc(maps, func(m resolve.Mapping) bool { return m.Path == vdso }); i >= 0 {
		maps = slices.Insert(maps, 0, maps[i])
	}
	for i := range maps {
		m := &maps[i]
		if !m.Exec || !m.Read || m.Inode == 0 && m.Path != vdso {
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
				at -= overlap // what straddles the chunks
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
		if *to != 0 {
			return
		}
		if i := indexCode(b, code); i >= 0 {
			*to = at + uint64(i)
		}
	}
	find(&g.syscall, codeSyscall)
	for _, code := range codeSigreturn {
		find(&g.sigreturn, code)
	}
}

// indexCode is bytes.Index for code where instructions begin.
func indexCode(b, code []byte) int {
	for from := 0; ; {
		i := bytes.Index(b[from:], code)
		if i < 0 {
			return -1
		}
		if (from+i)%codeStep == 0 {
			return from + i
		}
		from += i + 1
	}
}

func slackCode() []byte { return append(bytes.Clone(codeSyscall), codeSigreturn[0]...) }

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
