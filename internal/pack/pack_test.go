package pack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// sample is a package with two payloads, one of them not a multiple of the
// block size.
func sample(t testing.TB) *Package {
	t.Helper()
	p := &Package{
		Manifest: &manifest.Manifest{Format: manifest.Format, Name: "fix", Tool: manifest.Tool{Name: "livepatch", Version: "test"}},
		Members:  map[string][]byte{},
	}
	for i, size := range []int{512, 70} {
		data := bytes.Repeat([]byte{byte('A' + i)}, size)
		sum := sha256.Sum256(data)
		name := fmt.Sprintf("payload/%d.o", i)
		p.Members[name] = data
		p.Manifest.Targets = append(p.Manifest.Targets, manifest.Target{
			Kind: "executable", Machine: "x86-64", BuildID: manifest.Hex{1, 2, byte(i)}, Name: "prog",
			Payload: manifest.Payload{Member: name, Size: int64(size), SHA256: sum[:]},
			Functions: []manifest.Function{{
				Name: "f", Object: "f.o", Address: 0x401000, Size: 16,
				Site:     manifest.Site{Kind: "prologue", Address: 0x401000, Expected: manifest.Hex{1, 2, 3, 4, 5}, Room: 16},
				Strategy: "near", Replacement: "f", NewSize: 8, SHA256: make([]byte, 32), Proof: "symbol",
			}},
			Writes: []manifest.Write{{Address: 0x401000, Length: 5, Expected: manifest.Hex{1, 2, 3, 4, 5},
				Template: manifest.Hex{0xe9, 0, 0, 0, 0}, Holes: []manifest.Hole{{Offset: 1, Kind: "rel32", Symbol: "f"}}}},
		})
	}
	return p
}

func written(t testing.TB) []byte {
	t.Helper()
	b, err := Write(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWriteGolden holds every byte of a package. A change of it needs a new
// manifest.Format, because packages are read by writing them again.
func TestWriteGolden(t *testing.T) {
	got, path := written(t), filepath.Join("testdata", "sample.lpatch")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("package differs from %s at byte %#x", path, firstDifference(got, want))
	}
}

func TestWriteTwice(t *testing.T) {
	if !bytes.Equal(written(t), written(t)) {
		t.Error("two writes of one package differ")
	}
}

func TestReadWritten(t *testing.T) {
	b := written(t)
	p, err := Read(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Write(p)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("reading and writing gives other bytes (error %v)", err)
	}
	if got := Digest(b); !bytes.Contains(b, []byte("sha256 "+got+"\n")) {
		t.Errorf("Digest is %s, which the package does not state", got)
	}
}

// Every package with one byte changed is refused, and the place is named.
func TestReadRefusesEveryMutant(t *testing.T) {
	good := written(t)
	bad := bytes.Clone(good)
	for i := range good {
		for _, x := range []byte{0x01, 0x20, 0x80, good[i]} {
			if x == 0 {
				continue
			}
			bad[i] = good[i] ^ x
			expectDamaged(t, bad, "byte %d ^ %#x", i, x)
		}
		bad[i] = good[i]
	}
}

func TestReadRefusesTruncationAndExtension(t *testing.T) {
	good := written(t)
	for n := range good {
		expectDamaged(t, good[:n:n], "cut to %d bytes", n)
	}
	for _, tail := range []int{1, 511, 512, 1024, 10240} {
		expectDamaged(t, append(bytes.Clone(good), make([]byte, tail)...), "%d zeros more", tail)
	}
	expectDamaged(t, append(bytes.Clone(good), good...), "twice")
	for at := 0; at <= len(good); at += 512 {
		expectDamaged(t, append(append(bytes.Clone(good[:at]), make([]byte, 512)...), good[at:]...), "block inserted at %d", at)
	}
}

func expectDamaged(t *testing.T, b []byte, format string, args ...any) {
	t.Helper()
	_, err := Read(b)
	var list refusal.List
	if !errors.As(err, &list) || len(list) != 1 || list[0].Code != refusal.PackageDamaged || list[0].Where == "" {
		t.Fatalf(format+": error %v, want one %s with a place", append(args, err, refusal.PackageDamaged)...)
	}
}

func TestReadNamesThePlace(t *testing.T) {
	good := written(t)
	find := func(s string) int {
		i := bytes.Index(good, []byte(s))
		if i < 0 {
			t.Fatalf("no %q in the sample", s)
		}
		return i
	}
	payload := find(strings.Repeat("A", 512))
	second := find(strings.Repeat("B", 70))
	digest := find("digest\x00")
	for _, tc := range []struct {
		at   int
		want string
	}{
		{0, "manifest.json: header differs at byte 0x0"},
		{130, "manifest.json: header at byte 0x0: size field"},
		{find(`"test"`) + 1, "digest: it is not the digest of the"},
		{find("livepatch/1"), "manifest.json: decode manifest: manifest format"},
		{payload, "payload: member payload/0.o has SHA-256"},
		{payload - 512, fmt.Sprintf("payload/0.o: header differs at byte %#x", payload-512)},
		{second + 69, "payload: member payload/1.o has SHA-256"},
		{second + 70, fmt.Sprintf("payload/1.o: padding differs at byte %#x", second+70)},
		{digest, fmt.Sprintf("digest: header differs at byte %#x", digest)},
		{digest + 512 + 8, "digest: it is not the digest of the"},
		{len(good) - 1, fmt.Sprintf("package: trailer differs at byte %#x", len(good)-1)},
	} {
		bad := bytes.Clone(good)
		bad[tc.at] ^= 0x40
		_, err := Read(bad)
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("byte %#x: error %v, want %q", tc.at, err, tc.want)
		}
	}
}

func TestReadRefusesOtherFiles(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"empty", "", "too few"},
		{"text", strings.Repeat("hello\n", 1000), "no ustar archive"},
		{"ELF", "\x7fELF" + strings.Repeat("\x00", 4096), "no ustar archive"},
	} {
		_, err := Read([]byte(tc.content))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
		}
	}
}

// A whole package of a later format is not damaged, it is not understood.
func TestReadLaterFormat(t *testing.T) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := add(w, manifestMember, []byte("{\"format\": \"livepatch/2\"}\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := add(w, digestMember, digestText(out.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Read(out.Bytes())
	var list refusal.List
	if !errors.As(err, &list) || list[0].Code != refusal.Unsupported {
		t.Errorf("error %v, want %s", err, refusal.Unsupported)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, tc := range []struct {
		want string
		edit func(*Package)
	}{
		{"member payload/1.o is missing", func(p *Package) { delete(p.Members, "payload/1.o") }},
		{"3 members for 2 payloads", func(p *Package) { p.Members["extra"] = nil }},
		{"has 69 bytes, not 70", func(p *Package) { p.Members["payload/1.o"] = p.Members["payload/1.o"][:69] }},
		{"has SHA-256", func(p *Package) { p.Members["payload/1.o"][3] = 0 }},
		{"encode manifest: name:", func(p *Package) { p.Manifest.Name = "" }},
	} {
		p := sample(t)
		tc.edit(p)
		if _, err := Write(p); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v, want %q", err, tc.want)
		}
	}
}

// Anybody can look into a package with tar.
func TestTarReads(t *testing.T) {
	b := written(t)
	want := "manifest.json\npayload/0.o\npayload/1.o\ndigest\n"
	var names strings.Builder
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Gid != 0 || h.Uname+h.Gname != "" || h.Mode != 0o644 || h.Format != tar.FormatUSTAR {
			t.Errorf("header %+v is not the fixed one", h)
		}
		fmt.Fprintln(&names, h.Name)
	}
	if names.String() != want {
		t.Errorf("members %q, want %q", names.String(), want)
	}
	prog, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar program on this machine")
	}
	cmd := exec.Command(prog, "tf", "-")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.Output(); err != nil || string(out) != want {
		t.Errorf("tar tf: %q, error %v", out, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(written(f))
	f.Add(signed(f, 1))
	f.Add([]byte{})
	f.Add(make([]byte, 8192))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Read(b)
		if err != nil {
			return
		}
		again, err := Write(p)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("a package that was read writes other bytes (error %v)", err)
		}
	})
}
