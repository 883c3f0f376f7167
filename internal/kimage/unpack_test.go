package kimage

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"
)

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUnpackLeavesFilesAlone(t *testing.T) {
	elf := []byte("\x7fELF and more")
	got, err := Unpack(elf)
	if err != nil || &got[0] != &elf[0] {
		t.Errorf("an ELF file was not returned as it is: %q, %v", got, err)
	}
	got, err = Unpack(append(gz(t, elf), "appended"...))
	if err != nil || !bytes.Equal(got, elf) {
		t.Errorf("gzip: %q, %v", got, err)
	}
}

func TestUnpackErrors(t *testing.T) {
	layers := []byte("\x7fELF")
	for range maxLayers + 1 {
		layers = gz(t, layers)
	}
	for _, c := range []struct {
		name, in, want string
		is             error
	}{
		{"empty", "", "neither ELF", ErrNotKernel},
		{"text", "no kernel", "neither ELF", ErrNotKernel},
		{"layers", string(layers), "too many layers", nil},
		{"short gzip", string(gz(t, []byte("\x7fELF")))[:12], "gzip", nil},
		{"lzma", "\x5d\x00\x00\x80\x00", "lzma", ErrCompression},
	} {
		_, err := Unpack([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want one that says %q", c.name, err, c.want)
		}
	}
}
