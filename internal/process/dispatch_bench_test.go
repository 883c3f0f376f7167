//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/pack"
	"livepatch/trampoline"
)

// many writes a program of n functions that are called one after the other, and
// an object of what replaces them.
func many(b *testing.B, n int) (target, before, after string) {
	b.Helper()
	var functions, calls, table strings.Builder
	functions.WriteString("\t.text\n")
	for i := range n { // as gcc makes them, which takes minutes for ten thousand
		fmt.Fprintf(&functions, `
	.balign 16, 0x90
	.globl f%[1]d
	.type f%[1]d, @function
	.skip 5, 0x90
.L%[1]d:	.skip 11, 0x90
f%[1]d:	.skip 5, 0x90
	lea %[1]d + SIDE(%%rdi,%%rdi,2), %%rax
	ret
	.size f%[1]d, . - f%[1]d
	.section __patchable_function_entries,"awo",@progbits,.text
	.quad .L%[1]d
	.text
`, i)
		fmt.Fprintf(&calls, "\tcall f%d\n\tmov %%rax, %%rdi\n", i)
		fmt.Fprintf(&table, "\t.quad f%d\n", i)
	}
	functions.WriteString("\t.section .note.GNU-stack,\"\",@progbits\n")
	dir := b.TempDir()
	source := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(b, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	f := source("functions.s", functions.String())
	chain := source("chain.s", fmt.Sprintf(`
	.globl direct, table, count
	.text
direct:	sub $8, %%rsp
%s	add $8, %%rsp
	ret
	.data
	.balign 8
table:
%scount:	.long %d
	.section .note.GNU-stack,"",@progbits
`, calls.String(), table.String(), n))
	object := func(name, side string) string {
		return compile(b, name, "-c", "-Wa,--defsym,SIDE="+side, f)
	}
	before, after = object("before.o", "0"), object("after.o", "1000")
	return compile(b, "many", before, chain, "many.c"), before, after
}

// between is the bytes of what stands between entries and replacements.
func between(b *testing.B, pkg *pack.Package) (pieces uint64) {
	b.Helper()
	t := &pkg.Manifest.Targets[0]
	f, err := elfpatch.Parse(pkg.Members[t.Payload.Member])
	must(b, err)
	size := map[string]uint64{}
	for _, s := range f.Symbols {
		size[s.Name] = s.Size
	}
	for _, p := range t.Pieces {
		pieces += size[p.Symbol]
	}
	return pieces
}

// BenchmarkDispatch measures calls of functions that are called in turn: as they
// are, through pointers, and patched by each dispatch; and the memory of what
// stands between entries and replacements. Times are of the processor that the
// program used, the least of several rounds.
func BenchmarkDispatch(b *testing.B) {
	for _, n := range []int{1, 100, 10000} {
		target, before, after := many(b, n)
		const calls = 2_000_000
		least := func(s *running, how string) (ns float64, value int64) {
			b.Helper()
			for i := range 15 {
				_, err := fmt.Fprintf(s.in, "%s %d\n", how, max(1, calls/n))
				must(b, err)
				var one float64
				if _, err := fmt.Sscan(s.line(), &one, &value); err != nil {
					b.Fatal(err)
				}
				if i == 0 || one < ns {
					ns = one
				}
			}
			return ns, value
		}
		for _, how := range []string{"direct-call", "indirect-call"} {
			b.Run(fmt.Sprintf("functions=%d/unpatched-%s", n, how), func(b *testing.B) {
				s := start(b, target)
				for b.Loop() {
					ns, _ := least(s, how)
					b.ReportMetric(ns, "ns/call")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
		for _, way := range trampoline.Dispatches {
			b.Run(fmt.Sprintf("functions=%d/%s", n, way), func(b *testing.B) {
				pkg := dispatched(b, way, "fix", target, before, after)
				s := start(b, target)
				_, old := least(s, "direct-call")
				opt := Options{Timeout: time.Minute, MaxPause: time.Minute}
				res, err := Apply([]int{s.pid}, pkg, opt)
				must(b, err)
				for b.Loop() {
					ns, value := least(s, "direct-call")
					if value == old {
						b.Fatal("the old functions run")
					}
					b.ReportMetric(ns, "ns/call")
				}
				pieces := between(b, pkg)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(pieces), "bytes")
				b.ReportMetric(float64(pieces)/float64(n), "bytes/function")
				b.ReportMetric(float64(res.Processes[0].Images[0].Size)/1024, "mapped-KiB")
				b.ReportMetric(float64(res.Pause.Write)/1e6, "write-ms")
			})
		}
	}
}
