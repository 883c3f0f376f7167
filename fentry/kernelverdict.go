package fentry

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"livepatch/disasm"
	"livepatch/elfpatch/kernel"
	"livepatch/trampoline"
)

// ftraceStrategy is the strategy of functions of a kernel: the livepatch core
// or a direct call of ftrace redirects them.
const ftraceStrategy = "ftrace"

// judgeKernel gives the verdict, most telling first: what is gone when a patch
// comes, what ftrace reaches, and why it does not reach the rest.
func (fd *Finder) judgeKernel(t *text, s *Start, f *Func, site ftraceSite) {
	k := fd.kernel
	area := k.areaAt(s.text, s.off, kernel.AreaInit)
	hyp := k.areaAt(s.text, s.off, kernel.AreaHyp)
	switch {
	case area != nil && strings.HasPrefix(t.name, ".exit"):
		f.Verdict, f.Reason = InitText, "exit code of something built in: its memory is given back with that of initialisation"
	case area != nil:
		f.Verdict, f.Reason = InitText, "initialisation code: its memory is given back once it has run"
	case t.isData(s.off, s.off+1):
		f.Verdict, f.Reason = DataInText, "mapping symbols call these bytes data"
	case site.kind != "" && hyp == nil:
		f.Verdict, f.Strategy = Yes, ftraceStrategy
	case hyp != nil:
		f.Verdict, f.Reason = NoTrace, fmt.Sprintf("in %s: it runs at EL2, where ftrace is not", hyp.What)
	case site.reason != "":
		f.Verdict = NoSite
		f.Reason = fmt.Sprintf("the table of ftrace names +%#x, but %s", t.at(site.off)-f.Addr, site.reason)
	case isCold(f.Name):
		f.Verdict, f.Reason = NoSite, "part of a function that the compiler moved away: it is redirected with that function"
	case k.rust || isRust(f.Name):
		f.Verdict, f.Reason = NoSite, "Rust: the kernel's build puts no call or NOPs for ftrace into Rust code"
	case !k.traced:
		f.Verdict, f.Reason = NoSite, "the file has no table of ftrace sites, or none that could be found"
	case f.KprobeBlacklisted:
		f.Verdict, f.Reason = Blacklisted, "no call or NOPs for ftrace, and kprobes refuse it as well: "+fd.whyBlacklisted(s)
	default:
		f.Verdict = NoTrace
		f.Reason = "no call or NOPs for ftrace: notrace, assembler, or generated"
	}
}

// whyBlacklisted names what makes kprobes refuse a function.
func (fd *Finder) whyBlacklisted(s *Start) string {
	if a := fd.kernel.areaAt(s.text, s.off, kernel.AreaKprobes, kernel.AreaNoInstr, kernel.AreaEntry, kernel.AreaHyp); a != nil {
		return "in " + a.What
	}
	return "in " + blacklistTable
}

// isCold recognises the parts of functions that GCC and Clang place elsewhere.
func isCold(name string) bool {
	i := strings.Index(name, ".cold")
	return i > 0 && strings.Trim(name[i+len(".cold"):], ".0123456789") == ""
}

// isRust recognises names that the Rust compiler mangled: _R and a path (its
// symbol mangling v0), or the older scheme of C++ with a hash at the end.
func isRust(name string) bool {
	if rest, ok := strings.CutPrefix(name, "_R"); ok {
		rest = strings.TrimLeft(rest, "0123456789")
		return rest != "" && strings.IndexByte("CNMXYIB", rest[0]) >= 0
	}
	const hash = "17h0123456789abcdefE"
	i := len(name) - len(hash)
	return strings.HasPrefix(name, "_ZN") && i > 0 && strings.HasPrefix(name[i:], "17h") && name[len(name)-1] == 'E' &&
		strings.Trim(name[i+3:len(name)-1], "0123456789abcdef") == ""
}

// typeHash returns the hash of a function's type that kCFI puts before its
// entry, nil without.
//
// x86-64: mov $hash, %eax with NOPs before or behind it, marked by a symbol
// __cfi_ (arch/x86/include/asm/linkage.h, 6.12). arm64: one word of data before
// the NOPs, which only mapping symbols tell from code.
func (fd *Finder) typeHash(t *text, s *Start) *uint32 {
	if fd.machine == elf.EM_AARCH64 {
		return fd.arm64TypeHash(t, s)
	}
	if s.hash == 0 {
		return nil
	}
	return x86TypeHash(t.bytes[s.off-s.hash : s.off])
}

// x86TypeHash decodes what stands between __cfi_ and the entry.
func x86TypeHash(b []byte) *uint32 {
	const movEAX = 0xb8
	var hash *uint32
	for len(b) > 0 {
		if b[0] == movEAX && len(b) >= 5 && hash == nil {
			v := binary.LittleEndian.Uint32(b[1:])
			hash, b = &v, b[5:]
			continue
		}
		in, err := disasm.Decode(elf.EM_X86_64, b)
		if err != nil || !in.Nop {
			return nil
		}
		b = b[in.Len:]
	}
	return hash
}

func (fd *Finder) arm64TypeHash(t *text, s *Start) *uint32 {
	const word = trampoline.Arm64BranchLen
	off := s.off - word
	for off >= word && s.off-off <= maxPrefix && fd.isNops(t, off, off+word) && !t.isData(off, off+word) {
		off -= word
	}
	if off < 0 || !t.isData(off, off+word) || off > 0 && t.isData(off-1, off) || off+word < s.off && t.isData(off+word, s.off) {
		return nil
	}
	v := binary.LittleEndian.Uint32(t.bytes[off:])
	return &v
}

// maxPrefix bounds how far before its function a symbol for what stands before
// an entry may be: padding of 64 bytes, the largest that kernels are built
// with (arch/x86/Kconfig FUNCTION_ALIGNMENT, 6.12), and the hash in front of it.
const maxPrefix = 64 + 32

// dropPrefixes takes the symbols for what stands before entries out of the
// functions of a text.
func (t *text) dropPrefixes() {
	kept := len(t.starts)
	for i := len(t.starts) - 1; i >= 0; i-- {
		s := t.starts[i]
		if kept < len(t.starts) && s.isPrefixOf(&t.starts[kept]) {
			continue
		}
		kept--
		t.starts[kept] = s
	}
	t.starts = t.starts[kept:]
}

// isPrefixOf says whether s is no function but what stands before one, and
// notes with that one where its type hash begins.
func (s *Start) isPrefixOf(next *Start) bool {
	const manyNames = 1 << 12 // no compiler gives functions as many
	if next.off-s.off > maxPrefix || len(s.Names)*len(next.Names) > manyNames {
		return false
	}
	is := false
	for _, name := range s.Names {
		if of, ok := kernel.PrefixOf(name); ok && slices.Contains(next.Names, of) {
			is = true
			if strings.HasPrefix(name, cfiPrefix) {
				next.hash = next.off - s.off
			}
		}
	}
	return is
}

// cfiPrefix begins the names of type hashes.
const cfiPrefix = "__cfi_"
