package modcheck

import (
	"strings"

	"livepatch/elfpatch/kernel"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
)

// checkStays asks that a livepatch symbol of the kernel does not lie in memory that is given
// back after boot: something else is there when the patch is applied. The
// symbols of modules need no question, since those of their init sections are not
// in kallsyms once they run.
func (c *checker) checkStays(name string, o *image, s *kimage.Symbol) {
	if o.name != vmlinux || !o.inInit(s.Addr) || o.isTemplate(s.Addr) || isBoundary(s.Name) {
		return
	}
	// Functions of the kernel may refer to init memory and know when not to (__ref).
	if r, end := c.usedBefore()[vmlinux], s.Addr+max(s.Size, 1); r != nil && (holds(r.branches, s.Addr, end) || holds(r.operands, s.Addr, end)) {
		return
	}
	c.refuse(refusal.InitMemory, whatSymbol, name, "%s is in memory that the kernel gives back after boot", s.Name)
}

// isTemplate reports a per-processor variable. Code counts from its address in
// the template, which arm64 has among what is given back, to that of a processor's
// copy (include/asm-generic/vmlinux.lds.h, PERCPU_SECTION;
// arch/arm64/kernel/vmlinux.lds.S, HYPERVISOR_PERCPU_SECTION, 6.12).
func (o *image) isTemplate(addr uint64) bool {
	for _, prefix := range []string{"", "__kvm_nvhe_"} {
		from, ok1 := o.addr(prefix + "__per_cpu_start")
		to, ok2 := o.addr(prefix + "__per_cpu_end")
		if ok1 && ok2 && addr >= from && addr < to {
			return true
		}
	}
	return false
}

// isBoundary reports symbols that the linker script puts around parts of the
// kernel: code compares addresses with them.
func isBoundary(name string) bool {
	if kernel.IsLabel(name) {
		return true
	}
	if !strings.HasPrefix(name, "__") {
		return false
	}
	return strings.HasPrefix(name, "__start_") || strings.HasPrefix(name, "__stop_") ||
		strings.HasSuffix(name, "_begin") || strings.HasSuffix(name, "_start") || strings.HasSuffix(name, "_end")
}
