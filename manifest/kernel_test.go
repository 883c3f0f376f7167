package manifest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sampleKernel is a manifest that uses every part of a kernel patch.
func sampleKernel() *Manifest {
	site := Site{Kind: "fentry-call", Address: 0xffffffff81001004, Expected: Hex{0xe8, 0, 0, 0, 0}, Room: 5}
	inModule := Site{Kind: "fentry-call", Address: 0x40, Expected: Hex{0xe8, 0, 0, 0, 0}, Room: 5}
	crc := Hex{0x12, 0x34, 0x56, 0x78}
	return &Manifest{
		Format: Format, Name: "cve-1", Tool: Tool{"livepatch", "0.1.0"},
		Kernel: &Kernel{
			Flavour: FlavourKLP, Machine: MachineX86, Release: "6.12.1-cloud-amd64", Vermagic: "6.12.1-cloud-amd64 SMP mod_unload modversions ",
			BuildID: fill(20, 0xb1), Module: "cve_1", Payload: Payload{Member: KernelMember, Size: 4096, SHA256: fill(32, 0x5a)},
			Replace: true, Signed: true, Objtool: fill(32, 7), Warnings: []string{"tracepoint x is off in f"},
			Objects: []KernelObject{
				{
					Name: Vmlinux, BuildID: fill(20, 0xb1),
					Functions: []KernelFunction{{
						Name: "meminfo_proc_show", Object: "meminfo.o", Position: 2, Address: 0xffffffff81001000, Size: 0x400, Site: site,
						Replacement: "meminfo_proc_show", NewSize: 0x410, SHA256: fill(32, 1), Proof: "symbol",
					}},
					Symbols:   []KernelSymbol{{Name: "count.0", Address: 0xffffffff82000000, Found: "meminfo_proc_show+0x12", Uses: 2}},
					Callbacks: []KernelCallback{{Kind: "pre_patch", Function: "before"}},
				},
				{
					Name: "ext4", BuildID: fill(20, 0xb2), Srcversion: "0123456789ABCDEF",
					Functions: []KernelFunction{{
						Name: "ext4_f", Object: "super.o", Section: ".text", Address: 0x40, Size: 0x20, Site: inModule,
						Replacement: "ext4_f", NewSize: 0x20, SHA256: fill(32, 2), Proof: "symbol",
					}},
				},
			},
			Exports: []KernelExport{{Name: "_printk", CRC: &crc, Namespace: "NS"}, {Name: "memcpy"}},
			States:  []KernelState{{ID: 1 << 63, Version: 3}},
		},
	}
}

func TestKernelGolden(t *testing.T) {
	got, err := Encode(sampleKernel())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "kernel.json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("encoding differs (-golden +got):\n%s", d)
	}
	m, err := Decode(got)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Encode(m); err != nil || !bytes.Equal(again, got) {
		t.Errorf("decoding and encoding again gives other bytes (error %v)", err)
	}
}

// directKernel is a manifest of direct calls.
func directKernel() *Manifest {
	m := sampleKernel()
	k := m.Kernel
	k.Flavour, k.Consistency, k.States = FlavourDirect, ConsistencyCalls, nil
	k.Base = &KernelBase{BaseModule, Payload{Member: BaseMember, Size: 4096, SHA256: fill(32, 0x5b)}}
	k.Objects = k.Objects[:1]
	k.Objects[0].Callbacks = nil
	return m
}

func TestDirectKernel(t *testing.T) {
	b, err := Encode(directKernel())
	if err != nil {
		t.Fatal(err)
	}
	m, err := Decode(b)
	if err != nil || len(m.Payloads()) != 2 || m.Payloads()[1].Member != BaseMember {
		t.Errorf("%+v, error %v", m, err)
	}
}

// Each row breaks one thing of the sample; the error must name it.
func TestKernelValidateRefuses(t *testing.T) {
	for _, tc := range []struct {
		want string
		edit func(m *Manifest, k *Kernel)
	}{
		{"targets: has 1 entries, not 0 to 0", func(m *Manifest, _ *Kernel) { m.Targets = sample().Targets }},
		{`kernel.flavour: "ftrace" is none of`, func(_ *Manifest, k *Kernel) { k.Flavour = "ftrace" }},
		{"kernel.machine", func(_ *Manifest, k *Kernel) { k.Machine = "mips" }},
		{"kernel.release: is empty", func(_ *Manifest, k *Kernel) { k.Release = "" }},
		{"kernel.vermagic: is empty", func(_ *Manifest, k *Kernel) { k.Vermagic = "" }},
		{"kernel.build_id: has 0 bytes", func(_ *Manifest, k *Kernel) { k.BuildID = nil }},
		{"kernel.module: \"cve-1\" is not the name of a module", func(_ *Manifest, k *Kernel) { k.Module = "cve-1" }},
		{"kernel.module", func(_ *Manifest, k *Kernel) { k.Module = strings.Repeat("a", MaxModuleName+1) }},
		{`kernel.payload.member: is "payload/0.o"`, func(_ *Manifest, k *Kernel) { k.Payload.Member = "payload/0.o" }},
		{"kernel.objtool: has 1 bytes", func(_ *Manifest, k *Kernel) { k.Objtool = Hex{1} }},
		{"kernel.objects: has 0 entries", func(_ *Manifest, k *Kernel) { k.Objects = nil }},
		{"neither a function nor a callback", func(_ *Manifest, k *Kernel) { k.Objects = []KernelObject{{Name: Vmlinux, BuildID: fill(20, 1)}} }},
		{`objects[1].name: "vmlinux" is there twice`, func(_ *Manifest, k *Kernel) { k.Objects[1].Name = Vmlinux }},
		{"objects[0].build_id", func(_ *Manifest, k *Kernel) { k.Objects[0].BuildID = nil }},
		{"replaces another function too", func(_ *Manifest, k *Kernel) { k.Objects[1].Functions[0].Replacement = "meminfo_proc_show" }},
		{"holds a comma", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].Name = "a,1" }},
		{"functions[0].position: -1", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].Position = -1 }},
		{"functions[0].size: is 0", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].Size = 0 }},
		{"functions[0].new_size: 0", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].NewSize = 0 }},
		{"functions[0].sha256: has 0 bytes", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].SHA256 = nil }},
		{"functions[0].proof", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].Proof = "" }},
		{"site.address: 0x0 is outside", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].Site.Address = 0 }},
		{"functions[0].section: is \".text\"", func(_ *Manifest, k *Kernel) { k.Objects[0].Functions[0].Section = ".text" }},
		{"functions[0].section: is \"\"", func(_ *Manifest, k *Kernel) { k.Objects[1].Functions[0].Section = "" }},
		{"symbols[0].found: is empty", func(_ *Manifest, k *Kernel) { k.Objects[0].Symbols[0].Found = "" }},
		{"symbols[0].uses: -1", func(_ *Manifest, k *Kernel) { k.Objects[0].Symbols[0].Uses = -1 }},
		{`callbacks[0].kind: "patch" is none of`, func(_ *Manifest, k *Kernel) { k.Objects[0].Callbacks[0].Kind = "patch" }},
		{`callbacks[1].kind: "pre_patch" is there twice`, func(_ *Manifest, k *Kernel) {
			k.Objects[0].Callbacks = append(k.Objects[0].Callbacks, k.Objects[0].Callbacks[0])
		}},
		{"exports[0].crc: has 1 bytes", func(_ *Manifest, k *Kernel) { k.Exports[0].CRC = &Hex{1} }},
		{`exports[1].name: "_printk" is there twice`, func(_ *Manifest, k *Kernel) { k.Exports[1].Name = "_printk" }},
		{"states[1].id", func(_ *Manifest, k *Kernel) { k.States = append(k.States, k.States[0]) }},
		{"kernel.base: is for flavour", func(_ *Manifest, k *Kernel) { k.Base = &KernelBase{} }},
		{"kernel.consistency: is for flavour", func(_ *Manifest, k *Kernel) { k.Consistency = ConsistencyCalls }},
		{"kernel.base: is missing", func(_ *Manifest, k *Kernel) { k.Flavour = FlavourDirect }},
		{"kernel.consistency: \"\" is none of", func(_ *Manifest, k *Kernel) { k.Flavour = FlavourDirect }},
		{"kernel.states: are for flavour", func(_ *Manifest, k *Kernel) { k.Flavour = FlavourDirect }},
		{"objects[0].callbacks: are for flavour", func(_ *Manifest, k *Kernel) { k.Flavour = FlavourDirect }},
		{"objects[1].name: \"ext4\": flavour", func(_ *Manifest, k *Kernel) { k.Flavour = FlavourDirect }},
		{"kernel.base.module: \"other\" is none of", func(_ *Manifest, k *Kernel) { k.Flavour, k.Base = FlavourDirect, &KernelBase{Module: "other"} }},
		{"kernel.base.payload.member", func(_ *Manifest, k *Kernel) { k.Flavour, k.Base = FlavourDirect, &KernelBase{Module: BaseModule} }},
		{"warnings[0]: is empty", func(_ *Manifest, k *Kernel) { k.Warnings[0] = "" }},
	} {
		m := sampleKernel()
		tc.edit(m, m.Kernel)
		err := m.Validate()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("want an error with %q, got %v", tc.want, err)
		}
	}
}
