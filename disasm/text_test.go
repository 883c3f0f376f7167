package disasm

import (
	"bufio"
	"debug/elf"
	"os"
	"strings"
	"sync"
	"testing"
)

// golden is a line "bytes | text" of testdata. The instruction stands at
// 0x1000; 0x1000 to 0x10ff is "here", 0x2000 to 0x2fff is "there".
type golden struct {
	code []byte
	text string
	line int
}

const goldenPC = 0x1000

func goldenSymbol(a uint64) (string, uint64) {
	switch {
	case a >= 0x1000 && a < 0x1100:
		return "here", 0x1000
	case a >= 0x2000 && a < 0x3000:
		return "there", 0x2000
	}
	return "", 0
}

func goldens(t *testing.T) map[elf.Machine][]golden {
	t.Helper()
	return map[elf.Machine][]golden{
		elf.EM_X86_64:  readGolden(t, "testdata/x86.txt"),
		elf.EM_AARCH64: readGolden(t, "testdata/arm64.txt"),
	}
}

func readGolden(t testing.TB, path string) []golden {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []golden
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		if s.Text() == "" || s.Text()[0] == '#' {
			continue
		}
		code, text, ok := strings.Cut(s.Text(), " | ")
		if !ok {
			t.Fatalf("%s:%d: no bar", path, n)
		}
		all = append(all, golden{unhex(t, code), text, n})
	}
	if err := s.Err(); err != nil || len(all) == 0 {
		t.Fatalf("%s: %d lines, %v", path, len(all), err)
	}
	return all
}

func TestTextGolden(t *testing.T) {
	for m, all := range goldens(t) {
		for _, g := range all {
			if got := Text(m, g.code, goldenPC, goldenSymbol); got != g.text {
				t.Errorf("%v line %d: % x\n got %s\nwant %s", m, g.line, g.code, got, g.text)
			}
		}
	}
}

func TestTextFallback(t *testing.T) {
	for _, c := range []struct {
		m    elf.Machine
		code string
		want string
	}{
		{elf.EM_X86_64, "06", ".byte 0x06"},
		{elf.EM_X86_64, "90 90", ".byte 0x90,0x90"}, // two instructions
		{elf.EM_X86_64, "0f 38", ".byte 0x0f,0x38"}, // half of one
		{elf.EM_X86_64, "", ".byte"},
		{elf.EM_X86_64, "66 0f 38 f6 c1", ".byte 0x66,0x0f,0x38,0xf6,0xc1"}, // adcx, unknown to the printer
		{elf.EM_AARCH64, "00 00 00 02", ".inst 0x02000000"},
		{elf.EM_AARCH64, "1f 20 03", ".byte 0x1f,0x20,0x03"},
		{elf.EM_386, "90", ".byte 0x90"},
	} {
		if got := Text(c.m, unhex(t, c.code), 0, nil); got != c.want {
			t.Errorf("%s: got %q, want %q", c.code, got, c.want)
		}
	}
}

func TestTextConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if s := Text(elf.EM_AARCH64, []byte{0xe0, 0x03, 0x01, 0xaa}, 0, nil); s != "mov x0, x1" {
					t.Error(s)
				}
			}
		})
	}
	wg.Wait()
}
