package match

import (
	"bytes"
	"cmp"
	"debug/elf"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/testkit"
)

var (
	sweepObjects = flag.String("objects", "", "directory with objects to prove, for TestSweepProof")
	sweepTarget  = flag.String("target", "", "what they are linked into")
	sweepDebug   = flag.String("debug-file", "", "its separate debug file")
	sweepSkip    = flag.String("skip-dirs", "", "comma-separated directories below it whose objects are not part of the target")
	sweepList    = flag.Bool("list", false, "print every function that is not proven")
)

// A sweep counts functions by what became of them.
type sweep struct {
	objects, funcs, proven, unused, absent int
	bytes                                  uint64
	classes                                map[string][]string
	took                                   time.Duration
}

// TestSweepProof proves all functions of all objects of a directory, one object
// after the other, and prints a row for docs/sweeps-proof.md; scripts/sweep-proof
// gives it its flags.
func TestSweepProof(t *testing.T) {
	if *sweepObjects == "" || *sweepTarget == "" {
		t.Skip("without -objects and -target there is nothing to sweep; scripts/sweep-proof gives both")
	}
	start := time.Now()
	target, named := openSweepTarget(t)
	index := time.Since(start)
	s := &sweep{classes: map[string][]string{}}
	skip := strings.Split(*sweepSkip, ",")
	all := []string{}
	err := filepath.WalkDir(*sweepObjects, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(*sweepObjects, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skip, rel):
			return fs.SkipDir
		case d.Type().IsRegular() && strings.HasSuffix(path, ".o"):
			all = append(all, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, rel := range all {
		s.object(t, target, filepath.Join(*sweepObjects, rel), rel, named)
	}
	t.Logf("row | %s | %d | %d | %d | %d | %.2f %% | %d bytes in %v, index %v |", filepath.Base(*sweepTarget), s.objects, s.funcs, s.proven, s.unused,
		100*float64(s.proven+s.unused)/float64(max(s.funcs, 1)), s.bytes, s.took.Round(time.Millisecond), index.Round(time.Millisecond))
	if s.absent > 0 {
		t.Logf("class %d functions of objects of which the target has no name", s.absent)
	}
	for _, c := range slices.SortedFunc(maps.Keys(s.classes), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(s.classes[b]), len(s.classes[a])), cmp.Compare(a, b))
	}) {
		list := s.classes[c]
		t.Logf("class %d %s: %s", len(list), c, list[0])
		if *sweepList {
			for _, f := range list[1:] {
				t.Logf("  %s", f)
			}
		}
	}
}

// openSweepTarget opens a kernel, or a program.
func openSweepTarget(t *testing.T) (*Target, func(string) []int) {
	b, err := os.ReadFile(*sweepTarget)
	if err != nil {
		t.Fatal(err)
	}
	var file, debug *elfpatch.File
	var named func(string) []int
	if kind, err := kimage.KindOf(b); err == nil && kind == kimage.KernelImage {
		k, err := kimage.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		file, named = k.File, k.Named
	} else if file, err = elfpatch.Parse(b); err != nil {
		t.Fatal(err)
	}
	if *sweepDebug != "" {
		debug = testkit.ELF(t, *sweepDebug)
	}
	target, err := NewTarget(file, debug)
	if err != nil {
		t.Fatal(err)
	}
	return target, named
}

// object surveys all functions that an object defines.
func (s *sweep) object(t *testing.T, target *Target, path, rel string, named func(string) []int) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 4 || !bytes.Equal(b[:4], []byte(elf.ELFMAG)) {
		t.Logf("class object that is no ELF file: %s", rel)
		return
	}
	obj, err := elfpatch.Parse(b)
	if err != nil {
		t.Fatalf("%s: %v", rel, err)
	}
	var funcs []int
	linked := named == nil
	seen := map[spot]bool{} // aliases count once
	for i, f := range obj.Symbols {
		at := spot{f.Section, f.Value}
		if f.Type != elf.STT_FUNC || f.Size == 0 || f.Section <= 0 || obj.Sections[f.Section].Flags&elf.SHF_EXECINSTR == 0 || seen[at] {
			continue
		}
		seen[at] = true
		funcs = append(funcs, i)
		linked = linked || len(named(f.Name)) > 0
	}
	if len(funcs) == 0 {
		return
	}
	if !linked {
		s.absent += len(funcs)
		return
	}
	start := time.Now()
	survey, err := target.Survey(obj, funcs, Options{Object: rel})
	if err != nil {
		t.Errorf("%s: %v", rel, err)
		return
	}
	s.took += time.Since(start)
	s.objects++
	s.funcs += len(funcs)
	s.proven += len(survey.Proof.Funcs)
	for _, f := range survey.Proof.Funcs {
		s.bytes += f.Size
	}
	for _, m := range survey.Missed {
		if m.Unused != nil {
			s.unused++
			continue
		}
		c := classOf(obj, m, named)
		s.classes[c] = append(s.classes[c], m.Refusal.Error())
	}
}

// classOf groups what is not proven.
func classOf(obj *elfpatch.File, m Missed, named func(string) []int) string {
	text := m.Refusal.Text
	sym := obj.Symbols[m.Symbol]
	kind := "static"
	switch {
	case sym.Bind == elf.STB_WEAK:
		kind = "weak"
	case sym.Bind == elf.STB_GLOBAL:
		kind = "global"
	}
	for _, c := range []string{"uses data that the target has not", "folded", "too common", "too few", "nothing says which", "several functions of this name",
		"by the symbol table", "no place in the text", "the target uses", "the object has"} {
		if strings.Contains(text, c) {
			text = c
			break
		}
	}
	if named != nil && len(named(sym.Name)) == 0 {
		text = "no such name in the target"
	}
	return fmt.Sprintf("%s %s [%s]", kind, text, m.Refusal.Code)
}
