package modcheck

import (
	"debug/elf"
	"math/rand"
	"testing"
)

// Nothing that a file holds makes the audit panic or hang.
func FuzzCheck(f *testing.F) {
	for _, name := range x86Flavours {
		f.Add(fileOf(f, livepatch(f, elf.EM_X86_64, name)))
	}
	f.Add(fileOf(f, livepatch(f, elf.EM_AARCH64, "static-arm64.S")))
	f.Add(fileOf(f, livepatch(f, elf.EM_X86_64, "static-x86.S", takenInCode(unpadded)...)))
	f.Add(assemble(f, elf.EM_X86_64, source(f, "module-x86.S")))
	x86, arm64 := x86Set(f), arm64Set(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, set := range []Set{x86, arm64, {}} {
			for _, r := range Check(b, set).Results {
				if r.What == "" || r.Status == "" || r.Text == "" {
					t.Errorf("an empty result: %+v", r)
				}
			}
		}
		Describe(b)
	})
}

// Damaged modules are judged too, whatever the damage.
func TestDamaged(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	x86, arm64 := x86Set(t), arm64Set(t)
	for _, tc := range []struct {
		m    elf.Machine
		name string
		set  Set
	}{{elf.EM_X86_64, "static-x86.S", x86}, {elf.EM_X86_64, "kpatch-x86.S", x86}, {elf.EM_X86_64, "intree-x86.S", x86}, {elf.EM_AARCH64, "static-arm64.S", arm64}} {
		b := fileOf(t, livepatch(t, tc.m, tc.name))
		for range 1000 {
			d := append([]byte(nil), b...)
			for range 1 + rng.Intn(8) {
				d[rng.Intn(len(d))] = byte(rng.Intn(256))
			}
			Check(d[:len(d)-rng.Intn(2)*rng.Intn(len(d))], tc.set)
			Describe(d)
		}
	}
}
