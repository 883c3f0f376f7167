package build

import (
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/kimage"
	"livepatch/internal/kmod"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// traits are the properties of a kernel that a module must have too, read off
// its symbols.
func traits(img *kimage.Kernel, versions kmod.Versions) kmod.Spec {
	has := func(name string) bool { return len(img.Named(name)) > 0 }
	s := kmod.Spec{
		Vermagic:  img.Vermagic,
		Retpoline: has("__x86_indirect_thunk_rax"),
		Rethunk:   has("__x86_return_thunk"),
		ORC:       has("__start_orc_unwind"),
		CallSites: has("__call_sites") || img.File.Section(".call_sites") != nil,
		CFI:       img.ChecksCalls(),
	}
	if strings.Contains(img.Vermagic, " modversions ") {
		s.Versions = max(versions, kmod.BasicVersions)
	}
	// The marks of padding and of checked indirect calls are symbols beside those
	// of functions; a well-known one stands for all.
	for _, name := range []string{"klp_enable_patch", "_printk", "kfree", "schedule"} {
		for _, i := range img.Named("__pfx_" + name) {
			for _, j := range img.Named(name) {
				if gap := img.Symbols[j].Addr - img.Symbols[i].Addr; gap > 0 && gap <= 64 {
					s.Padding = int(gap)
				}
			}
		}
		s.CFI = s.CFI || has("__cfi_"+name)
	}
	s.Hashes, _ = img.EntryHashes()
	return s
}

// describe writes the manifest and the package.
func (k *kernelSteps) describe() (*pack.Package, error) {
	img := k.kernel.Image
	out := &manifest.Kernel{
		Flavour: manifest.FlavourKLP, Machine: machineName(img.Machine), Release: img.Release, Vermagic: img.Vermagic,
		BuildID: img.BuildID, Module: k.spec.Name,
		Payload: payloadOf(manifest.KernelMember, k.module),
		Replace: k.spec.Replace, Signed: k.kernel.Sign != nil, States: k.kernel.States, Warnings: k.warnings,
	}
	members := k.describeBase(out)
	if k.objtool {
		out.Objtool = k.kernel.ObjtoolDigest
	}
	targets := k.targets
	if !slices.Contains(targets, k.image) {
		targets = append([]*kernelTarget{k.image}, targets...) // code of modules refers to it too
	}
	for _, o := range targets {
		if entry, ok := k.describeObject(o); ok {
			out.Objects = append(out.Objects, entry)
		}
	}
	out.Exports = exportsOf(k.spec.Bindings)
	m := &manifest.Manifest{
		Format: manifest.Format, Name: k.in.Name, Tool: manifest.Tool{Name: "livepatch", Version: k.in.Version}, Kernel: out,
		Build: k.in.record(k.made(), k.findings()),
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("make the manifest: %w", err)
	}
	return &pack.Package{Manifest: m, Members: members}, nil
}

func payloadOf(member string, b []byte) manifest.Payload {
	sum := sha256.Sum256(b)
	return manifest.Payload{Member: member, Size: int64(len(b)), SHA256: sum[:]}
}

func exportsOf(bindings map[string]kmod.Binding) (out []manifest.KernelExport) {
	for name, b := range bindings {
		if b.Kind != kmod.Export {
			continue
		}
		x := manifest.KernelExport{Name: cmp.Or(b.Name, name), Namespace: b.Namespace}
		if b.HasCRC {
			crc := manifest.Hex(binary.BigEndian.AppendUint32(nil, b.CRC))
			x.CRC = &crc
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b manifest.KernelExport) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(out, func(a, b manifest.KernelExport) bool { return a.Name == b.Name })
}

// describeObject lists what the module does to a target and shares with it.
func (k *kernelSteps) describeObject(t *kernelTarget) (manifest.KernelObject, bool) {
	o := manifest.KernelObject{Name: t.name, BuildID: k.kernel.Image.BuildID}
	if m := t.target.Module; m != nil {
		o.BuildID, o.Srcversion = m.BuildID, m.Srcversion
	}
	slices.SortStableFunc(t.funcs, byAddress)
	for _, f := range t.funcs {
		o.Functions = append(o.Functions, k.describeFunc(t, f))
	}
	for n, place := range t.shared {
		s := manifest.KernelSymbol{Name: n.name, Position: n.pos, Found: place.Found, Uses: place.Uses}
		if s.Found == "" {
			s.Found = "symbol"
		}
		s.Section, s.Address = t.place(n.addr)
		o.Symbols = append(o.Symbols, s)
	}
	slices.SortFunc(o.Symbols, func(a, b manifest.KernelSymbol) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Name, b.Name))
	})
	spec, acts := k.object(t)
	for _, kind := range manifest.CallbackKinds() {
		if fn, ok := spec.Callbacks[kmod.CallbackKind(kind)]; ok {
			o.Callbacks = append(o.Callbacks, manifest.KernelCallback{Kind: kind, Function: fn})
		}
	}
	return o, acts || len(o.Symbols) > 0
}

func (k *kernelSteps) describeFunc(t *kernelTarget, f *kernelFunc) manifest.KernelFunction {
	name := k.replacement(f)
	out := manifest.KernelFunction{
		Name: f.name.name, Object: f.pair.OrigName, Position: f.name.pos, Size: f.fn.Size,
		Site:        manifest.Site{Kind: string(f.site.Kind), Room: f.site.Room},
		Replacement: name, SHA256: f.body[:], Proof: string(f.fn.Found),
	}
	if b, ok := t.bytes(f.site.Site, siteLength(t.target.File.Machine, f)); ok {
		out.Site.Expected = b
	}
	out.Section, out.Address = t.place(f.fn.Addr)
	_, out.Site.Address = t.place(f.site.Site)
	for _, s := range k.code.Symbols {
		if s.Name == name && s.Section > 0 {
			out.NewSize = s.Size
		}
	}
	return out
}

// siteLength is the length of what ftrace rewrites: one call, or the pair of
// NOPs that arm64 keeps for it.
func siteLength(m elf.Machine, f *kernelFunc) uint64 {
	if m == elf.EM_X86_64 {
		return 5
	}
	return uint64(max(f.site.Nops, 4))
}

// bytes are n bytes at an address as the file holds them: of a module that is
// before its relocations are applied.
func (t *kernelTarget) bytes(addr, n uint64) ([]byte, bool) {
	if t.target.Module == nil {
		return t.target.File.ReadAddr(addr, int(n))
	}
	// The laid out file has sections of its own, in another order.
	name, off := t.place(addr)
	s := t.target.Module.File.Section(name)
	if s == nil || off+n > uint64(len(s.Data)) {
		return nil, false
	}
	return s.Data[off : off+n], true
}

// place is an address as the manifest has it: in modules it counts from the
// section's start.
func (t *kernelTarget) place(addr uint64) (section string, at uint64) {
	if t.target.Module == nil {
		return "", addr
	}
	for _, s := range t.target.File.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && addr >= s.Addr && addr-s.Addr < s.Size {
			return s.Name, addr - s.Addr
		}
	}
	return "", addr
}
