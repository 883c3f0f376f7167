package stub

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"livepatch/elfpatch"
)

var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// makeAfterX86 makes the object of the stub, with what objtool would say of it:
// how to unwind it, and where it returns.
func (o *objects) makeAfterX86(old []byte, value Value) error {
	var body []byte
	if bytes.HasPrefix(old, endbr64) {
		body = append(body, endbr64...)
	}
	switch v := value.Int; {
	case !value.Given:
	case v == 0:
		body = append(body, 0x31, 0xc0) // xor %eax, %eax
	case v >= math.MinInt32 && v <= math.MaxInt32:
		body = append(body, 0x48, 0xc7, 0xc0) // mov $v, %rax; the sign is extended
		body = binary.LittleEndian.AppendUint32(body, uint32(v))
	default:
		body = append(body, 0x48, 0xb8) // movabs $v, %rax
		body = binary.LittleEndian.AppendUint64(body, uint64(v))
	}
	leave := len(body)
	thunk := o.code.has(returnThunk)
	if thunk {
		body = append(body, 0xe9, 0, 0, 0, 0) // jmp __x86_return_thunk
	} else {
		body = append(body, 0xc3)
	}
	body = append(body, 0xcc) // nothing is to run on behind it
	f, text := o.object(body, 0)
	o.after = f
	if thunk {
		sym := f.AddSymbol(elfpatch.Symbol{Name: returnThunk, Bind: elf.STB_GLOBAL})
		err := errors.Join(
			f.SetRelocations(text, []elfpatch.Rela{{Offset: uint64(leave) + 1, Type: uint32(elf.R_X86_64_PLT32), Symbol: uint32(sym), Addend: -4}}),
			returnSites.add(f, text, leave))
		if err != nil {
			return err
		}
	}
	return o.describeUnwinding(f, text)
}

// describeUnwinding copies how the kernel unwinds the entry of the old function:
// the stub changes nothing of the stack. Places are sorted offsets from themselves
// (tools/objtool/orc_gen.c, scripts/sorttable.h, 6.12).
func (o *objects) describeUnwinding(f *elfpatch.File, text *elfpatch.Section) error {
	places, entries := o.code.f.Section(".orc_unwind_ip"), o.code.f.Section(".orc_unwind")
	if places == nil && entries == nil {
		return nil // the kernel has no such tables
	}
	if places == nil || entries == nil || len(places.Data) < 4 || len(entries.Data)%(len(places.Data)/4) != 0 {
		return errors.New("the kernel's tables for unwinding are damaged")
	}
	n, size := len(places.Data)/4, len(entries.Data)/(len(places.Data)/4)
	at := func(i int) uint64 {
		return places.Addr + 4*uint64(i) + uint64(int64(int32(binary.LittleEndian.Uint32(places.Data[4*i:]))))
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(at(a), at(b)) })
	i, exact := slices.BinarySearchFunc(order, o.fn.Addr, func(i int, addr uint64) int { return cmp.Compare(at(i), addr) })
	if !exact {
		i-- // an entry holds up to the next
	}
	if i < 0 {
		return errors.New("the kernel's tables for unwinding do not cover where it begins")
	}
	entry := entries.Data[order[i]*size:][:size]
	f.AddSection(elfpatch.Section{Name: ".orc_unwind", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 2, EntSize: uint64(size), Data: slices.Clone(entry)})
	return unwindPlaces.add(f, text, 0)
}
