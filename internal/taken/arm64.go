package taken

import (
	"debug/elf"
	"encoding/binary"

	"livepatch/disasm"
)

// arm64 looks for adr, and for adrp of a page whose register is used for
// anything but loads and stores from there: such code makes an address, with add, or
// gives that of the page to somebody. Each way from adrp on is followed until the
// register is written.
func arm64(code []byte, at, low, high uint64) (uint64, bool) {
	for i := 0; i+word <= len(code); i += word {
		in, err := disasm.Decode(elf.EM_AARCH64, code[i:])
		to, ok := in.Target(at + uint64(i))
		w := binary.LittleEndian.Uint32(code[i:])
		switch {
		case err != nil || !ok || w>>24&0x1f != 0x10: // neither adr nor adrp
		case !in.Page && to >= low && to < high,
			in.Page && to+0xfff >= low && to < high && (&pageUse{code: code, reg: w & 0x1f}).escapes(i+word):
			return at + uint64(i), true
		}
	}
	return 0, false
}

const word = 4

// pageUse follows a register that holds the address of a page.
type pageUse struct {
	code []byte
	reg  uint32
}

// kept reports whether functions leave a register as it is (AAPCS64, 6.1.1). What is
// in another one at a call or return is lost, or no more than the address of a page:
// where compilers mean a variable, they add the rest of its address.
func kept(reg uint32) bool { return reg > 18 && reg != 30 }

// most is how many instructions are followed from one on.
const most = 1 << 12

// escapes reports whether code from an offset on may use the register other than
// as a base of loads and stores. What is not known, or too long a way, does.
func (u *pageUse) escapes(off int) bool {
	seen := map[int]bool{}
	for todo := []int{off}; len(todo) > 0; {
		off, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if seen[off] {
			continue
		}
		seen[off] = true
		next, ok := u.step(off)
		if !ok || len(seen) > most {
			return true
		}
		todo = append(todo, next...)
	}
	return false
}

// step returns where control may go from an offset with the register as it was. It
// reports false if the register is used there.
func (u *pageUse) step(off int) (next []int, ok bool) {
	if off < 0 || off+word > len(u.code) {
		return nil, !kept(u.reg) // a call at the end
	}
	in, err := disasm.Decode(elf.EM_AARCH64, u.code[off:])
	if err != nil {
		return nil, false
	}
	uses, writes := use(binary.LittleEndian.Uint32(u.code[off:]), u.reg)
	switch behind, to := off+word, off+int(in.PCOff); {
	case uses:
		return nil, false
	case writes || in.Flow == disasm.Trap:
		return nil, true
	case in.Flow == disasm.Next, in.Flow == disasm.Syscall:
		return []int{behind}, true
	case in.Flow == disasm.Jump:
		return []int{to}, true
	case in.Flow == disasm.CondJump:
		return []int{behind, to}, true
	case in.Flow == disasm.Call && kept(u.reg):
		return []int{behind}, true
	case in.Flow == disasm.Call, in.Flow == disasm.Return:
		return nil, !kept(u.reg)
	}
	return nil, false
}

// use tells what an instruction does with a register, by the classes of Arm ARM,
// C4.1: whether it uses it other than as the base of a load or store that leaves it
// as it is, and whether it writes it. An instruction of another class uses every register
// that one of its fields may be.
func use(w, reg uint32) (uses, writes bool) {
	rd, rn, ra, rm := w&0x1f == reg, w>>5&0x1f == reg, w>>10&0x1f == reg, w>>16&0x1f == reg
	switch {
	case w>>26&7 == 5: // branches and system: only of these have a register
		return rd && (w>>26&0x1f == 0x0d || w>>22 == 0x354) || rn && w>>25 == 0x6b, false
	case w>>24&0x1f == 0x10: // adr, adrp
		return false, rd
	case w>>23&0x3f == 0x25: // movn, movz; movk keeps a part
		return rd && w>>29&3 == 3, rd
	case w>>26&7 == 4: // with a constant; bfm keeps a part, extr has two sources
		return rn || rd && w>>23&0x3f == 0x26 && w>>29&3 == 1 || rm && w>>23&0x3f == 0x27, rd
	case w>>25&7 == 5: // between registers; pac and aut change one, ccmp, rmif and setf write none
		kind := w >> 21 & 0xff
		signs := kind == 0xd6 && w>>16&0x1f == 1
		return rn || rm || ra && w>>24&0x1f == 0x1b || rd && signs, rd && kind != 0xd2 && (kind != 0xd0 || w>>10&0x3f == 0)
	case w>>25&5 == 4:
		return access(w, rd, rn, ra, rm)
	}
	return rd || rn || ra || rm, false
}

// access is use for loads and stores, given which of the fields are the
// register.
func access(w uint32, rt, rn, rt2, rm bool) (uses, writes bool) {
	vector := w>>26&1 == 1
	rt, rt2 = rt && !vector, rt2 && !vector
	single, pair := w>>27&7 == 7, w>>27&7 == 5
	load := w>>22&3 != 0
	if single && vector {
		load = w>>22&1 == 1
	}
	if single && !vector && w>>30 == 3 && w>>22&3 == 2 { // prfm
		rt = false
	}
	switch {
	case w>>24&0x3f == 0x18: // ldr of a literal; prfm
		return false, rt && w>>30 != 3
	case w>>24&0x3f == 0x1c:
		return false, false
	case pair && w>>23&3 != 2: // nothing is known but that the base changes, or not (stnp)
		return rt && w>>22&1 == 0 || rt2 && w>>22&1 == 0 || rn, (rt || rt2) && w>>22&1 == 1
	case pair:
		return (rt || rt2) && w>>22&1 == 0, (rt || rt2) && w>>22&1 == 1
	case single && w>>24&1 == 1, single && w>>21&1 == 0 && w>>10&1 == 0: // a constant offset
		return rt && !load, rt && load
	case single && w>>21&1 == 1 && w>>10&3 == 2: // an offset in a register
		return rm || rt && !load, rt && load
	}
	return rt || rn || rt2 || rm, false
}
