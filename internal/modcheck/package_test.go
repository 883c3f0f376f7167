package modcheck

import (
	"crypto/sha256"
	"debug/elf"
	"testing"

	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// packageOf makes a package of a module as the builder would.
func packageOf(t *testing.T, set Set) *pack.Package {
	t.Helper()
	b := fileOf(t, livepatch(t, elf.EM_X86_64, "static-x86.S"))
	sum := sha256.Sum256(b)
	target := newTarget(set, elf.EM_X86_64)
	fn := func(object, name, replacement string, pos int) manifest.KernelFunction {
		o := target.object(object)
		list := o.named(name)
		s := o.symbols[list[max(pos, 1)-1]]
		f := manifest.KernelFunction{Name: name, Position: pos, Replacement: replacement, Address: s.Addr, Size: 4, Site: manifest.Site{Address: s.Addr}}
		if o.module != nil {
			f.Section, f.Address = ".text", s.Addr-o.module.Linked.Section(".text").Addr
			f.Site.Address = f.Address
		}
		body := fileBytes(o, f.Section, f.Address, f.Size)[0]
		digest := sha256.Sum256(body)
		f.SHA256, f.Site.Expected = digest[:], body
		return f
	}
	k := &manifest.Kernel{Machine: "x86-64", Release: "6.12.0-test", Vermagic: vermagic, BuildID: []byte{1, 2, 3, 4}, Module: "fix", Replace: true,
		Payload: manifest.Payload{Member: manifest.KernelMember, Size: int64(len(b)), SHA256: sum[:]},
		Objects: []manifest.KernelObject{
			{Name: vmlinux, Functions: []manifest.KernelFunction{fn(vmlinux, "old_show", "new_show", 0), fn(vmlinux, "twin", "new_twin", 2)},
				Symbols:   []manifest.KernelSymbol{{Name: "helper"}, {Name: "counter"}, {Name: "key"}},
				Callbacks: []manifest.KernelCallback{{Kind: "pre_patch", Function: "before_patch"}}},
			{Name: "widget", Srcversion: "0123456789ABCDEF", Functions: []manifest.KernelFunction{fn("widget", "widget_turn", "new_turn", 0)},
				Symbols: []manifest.KernelSymbol{{Name: "widget_gear"}, {Name: "widget_state"}}},
		},
		States: []manifest.KernelState{{ID: 7, Version: 3}},
	}
	return &pack.Package{Manifest: &manifest.Manifest{Name: "fix", Kernel: k}, Members: map[string][]byte{manifest.KernelMember: b}}
}

func TestPackage(t *testing.T) {
	set := x86Set(t)
	r := Package(packageOf(t, set), set)
	if r.Count(check.Refused)+r.Count(check.Later) > 0 {
		t.Errorf("%s", reportText(r))
	}
	golden(t, "package.verify", reportText(r))
	r = Package(packageOf(t, set), Set{})
	if r.Count(check.Refused) > 0 || r.Count(check.Later) == 0 {
		t.Errorf("without files:\n%s", reportText(r))
	}
}

func TestPackageMutants(t *testing.T) {
	set := x86Set(t)
	for name, tc := range map[string]struct {
		change func(k *manifest.Kernel)
		want   refusal.Code
	}{
		"another image":      {func(k *manifest.Kernel) { k.BuildID = manifest.Hex{9} }, refusal.WrongTarget},
		"another release":    {func(k *manifest.Kernel) { k.Release = "6.12.1" }, refusal.WrongTarget},
		"another module":     {func(k *manifest.Kernel) { k.Objects[1].BuildID = manifest.Hex{9} }, refusal.WrongTarget},
		"another srcversion": {func(k *manifest.Kernel) { k.Objects[1].Srcversion = "0" }, refusal.WrongTarget},
		"another vermagic":   {func(k *manifest.Kernel) { k.Vermagic = "6.1" }, refusal.PackageDamaged},
		"another name":       {func(k *manifest.Kernel) { k.Module = "fox" }, refusal.PackageDamaged},
		"replace":            {func(k *manifest.Kernel) { k.Replace = false }, refusal.PackageDamaged},
		"signed":             {func(k *manifest.Kernel) { k.Signed = true }, refusal.PackageDamaged},
		"position":           {func(k *manifest.Kernel) { k.Objects[0].Functions[1].Position = 1 }, refusal.PackageDamaged},
		"replacement":        {func(k *manifest.Kernel) { k.Objects[0].Functions[0].Replacement = "new_twin" }, refusal.PackageDamaged},
		"no callback":        {func(k *manifest.Kernel) { k.Objects[0].Callbacks = nil }, refusal.PackageDamaged},
		"symbol":             {func(k *manifest.Kernel) { k.Objects[0].Symbols[0].Name = "helped" }, refusal.PackageDamaged},
		"state":              {func(k *manifest.Kernel) { k.States[0].Version = 4 }, refusal.PackageDamaged},
		"body":               {func(k *manifest.Kernel) { k.Objects[0].Functions[0].SHA256 = make(manifest.Hex, 32) }, refusal.NotTheRunningCode},
		"body of a module":   {func(k *manifest.Kernel) { k.Objects[1].Functions[0].Address++ }, refusal.NotTheRunningCode},
		"no code":            {func(k *manifest.Kernel) { k.Objects[0].Functions[0].Address = 1 }, refusal.WrongTarget},
		"endless function":   {func(k *manifest.Kernel) { k.Objects[0].Functions[0].Size = 1 << 40 }, refusal.WrongTarget},
		"site":               {func(k *manifest.Kernel) { k.Objects[0].Functions[0].Site.Expected = manifest.Hex{0x90} }, refusal.SiteChanged},
	} {
		t.Run(name, func(t *testing.T) {
			p := packageOf(t, set)
			tc.change(p.Manifest.Kernel)
			expect(t, Package(p, set), tc.want)
		})
	}
	p := packageOf(t, set)
	p.Members[manifest.KernelMember] = []byte("hello")
	expect(t, Package(p, set), refusal.ModuleFormat)
}
