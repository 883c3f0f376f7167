package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/kimage"
)

func TestKindOf(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no image ", 100)), 0o666); err != nil {
		t.Fatal(err)
	}
	if kind, err := KindOf(filepath.Join(programs, "prog")); err != nil || kind != kimage.Program {
		t.Errorf("a program: %v, %v", kind, err)
	}
	if _, err := KindOf(text); err == nil || !strings.Contains(err.Error(), "read "+text) {
		t.Errorf("a text: %v", err)
	}
}

func TestOpenKernelRefusesPrograms(t *testing.T) {
	if k, err := OpenKernel(filepath.Join(programs, "prog")); err == nil {
		t.Errorf("a program was opened as kernel %v", k.Release)
	}
	if m, err := OpenModule(filepath.Join(programs, "prog")); err == nil {
		t.Errorf("a program was opened as module %v", m.Name)
	}
}
