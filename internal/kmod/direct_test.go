package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/disasm"
	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
)

// directHandSpec makes the spec of a module for direct calls of one for the
// livepatch core.
func directHandSpec(s Spec) Spec {
	word := func(off uint64) kimage.Member { return kimage.Member{Offset: off, Size: 8} }
	s.ABI.Structs["module"].Members["gpl_syms"] = word(400)
	s.ABI.Structs["ftrace_ops"] = kimage.Struct{Size: 200, Members: map[string]kimage.Member{"func": word(0), "flags": word(16)}}
	s.ABI.Structs["pt_regs"] = kimage.Struct{Size: 168, Members: map[string]kimage.Member{"ip": word(128)}}
	s.ABI.Structs["ftrace_regs"] = kimage.Struct{Size: 168, Members: map[string]kimage.Member{"regs": {Size: 168}}}
	if s.Object.Machine == elf.EM_AARCH64 {
		s.ABI.Structs["ftrace_regs"] = kimage.Struct{}
		s.ABI.Structs["__arch_ftrace_regs"] = kimage.Struct{Size: 112, Members: map[string]kimage.Member{"regs": {Size: 72}, "pc": word(104)}}
	}
	s.ABI.Structs["kernel_param"] = kimage.Struct{Size: 40, Members: map[string]kimage.Member{
		"name": word(0), "mod": word(8), "ops": word(16), "perm": {Offset: 24, Size: 2}, "level": {Offset: 26, Size: 1}, "arg": word(32)}}
	s.ABI.Structs["kernel_param_ops"] = kimage.Struct{Size: 32, Members: map[string]kimage.Member{"set": word(8), "get": word(16)}}
	s.States, s.CallSites = nil, s.Rethunk
	s.Direct = &Direct{Anchor: "_printk", Address: 0xffffffff81100000, Notes: 0xffffffff82000024, BuildID: bytes.Repeat([]byte{0xab}, 20)}
	s.Objects = []Object{{Funcs: []Func{{Name: "kernel_show", Sympos: 2, Site: 0xffffffff81200004, Replacement: "show"}}}}
	for name, b := range s.Bindings {
		if b.Kind == KLP {
			b.Object, b.Address = "", 0xffffffff82345678
			s.Bindings[name] = b
		}
	}
	for _, name := range s.OwnExports() {
		if _, ok := s.Bindings[name]; !ok {
			s.Bindings[name] = Binding{Kind: Export, CRC: 0x1000 + uint32(len(name)), HasCRC: true}
		}
	}
	return s
}

// baseSpec is that of the base module for the kernel of a patch.
func baseSpec(t testing.TB, s Spec) Spec {
	t.Helper()
	names, err := s.BaseExports(func(name string) bool { return !strings.HasSuffix(name, "_multi") })
	if err != nil {
		t.Fatal(err)
	}
	s.Bindings = map[string]Binding{}
	for _, name := range names {
		s.Bindings[name] = Binding{Kind: Export, CRC: 0x2000 + uint32(len(name)), HasCRC: true}
	}
	return s
}

// TestDirectGolden compares modules for direct calls and their base modules
// with what was reviewed, their code as instructions.
func TestDirectGolden(t *testing.T) {
	for name, s := range map[string]Spec{"x86": directHandSpec(x86Spec(t)), "arm64": directHandSpec(arm64Spec(t))} {
		module, err := Emit(s)
		if err != nil {
			t.Fatal(err)
		}
		base, err := EmitBase(baseSpec(t, s))
		if err != nil {
			t.Fatal(err)
		}
		s.Direct.Shared = true
		shared, err := Emit(s)
		if err != nil {
			t.Fatal(err)
		}
		for kind, b := range map[string][]byte{"direct": module, "shared": shared, "base": base} {
			f := checkModule(t, b)
			got := dump(t, f) + listing(t, f)
			golden := filepath.Join("testdata", "golden", name+"-"+kind+".txt")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(testkit.Read(t, golden)), got); d != "" {
				t.Errorf("%s %s: (-want +got)\n%s", name, kind, d)
			}
		}
	}
}

// listing is the module's own code as instructions, with what they refer to.
func listing(t testing.TB, f *elfpatch.File) string {
	t.Helper()
	var w strings.Builder
	for _, sec := range f.Sections {
		if sec.Name != ".text.livepatch" && sec.Name != ".init.text" {
			continue
		}
		rels, err := f.Relocations(sec)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range f.Symbols {
			if s.Section != sec.Index || s.Type != elf.STT_FUNC {
				continue
			}
			fmt.Fprintf(&w, "\ncode of %s\n", s.Name)
			err := disasm.Walk(f.Machine, sec.Data[s.Value:s.Value+s.Size], func(off int, in disasm.Inst) bool {
				b := sec.Data[s.Value:][off : off+in.Len]
				fmt.Fprintf(&w, "  %#05x  %s", off, disasm.Text(f.Machine, b, uint64(off), nil))
				for _, r := range rels {
					if at := s.Value + uint64(off); r.Offset >= at && r.Offset < at+uint64(in.Len) {
						fmt.Fprintf(&w, "  [%s%+d]", f.Symbols[r.Symbol].Name, r.Addend)
					}
				}
				fmt.Fprintln(&w)
				return true
			})
			if err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
		}
	}
	return w.String()
}

// TestBranches reaches labels at both ends of a program, on both machines.
func TestBranches(t *testing.T) {
	for _, m := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		e := &emitter{s: &Spec{}, ops: machines[m]}
		p := &program{name: "p"}
		p.label("first")
		for range 100 {
			p.number(s0, -2)
		}
		p.ifZero(s0, "first")
		p.ifSame(s4, a3, "last")
		p.jump("first")
		p.label("last")
		p.back()
		c := e.assemble(p)
		starts := map[uint64]bool{}
		var targets []uint64
		err := disasm.Walk(m, c.bytes, func(off int, in disasm.Inst) bool {
			starts[uint64(off)] = true
			if to, ok := in.Target(uint64(off)); ok && (in.Flow == disasm.Jump || in.Flow == disasm.CondJump) {
				targets = append(targets, to)
			}
			return true
		})
		if err != nil || len(targets) != 3 || targets[0] != targets[2] || targets[0] != uint64(len(e.ops.enter(false).bytes)) || !starts[targets[1]] || targets[1] <= targets[0] {
			t.Errorf("%v: branches to %#x, error %v", m, targets, err)
		}
	}
}

// TestDirectRefuses is about specs that no module for direct calls can be made of.
func TestDirectRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		code refusal.Code
		edit func(*Spec)
	}{
		"long build-id": {refusal.Unsupported, func(s *Spec) { s.Direct.BuildID = make([]byte, maxBuildID+1) }},
		"no anchor":     {refusal.NotExported, func(s *Spec) { s.Direct.Anchor = "nothing" }},
		"state":         {refusal.Unsupported, func(s *Spec) { s.States = []State{{ID: 1}} }},
		"module":        {refusal.Unsupported, func(s *Spec) { s.Objects[0].Name = "xfs" }},
		"callback":      {refusal.Unsupported, func(s *Spec) { s.Objects[0].Callbacks = map[CallbackKind]string{PrePatch: "show"} }},
		"no registers": {refusal.NoDirectCalls, func(s *Spec) {
			s.Direct.Shared = true
			delete(s.ABI.Structs, "ftrace_regs")
		}},
		"layout":            {refusal.KLPStructures, func(s *Spec) { delete(s.ABI.Structs, "kernel_param_ops") }},
		"symbol of module":  {refusal.Unsupported, func(s *Spec) { bindAll(s, func(b *Binding) { b.Object = "xfs" }) }},
		"symbol without":    {refusal.AddressUnknown, func(s *Spec) { bindAll(s, func(b *Binding) { b.Address = 0 }) }},
		"no unwind entries": {refusal.UnwindMissing, func(s *Spec) { s.Object = noUnwind(t) }},
	} {
		s := directHandSpec(x86Spec(t))
		tc.edit(&s)
		_, err := Emit(s)
		found := false
		for _, r := range refusals(t, err) {
			found = found || r.Code == tc.code
		}
		if !found {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&Spec{}).BaseExports(func(name string) bool { return name != "modify_ftrace_direct" && !strings.HasSuffix(name, "_multi") }); err == nil ||
		!strings.Contains(err.Error(), "does not export modify_ftrace_direct") {
		t.Errorf("a kernel without direct calls: %v", err)
	}
}

func bindAll(s *Spec, change func(*Binding)) {
	for name, b := range s.Bindings {
		if b.Kind == KLP {
			change(&b)
			s.Bindings[name] = b
		}
	}
}

// noUnwind is an object for x86-64 without unwind tables.
func noUnwind(t testing.TB) *elfpatch.File {
	b := newBuilder(elf.EM_X86_64)
	text := b.section(".text.show", execFlags, 16, bytes.Repeat([]byte{0x90}, 8))
	b.symbol("show", elf.STT_FUNC, elf.STB_GLOBAL, text, 0, 8)
	return mergeObject(t, b, "", nil).Object
}

// TestPerCPU keeps the offset of a per-CPU variable, which does not move with the kernel.
func TestPerCPU(t *testing.T) {
	s := directHandSpec(x86Spec(t))
	bindAll(&s, func(b *Binding) { b.Address = 0x1a040 })
	b, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, sym := range checkModule(t, b).Symbols {
		if strings.HasPrefix(sym.Name, "percpu.") && sym.Section == elfpatch.Absolute && sym.Value == 0x1a040 {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d absolute symbols, want one for each of two variables", n)
	}
}
