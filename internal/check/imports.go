package check

import (
	"debug/elf"

	"livepatch/internal/refusal"
	"livepatch/manifest"
)

func (c *checker) imported(im *manifest.Import) {
	switch im.Kind {
	case manifest.ImportTarget:
		if _, ok := c.segment(im.Address, 0); !ok {
			c.refuse(refusal.AddressUnknown, "import", im.Symbol, "%#x is not in the file's memory", im.Address)
			return
		}
		c.ok("import", im.Symbol, "at %#x of the target", im.Address)
	case manifest.ImportTLSOffset:
		c.threadLocal(im)
	case manifest.ImportDynamic:
		c.dynamic(im)
	}
}

// threadLocal checks that an offset from the thread pointer lies in the
// thread-local block of the executable: below the pointer on x86-64 (variant
// II of the ELF TLS document), above it and 16 bytes on arm64 (variant I).
func (c *checker) threadLocal(im *manifest.Import) {
	if Kind(c.elf) == manifest.KindLibrary {
		c.refuse(refusal.TLSModel, "import", im.Symbol, "only an executable's thread-local block has a fixed place")
		return
	}
	for _, s := range c.elf.Segments {
		if s.Type != elf.PT_TLS {
			continue
		}
		if s.MemSize > maxMemory || s.Align > maxAlign {
			break
		}
		align := int64(max(s.Align, 1))
		size := (int64(s.MemSize) + align - 1) / align * align
		lo, hi := -size, int64(0)
		if c.elf.Machine == elf.EM_AARCH64 {
			lo = int64(alignUp(16, uint64(align)))
			hi = lo + int64(s.MemSize)
		}
		if im.Offset < lo || im.Offset >= hi {
			c.refuse(refusal.AddressUnknown, "import", im.Symbol, "offset %d is outside the thread-local block, %d to %d", im.Offset, lo, hi)
			return
		}
		c.ok("import", im.Symbol, "at %d from the thread pointer", im.Offset)
		return
	}
	c.refuse(refusal.AddressUnknown, "import", im.Symbol, "the file has no usable thread-local block")
}

// dynamic looks for a definition among the files given, then for a library
// that the target is linked with; which one defines the symbol is then known
// only where it runs.
func (c *checker) dynamic(im *manifest.Import) {
	for _, f := range c.files {
		syms, err := f.ELF.DynSymbols()
		if err != nil {
			continue
		}
		for i := range syms {
			s := &syms[i]
			if s.Name == im.Name && s.Section != 0 && (im.Version == "" || s.Version == im.Version) {
				c.ok("import", im.Symbol, "defined in %s", f.Path)
				return
			}
		}
	}
	d, err := c.elf.Dynamic()
	if err != nil || d == nil || len(d.Needed) == 0 {
		c.refuse(refusal.SymbolNotFound, "import", im.Symbol, "the target loads no library that could define it")
		return
	}
	from := im.Library
	if from == "" {
		from = "a library"
	}
	c.add("import", im.Symbol, Later, "", "to be found in %s of the process", from)
}
