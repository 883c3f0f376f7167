//go:build linux && (amd64 || arm64)

package process

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/live"
	"livepatch/internal/unwind"
	"livepatch/trampoline"
)

const (
	breakpoints = "breakpoints" // for a state: this is no patch, but the handler of a change
	frameAlign  = 8             // of entries of .eh_frame
)

// Symbols reads what debuggers and profilers need of the patches in a process,
// out of its memory: an ELF file of each, with the code where it lies. The
// process is not stopped.
func Symbols(pid int) ([]SymbolFile, error) {
	p, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	list := []SymbolFile{}
	for _, r := range p.patches.Records {
		f, err := p.symbolFile(r)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	functions, rows := trapFunctions()
	for _, trap := range p.traps {
		if len(functions) == 0 {
			break // this machine has no breakpoints, whatever the memory says
		}
		f, err := p.trapFile(trap, functions, rows)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, p.same()
}

func (p *proc) symbolFile(r *live.Record) (SymbolFile, error) {
	start, end := r.Code()
	out := SymbolFile{Patch: r.Name, Target: r.Target, State: r.State.String(), Text: start}
	if end-start > maxPayload || r.Frames.Size > maxPayload {
		return out, fmt.Errorf("process %d: patch %s has %#x bytes of code", p.pid, r.Name, end-start)
	}
	code, frames := make([]byte, end-start), make([]byte, r.Frames.Size)
	if err := p.readMem(code, start); err != nil {
		return out, err
	}
	if err := p.readMem(frames, r.Frames.Addr); err != nil && len(frames) > 0 {
		return out, err
	}
	for _, f := range r.Functions {
		out.Functions = append(out.Functions, Function{f.Name, f.New, f.NewSize})
	}
	for _, s := range r.Symbols {
		out.Functions = append(out.Functions, Function{s.Name, s.Addr, s.Size})
	}
	slices.SortFunc(out.Functions, func(a, b Function) int { return cmp.Compare(a.Address, b.Address) })
	var err error
	out.Data, err = symbolELF(out.Functions, start, code, r.Frames.Addr, frames)
	return out, err
}

// trapFile describes a handler of breakpoints, which has no unwind tables in the
// process. They stand in the file in place of what follows the code.
func (p *proc) trapFile(trap *live.Trap, functions []Function, rows []trampoline.Row) (SymbolFile, error) {
	start := trap.Base + live.TrapCode
	out := SymbolFile{State: breakpoints, Text: start}
	end := start
	for _, f := range functions {
		out.Functions = append(out.Functions, Function{f.Name, start + f.Address, f.Size})
		end = start + f.Address + f.Size
	}
	code := make([]byte, end-start)
	if err := p.readMem(code, start); err != nil {
		return out, err
	}
	called, _ := unwind.Called(machine)
	var list []unwind.Stretch
	for _, row := range rows {
		r, err := called.Pushed(machine, row.Pushed)
		if err != nil {
			return out, err
		}
		list = append(list, unwind.Stretch{Off: row.Off, Rules: r})
	}
	common, at := called.Common(machine), alignUp(end, frameAlign)
	entry, err := unwind.Describe(machine, len(common), int(functions[0].Size), list)
	if err != nil {
		return out, err
	}
	binary.LittleEndian.PutUint32(entry[unwind.DescribedAt:], uint32(start-at-uint64(len(common))-unwind.DescribedAt))
	out.Data, err = symbolELF(out.Functions, start, code, at, append(common, entry...))
	return out, err
}

// symbolELF makes an executable file without program headers: debuggers look at
// sections only.
func symbolELF(functions []Function, text uint64, code []byte, at uint64, frames []byte) ([]byte, error) {
	f := elfpatch.New(elf.ET_EXEC, machine)
	sec := f.AddSection(elfpatch.Section{
		Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Addr: text, Align: 16, Data: code, Size: uint64(len(code)),
	})
	if len(frames) > 0 {
		f.AddSection(elfpatch.Section{
			Name: framesSection, Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Addr: at, Align: 8, Data: frames, Size: uint64(len(frames)),
		})
	}
	for _, fn := range functions {
		f.AddSymbol(elfpatch.Symbol{Name: fn.Name, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: sec.Index, Value: fn.Address, Size: fn.Size})
	}
	return f.Bytes()
}
