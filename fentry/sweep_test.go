package fentry

import (
	"debug/elf"
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/disasm"
	"livepatch/internal/testkit"
	"livepatch/trampoline"
)

var sweepFiles = flag.String("sites", "", "comma-separated ELF files to describe in TestSweepSites")

// coverage counts the functions of a file.
type coverage struct {
	functions, text, landing    int // text: in .text
	short, small                int // shorter than the near jump, than the far jump
	strict, near, all, far      int // see docs/sweeps-sites.md
	targets, front              int
	tooShort, branchInto, other int
}

func (c *coverage) count(fd *Finder, f *Func) {
	near, far := fd.nearLen(), trampoline.FarLen(fd.machine)
	s := fd.startOf(f)
	inc := func(n *int, when bool) {
		if when {
			*n++
		}
	}
	c.functions++
	inc(&c.text, f.Section == ".text")
	inc(&c.landing, f.Landing != "")
	inc(&c.short, f.Size < uint64(near))
	inc(&c.small, f.Size < 16)
	site := s.off + int(f.Site-f.Addr)
	_, hit := fd.into(s.text, site+1, site+near)
	inc(&c.targets, hit)
	inc(&c.strict, !hit && fd.strict(&fd.texts[s.text], site, s.off+int(f.Size)))
	inc(&c.near, f.Verdict == Yes && f.Room >= near)
	inc(&c.all, f.Verdict == Yes)
	inc(&c.far, f.Verdict == Yes && f.Room+int(f.Site-f.Addr) >= far)
	inc(&c.front, f.Front >= trampoline.X86FillerLen)
	inc(&c.tooShort, f.Verdict == TooShort)
	inc(&c.branchInto, f.Verdict == BranchInto)
	inc(&c.other, f.Verdict != Yes && f.Verdict != TooShort && f.Verdict != BranchInto)
}

func (fd *Finder) startOf(f *Func) *Start {
	p, _ := fd.locate(f.SectionIndex, f.Addr)
	t := &fd.texts[p.text]
	return &t.starts[t.index(p.off)]
}

// strict says whether the near jump lies wholly in instructions of the
// function, none of which ends it before the jump does.
func (fd *Finder) strict(t *text, site, end int) bool {
	for off := site; off < site+fd.nearLen(); {
		if off >= end {
			return false
		}
		in, err := disasm.Decode(fd.machine, t.bytes[off:end])
		if err != nil {
			return false
		}
		off += in.Len
		switch in.Flow {
		case disasm.Return, disasm.Jump, disasm.IndirectJump, disasm.Trap:
			return off >= site+fd.nearLen()
		}
	}
	return true
}

// TestSweepSites prints the tables of docs/sweeps-sites.md; scripts/sweep-sites
// runs it.
func TestSweepSites(t *testing.T) {
	if *sweepFiles == "" {
		t.Skip("no files given; scripts/sweep-sites gives them")
	}
	for _, path := range strings.Split(*sweepFiles, ",") {
		f := testkit.ELF(t, path)
		begin := time.Now()
		fd, err := NewFinder(f, Options{})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all := fd.All()
		took := time.Since(begin)
		var c coverage
		for i := range all {
			c.count(fd, &all[i])
			checkFunc(t, f, &all[i])
		}
		share := func(n int) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(c.functions, 1))) }
		row := []string{
			filepath.Base(path), fmt.Sprint(c.functions), fmt.Sprint(c.text), fmt.Sprint(c.landing), fmt.Sprint(c.short), share(c.small),
			share(c.strict), share(c.near), share(c.all), fmt.Sprint(c.targets), share(c.far), share(c.front),
			fmt.Sprintf("%d / %d / %d", c.tooShort, c.branchInto, c.other), took.Round(time.Millisecond).String(),
		}
		if f.Machine == elf.EM_AARCH64 {
			row = []string{
				filepath.Base(path), fmt.Sprint(c.functions), fmt.Sprint(c.text), fmt.Sprint(c.landing), share(c.small),
				share(c.near), share(c.far), fmt.Sprintf("%d / %d / %d", c.tooShort, c.branchInto, c.other), took.Round(time.Millisecond).String(),
			}
		}
		t.Logf("row | %s |", strings.Join(row, " | "))
	}
}

// BenchmarkFind measures the whole of sites without printing.
func BenchmarkFind(b *testing.B) {
	f := testkit.ELF(b, filepath.Join("..", "testdata", "binaries", "x86_64-gcc", "prog"))
	size := 0
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_EXECINSTR != 0 {
			size += len(s.Data)
		}
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		if _, err := Find(f, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
