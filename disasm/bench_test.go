package disasm

import (
	"debug/elf"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/arch/arm64/arm64asm"
	"golang.org/x/arch/x86/x86asm"
)

// BenchmarkDecode decodes the text of a C library, at the same instruction
// starts with both decoders in the same run. The metric "x" of ratio is how
// many times faster ours is.
func BenchmarkDecode(b *testing.B) {
	b.Run("x86-64", func(b *testing.B) {
		code := libraryText(b, "/lib/x86_64-linux-gnu/libc.so.6")
		benchDecoders(b, elf.EM_X86_64, code, func(p []byte) { _, _ = x86asm.Decode(p, 64) })
	})
	b.Run("arm64", func(b *testing.B) {
		code := libraryText(b, "/usr/aarch64-linux-gnu/lib/libc.so.6")
		benchDecoders(b, elf.EM_AARCH64, code, func(p []byte) { _, _ = arm64asm.Decode(p) })
	})
}

func libraryText(b *testing.B, path string) []byte {
	f, err := elf.Open(path)
	if os.IsNotExist(err) {
		b.Skip("needs ", path)
	}
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	code, err := f.Section(".text").Data()
	if err != nil {
		b.Fatal(err)
	}
	return code
}

func benchDecoders(b *testing.B, m elf.Machine, code []byte, theirs func([]byte)) {
	starts := starts(m, code)
	ours := func(p []byte) { _, _ = Decode(m, p) }
	pass := func(starts []int, decode func([]byte)) {
		for _, off := range starts {
			decode(code[off:])
		}
	}
	run := func(decode func([]byte)) func(*testing.B) {
		return func(b *testing.B) {
			b.SetBytes(int64(len(code)))
			for b.Loop() {
				pass(starts, decode)
			}
			b.ReportMetric(float64(len(starts))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Minsn/s")
		}
	}
	b.Run("ours", run(ours))
	b.Run("x-arch", run(theirs))
	b.Run("ratio", func(b *testing.B) {
		var a, x fastest
		for b.Loop() {
			n := 0
			for part := range slices.Chunk(starts, 1024) {
				a.time(n, func() { pass(part, ours) })
				x.time(n, func() { pass(part, theirs) })
				n++
			}
		}
		b.ReportMetric(x.sum().Seconds()/a.sum().Seconds(), "x")
	})
}

// fastest has the shortest time that each part took in any pass, so that what
// else the machine does counts little.
type fastest []time.Duration

func (f *fastest) time(n int, fn func()) {
	start := time.Now()
	fn()
	d := time.Since(start)
	if n == len(*f) {
		*f = append(*f, d)
	}
	(*f)[n] = min((*f)[n], d)
}

func (f fastest) sum() (total time.Duration) {
	for _, d := range f {
		total += d
	}
	return total
}

// starts are the offsets of the instructions of a linear sweep, which goes on
// at the next byte after what does not decode.
func starts(m elf.Machine, code []byte) []int {
	var all []int
	for off := 0; off < len(code); {
		in, err := Decode(m, code[off:])
		if err != nil {
			off += max(1, in.Len)
			if m == elf.EM_AARCH64 {
				off = (off + 3) &^ 3
			}
			continue
		}
		all = append(all, off)
		off += in.Len
	}
	return all
}
