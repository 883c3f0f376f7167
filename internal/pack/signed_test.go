package pack

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
	"livepatch/internal/sign"
)

func testKey(t testing.TB, b byte) sign.PrivateKey {
	t.Helper()
	k, err := sign.Generate(bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signed is the sample with a signature of each key.
func signed(t testing.TB, keys ...byte) []byte {
	t.Helper()
	p := sample(t)
	for _, k := range keys {
		if err := p.Sign(testKey(t, k)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := Write(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSigned(t *testing.T) {
	one, both := signed(t, 1), signed(t, 1, 2)
	if !bytes.Equal(one, signed(t, 1)) || !bytes.Equal(one, signed(t, 1, 1)) {
		t.Error("signing again with the same key gives other bytes")
	}
	if !bytes.Equal(both, signed(t, 2, 1)) {
		t.Error("the order of signing can be seen")
	}
	p, err := Read(both)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Signatures) != 2 {
		t.Fatalf("%d signatures", len(p.Signatures))
	}
	again, err := Write(p)
	if err != nil || !bytes.Equal(again, both) {
		t.Fatalf("reading and writing gives other bytes (error %v)", err)
	}
	// Without its signatures it is the package that was signed.
	p.Signatures = nil
	if again, err := Write(p); err != nil || !bytes.Equal(again, written(t)) {
		t.Errorf("the unsigned package has other bytes (error %v)", err)
	}
}

func TestSignTooOften(t *testing.T) {
	p := sample(t)
	for k := range sign.MaxSignatures {
		if err := p.Sign(testKey(t, byte(k))); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := Write(p); err != nil {
		t.Fatal(err)
	} else if _, err := Read(b); err != nil {
		t.Fatal(err)
	}
	if err := p.Sign(testKey(t, 200)); err == nil || len(p.Signatures) != sign.MaxSignatures {
		t.Errorf("error %v, %d signatures", err, len(p.Signatures))
	}
}

// A signature is of one manifest; nothing is written with another's.
func TestWriteRefusesForeignSignature(t *testing.T) {
	p := sample(t)
	if err := p.Sign(testKey(t, 1)); err != nil {
		t.Fatal(err)
	}
	p.Manifest.Name = "other"
	if _, err := Write(p); err == nil || !strings.Contains(err.Error(), "is not one of this manifest") {
		t.Errorf("error %v", err)
	}
}

func TestReadRefusesEverySignedMutant(t *testing.T) {
	good := signed(t, 1)
	bad := bytes.Clone(good)
	for i := range good {
		for _, x := range []byte{0x01, 0x20} {
			bad[i] = good[i] ^ x
			expectDamaged(t, bad, "byte %d ^ %#x", i, x)
		}
		bad[i] = good[i]
	}
}

// resealed makes the digest one of the bytes before it, as somebody would who
// changes a package on purpose.
func resealed(b []byte) []byte {
	b = bytes.Clone(b)
	at := len(b) - digestTail
	copy(b[at+block:], digestText(b[:at]))
	return b
}

// Whoever changes a signed package on purpose makes the digest fit, too. Every
// byte of the manifest, the signatures and the payloads is covered all the same.
func TestReadRefusesEveryForgery(t *testing.T) {
	good := signed(t, 1)
	bad := bytes.Clone(good)
	forged := 0
	for i := range len(good) - digestTail {
		for _, x := range []byte{0x01, 0x02} {
			bad[i] = good[i] ^ x
			_, err := Read(resealed(bad))
			var list refusal.List
			if !errors.As(err, &list) || len(list) != 1 {
				t.Fatalf("byte %d ^ %#x: error %v", i, x, err)
			}
			switch list[0].Code {
			case refusal.SignatureInvalid:
				forged++
			case refusal.PackageDamaged, refusal.Unsupported:
			default:
				t.Fatalf("byte %d ^ %#x: %v", i, x, err)
			}
		}
		bad[i] = good[i]
	}
	if forged < 500 {
		t.Errorf("only %d mutants came as far as the signatures", forged)
	}
}

// Members cannot be moved from one package to another.
func TestReadRefusesMovedSignature(t *testing.T) {
	other := sample(t)
	other.Manifest.Name = "fix2"
	if err := other.Sign(testKey(t, 1)); err != nil {
		t.Fatal(err)
	}
	theirs, err := Write(other)
	if err != nil {
		t.Fatal(err)
	}
	ours := signed(t, 1)
	from, to := bytes.Index(theirs, []byte(sign.Prefix)), bytes.Index(ours, []byte(sign.Prefix))
	n := bytes.IndexByte(theirs[from:], 0)
	copy(ours[to:to+n], theirs[from:from+n])
	_, err = Read(resealed(ours))
	var list refusal.List
	if !errors.As(err, &list) || list[0].Code != refusal.SignatureInvalid || list[0].Where != signatureMember {
		t.Errorf("error %v, want %s", err, refusal.SignatureInvalid)
	}
}

func TestReadNamesThePlaceInSignatures(t *testing.T) {
	good := signed(t, 1)
	at := bytes.Index(good, []byte(sign.Prefix))
	for _, tc := range []struct {
		at   int
		want string
	}{
		{at - block, fmt.Sprintf("payload/0.o: header differs at byte %#x", at-block)}, // the name: it is another member then
		{at - block + 20, fmt.Sprintf("manifest.sig: header differs at byte %#x", at-block+20)},
		{at, "manifest.sig: it does not begin with"},
		{at + len(sign.Prefix), "manifest.sig: line 2: no ed25519 signature"},
		{at + len(sign.Prefix) + 400, "manifest.sig: padding differs"},
	} {
		bad := bytes.Clone(good)
		bad[tc.at] ^= 0x40
		if _, err := Read(resealed(bad)); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("byte %#x: error %v, want %q", tc.at, err, tc.want)
		}
	}
}

// What docs/trust.md shows, how to verify a package without livepatch, works.
func TestOpenSSLVerifies(t *testing.T) {
	for _, prog := range []string{"openssl", "tar", "perl"} {
		if _, err := exec.LookPath(prog); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip("no " + prog + " on this machine")
		}
	}
	dir := t.TempDir()
	key := testKey(t, 1)
	for name, b := range map[string][]byte{"fix.lpatch": signed(t, 1), "release.key.pub": key.Public().PEM(), "release.key": key.PEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doc, err := os.ReadFile("../../docs/trust.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := ""
	for line := range strings.Lines(string(doc)) {
		if code, ok := strings.CutPrefix(line, "    "); ok && (strings.Contains(code, "openssl") || strings.Contains(code, "tar xOf")) {
			shown += code
		}
	}
	if strings.Count(shown, "\n") != 4 {
		t.Fatalf("docs/trust.md shows\n%s", shown)
	}
	out, err := script(dir, shown+`
		openssl pkeyutl -sign -inkey release.key -rawin -in signed -out again && cmp again signature
		openssl pkey -in release.key -pubout | cmp - release.key.pub
		echo x >>signed
		if openssl pkeyutl -verify -pubin -inkey release.key.pub -rawin -in signed -sigfile signature; then exit 1; fi`)
	if err != nil || !strings.HasPrefix(string(out), key.Public().ID()+"\nSignature Verified Successfully\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

func script(dir, text string) ([]byte, error) {
	bash := exec.Command("bash", "-ec", text)
	bash.Dir = dir
	return bash.CombinedOutput()
}
