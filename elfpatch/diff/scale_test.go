package diff

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"livepatch/elfpatch"
)

// manyFunctions makes an object of n functions in one section, each with a call
// to its neighbour that needs no relocation, a static variable, a string and a
// jump table. Function changed, if there is one, has another immediate; all
// behind it moved.
func manyFunctions(tb testing.TB, n, changed int) *elfpatch.File {
	tb.Helper()
	f := elfpatch.New(elf.ET_REL, elf.EM_X86_64)
	var code, table, text []byte
	var codeRels, tableRels []elfpatch.Rela
	add := func(s elfpatch.Section) *elfpatch.Section { return f.AddSection(s) }
	textSec := add(elfpatch.Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR, Align: 16})
	bss := add(elfpatch.Section{Name: ".bss", Type: elf.SHT_NOBITS, Flags: elf.SHF_ALLOC | elf.SHF_WRITE, Align: 8, Size: uint64(8 * n)})
	ro := add(elfpatch.Section{Name: ".rodata", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Align: 4})
	str := add(elfpatch.Section{Name: ".rodata.str1.1", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_MERGE | elf.SHF_STRINGS, Align: 1, EntSize: 1})
	var secs [4]uint32
	for i, s := range []*elfpatch.Section{textSec, bss, ro, str} {
		secs[i] = uint32(f.AddSymbol(elfpatch.Symbol{Type: elf.STT_SECTION, Section: s.Index}))
	}
	before := 0
	for i := range n {
		at := len(code)
		f.AddSymbol(elfpatch.Symbol{Name: fmt.Sprintf("v%d.%d", i, i%7), Type: elf.STT_OBJECT, Section: bss.Index, Value: uint64(8 * i), Size: 8})
		rel := func(off int, sec uint32, target int) {
			codeRels = append(codeRels, elfpatch.Rela{Offset: uint64(at + off), Type: x86PC32, Symbol: sec, Addend: int64(target - 4)})
		}
		code = append(code,
			0x48, 0x8b, 0x05, 0, 0, 0, 0, //      mov v(%rip),%rax
			0x48, 0x8d, 0x3d, 0, 0, 0, 0, //      lea string(%rip),%rdi
			0x48, 0x8d, 0x15, 0, 0, 0, 0, //      lea table(%rip),%rdx
			0x05, byte(i), byte(i>>8), 0, 0, //   add $i,%eax
			0xe8) //                              call neighbour
		rel(3, secs[1], 8*i)
		rel(10, secs[3], len(text))
		rel(17, secs[2], len(table))
		code = binary.LittleEndian.AppendUint32(code, uint32(int32(before-len(code)-4)))
		code = append(code, 0x74, 1, 0x90, 0xc3) // je 1f; nop; 1: ret
		if i == changed {
			code = append(code, 0x48, 0x89, 0xc7, 0xc3) // mov %rax,%rdi; ret
		}
		text = append(text, fmt.Sprintf("text %d\x00", i)...)
		for k := range 3 {
			tableRels = append(tableRels, elfpatch.Rela{Offset: uint64(len(table)), Type: x86PC32, Symbol: secs[0], Addend: int64(at + 7*k + 4*k)})
			table = append(table, 0, 0, 0, 0)
		}
		f.AddSymbol(elfpatch.Symbol{Name: fmt.Sprintf("f%d", i), Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Section: textSec.Index, Value: uint64(at), Size: uint64(len(code) - at)})
		before = at
	}
	for s, d := range map[*elfpatch.Section][]byte{textSec: code, ro: table, str: text} {
		s.Data, s.Size = d, uint64(len(d))
	}
	if err := f.SetRelocations(textSec, codeRels); err != nil {
		tb.Fatal(err)
	}
	if err := f.SetRelocations(ro, tableRels); err != nil {
		tb.Fatal(err)
	}
	return f
}

func TestManyFunctions(t *testing.T) {
	const n = 500
	d, err := Compare(manyFunctions(t, n, -1), manyFunctions(t, n, 3), Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := d.Report()
	if len(r.Functions) != 1 || r.Functions[0].Name != "f3" || len(r.Data) != 0 || r.Same.Functions != n-1 {
		t.Errorf("%s", summary(d))
	}
}

func BenchmarkCompare(b *testing.B) {
	for _, n := range []int{100, 1000, 10000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x, y := manyFunctions(b, n, -1), manyFunctions(b, n, n/2)
			for b.Loop() {
				if _, err := Compare(x, y, Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/function")
		})
	}
}

// What is allocated grows with size and no faster.
func TestCompareIsLinear(t *testing.T) {
	cost := func(n int) float64 {
		x, y := manyFunctions(t, n, -1), manyFunctions(t, n, n/2)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Compare(x, y, Options{}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
	}
	small, large := cost(300), cost(9600)
	if large > 1.5*small {
		t.Errorf("a function of 9600 takes %.0f bytes, one of 300 %.0f", large, small)
	}
}

// So does time. Quadratic growth would show a hundredfold; the machine may be
// busy, so the test is of the slow tier and its factor generous.
func TestCompareTakesLinearTime(t *testing.T) {
	if os.Getenv("LIVEPATCH_SLOW") == "" {
		t.Skip("LIVEPATCH_SLOW is not set: it measures time")
	}
	cost := func(n int) float64 {
		x, y := manyFunctions(t, n, -1), manyFunctions(t, n, n/2)
		best := time.Hour
		for range 5 {
			start := time.Now()
			if _, err := Compare(x, y, Options{}); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		return float64(best) / float64(n)
	}
	small, large := cost(500), cost(50000)
	if large > 5*small {
		t.Errorf("a function of 50000 costs %.0f ns, one of 500 %.0f ns", large, small)
	}
}
