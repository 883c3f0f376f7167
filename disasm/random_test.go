package disasm

import (
	"debug/elf"
	"encoding/binary"
	"flag"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
)

var randomWords = flag.Int("random-words", 200_000, "arm64 words to compare with objdump")

// TestARM64Random compares random words with objdump: nothing that it decodes
// may be refused, and every PC-relative form must be found with its target. The
// words that only we accept are counted.
func TestARM64Random(t *testing.T) {
	words := *randomWords
	r := rand.New(rand.NewSource(2))
	b := make([]byte, 0, 4*words)
	for range words {
		b = binary.LittleEndian.AppendUint32(b, r.Uint32())
	}
	path := filepath.Join(t.TempDir(), "words")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var res sweepResult
	f := &elf.File{FileHeader: elf.FileHeader{Machine: elf.EM_AARCH64, Type: elf.ET_EXEC}}
	objdump(t, f.Machine, path, func(l line) { res.compare(f, l, true) }, "-D", "-b", "binary", "-m", "aarch64")
	for _, d := range res.Disputes[:min(len(res.Disputes), *sweepShow)] {
		t.Error(d)
	}
	if res.Inside+res.Bad != words {
		t.Errorf("objdump printed %d and %d of %d words", res.Inside, res.Bad, words)
	}
	t.Logf("%d words: objdump decodes %d, %d of them PC-relative; of the others we refuse %d and accept %d",
		words, res.Inside, res.PCRel, res.Bad-res.Accepted, res.Accepted)
}
