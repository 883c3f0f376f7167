package diff

import (
	"debug/elf"
	"strings"

	"livepatch/disasm"
)

// mayUnwind says why an exception may meet a function of the cut, "" if none
// can. In an object without C++ there are no exceptions.
func (k *cutter) mayUnwind() string {
	c := k.c
	if !c.orig.mayThrow() && !c.patched.mayThrow() {
		return ""
	}
	judged := map[*piece]string{}
	for _, p := range k.order {
		if p.kind != function || k.places[p].sec == nil {
			continue
		}
		if p.frame != nil && p.frame.handlers != nil {
			return p.name + " has handlers for exceptions"
		}
		if why := c.patched.throws(p, judged); why != "" {
			return p.name + " " + why
		}
	}
	return ""
}

// mayThrow reports an object made from a language with exceptions.
func (s *side) mayThrow() bool {
	for _, sym := range s.f.Symbols {
		switch {
		case strings.HasPrefix(sym.Name, "_Z"), strings.HasPrefix(sym.Name, "_R"), strings.HasPrefix(sym.Name, "__gxx_personality"),
			sym.Name == "_Unwind_Resume", sym.Name == "rust_eh_personality":
			return true
		case sym.Type == elf.STT_FILE && hasSuffix(sym.Name, ".cc", ".cpp", ".cxx", ".C", ".c++", ".cp", ".CPP"):
			return true
		}
	}
	for _, sec := range s.f.Sections {
		if strings.HasPrefix(sec.Name, ".gcc_except_table") {
			return true
		}
	}
	return false
}

func hasSuffix(s string, all ...string) bool {
	for _, x := range all {
		if strings.HasSuffix(s, x) {
			return true
		}
	}
	return false
}

// harmless are functions of the C and C++ libraries that never throw.
var harmless = map[string]bool{
	"memcpy": true, "memmove": true, "memset": true, "memcmp": true, "memchr": true, "memrchr": true, "strlen": true,
	"strnlen": true, "strcpy": true, "strncpy": true, "strcat": true, "strncat": true, "strcmp": true, "strncmp": true,
	"strcasecmp": true, "strncasecmp": true, "strchr": true, "strrchr": true, "strstr": true, "strtol": true, "strtoul": true,
	"strtoll": true, "strtoull": true, "strtod": true, "atoi": true, "atol": true, "abs": true, "malloc": true, "calloc": true,
	"realloc": true, "free": true, "abort": true, "snprintf": true, "vsnprintf": true, "__stack_chk_fail": true,
	"__memcpy_chk": true, "__memmove_chk": true, "__memset_chk": true, "__snprintf_chk": true, "__vsnprintf_chk": true,
	"__strcpy_chk": true, "__strcat_chk": true, "__errno_location": true, "__tls_get_addr": true,
	"__cxa_guard_release": true, "__cxa_guard_abort": true, "_ZdlPv": true, "_ZdlPvm": true, "_ZdaPv": true, "_ZdaPvm": true,
	"_ZSt9terminatev": true, "__fentry__": true, "mcount": true, "_mcount": true,
}

// throws says why an exception could come out of a function or go through it,
// "" if it cannot. A function counts as harmless while it is being judged, so
// that recursion does not matter.
func (s *side) throws(p *piece, judged map[*piece]string) string {
	if why, ok := judged[p]; ok {
		return why
	}
	judged[p] = ""
	why := s.throwsItself(p)
	for i := 0; i < len(p.refs) && why == ""; i++ {
		r := &p.refs[i]
		if r.to == nil || r.to.kind != function || r.to == p || !s.isBranch(p, r) {
			continue
		}
		if sym := s.symbol(r.to); r.to.sym != 0 && sym.Bind == elf.STB_WEAK {
			continue // inline functions and templates: the copy that runs was made from the same source
		}
		if s.throws(r.to, judged) != "" {
			why = "calls " + r.to.name + ", which may throw"
		}
	}
	judged[p] = why
	return why
}

func (s *side) throwsItself(p *piece) string {
	for i := range p.refs {
		r := &p.refs[i]
		if r.to != nil || r.sym == 0 || harmless[s.f.Symbols[r.sym].Name] {
			continue
		}
		if s.isBranch(p, r) {
			return "calls " + s.f.Symbols[r.sym].Name + ", which may throw"
		}
	}
	if p.broken {
		return "is not only instructions"
	}
	why := ""
	_ = disasm.Walk(s.f.Machine, s.data(p), func(off int, in disasm.Inst) bool {
		if in.Flow != disasm.IndirectCall {
			return true
		}
		for _, r := range s.refsOf(p, insn{off: uint32(off), len: uint8(in.Len)}) {
			if r.to == nil && r.sym != 0 && harmless[s.f.Symbols[r.sym].Name] {
				return true
			}
		}
		why = "calls through a pointer"
		return false
	})
	return why
}
