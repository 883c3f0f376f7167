package kmod

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// openssl runs openssl in a directory.
func openssl(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, "openssl"), args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// keyPair makes a key and a certificate for it.
func keyPair(t testing.TB, kind ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	openssl(t, dir, append([]string{"genpkey", "-out", "key.pem"}, kind...)...)
	openssl(t, dir, "req", "-new", "-x509", "-key", "key.pem", "-out", "cert.pem", "-days", "36500", "-subj", "/O=tests/CN=module key")
	openssl(t, dir, "x509", "-in", "cert.pem", "-outform", "DER", "-out", "cert.der")
	return dir
}

var (
	rsaKey = []string{"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}
	ecKey  = []string{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"}
)

// TestSign compares with openssl, which makes the messages of sign-file with
// these options, and has it verify EC signatures.
func TestSign(t *testing.T) {
	module := bytes.Repeat([]byte("a module"), 1000)
	for name, kind := range map[string][]string{"RSA": rsaKey, "EC": ecKey} {
		dir := keyPair(t, kind...)
		for _, hash := range []string{"sha256", "sha384", "sha512"} {
			s, err := NewSigner(testkit.Read(t, dir+"/key.pem"), testkit.Read(t, dir+"/cert.der"), hash)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := s.Sign(module)
			if err != nil {
				t.Fatal(err)
			}
			message, ok := bytes.CutSuffix(signed, []byte(signatureMark))
			if !ok || !bytes.HasPrefix(signed, module) {
				t.Fatalf("%s %s: not a module with a signature", name, hash)
			}
			tail := message[len(message)-12:]
			message = message[len(module) : len(message)-12]
			if n := binary.BigEndian.Uint32(tail[8:]); int(n) != len(message) || !bytes.Equal(tail[:8], []byte{0, 0, 2, 0, 0, 0, 0, 0}) {
				t.Errorf("%s %s: tail %x for %d bytes", name, hash, tail, len(message))
			}
			for file, b := range map[string][]byte{"module": module, "message": message} {
				if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if name == "RSA" {
				openssl(t, dir, "cms", "-sign", "-binary", "-nocerts", "-noattr", "-nosmimecap", "-md", hash, "-in", "module",
					"-signer", "cert.pem", "-inkey", "key.pem", "-outform", "DER", "-out", "theirs")
				if theirs := testkit.Read(t, dir+"/theirs"); !bytes.Equal(theirs, message) {
					t.Errorf("%s: openssl signs\n%x, this\n%x", hash, theirs, message)
				}
			}
			openssl(t, dir, "cms", "-verify", "-binary", "-inform", "DER", "-in", "message", "-content", "module", "-certfile", "cert.pem",
				"-CAfile", "cert.pem", "-purpose", "any", "-out", "verified")
			again, err := s.Sign(module)
			if err != nil || !bytes.Equal(again, signed) {
				t.Errorf("%s %s: two signatures differ (%v)", name, hash, err)
			}
			if _, err := s.Sign(signed); err == nil {
				t.Errorf("%s %s: a signed module is signed again", name, hash)
			}
		}
	}
}

func TestNewSignerRefuses(t *testing.T) {
	dir, other := keyPair(t, rsaKey...), keyPair(t, ecKey...)
	openssl(t, dir, "pkcs8", "-topk8", "-in", "key.pem", "-out", "encrypted.pem", "-passout", "pass:x")
	openssl(t, dir, "rsa", "-in", "key.pem", "-traditional", "-out", "pkcs1.pem")
	openssl(t, dir, "rsa", "-in", "key.pem", "-traditional", "-aes128", "-passout", "pass:x", "-out", "encrypted1.pem")
	openssl(t, other, "ec", "-in", "key.pem", "-out", "sec1.pem")
	openssl(t, dir, "genpkey", "-algorithm", "ED25519", "-out", "ed.pem")
	key, cert := testkit.Read(t, dir+"/key.pem"), testkit.Read(t, dir+"/cert.pem")
	for _, good := range [][3][]byte{
		{key, cert}, {testkit.Read(t, dir+"/pkcs1.pem"), cert}, {testkit.Read(t, other+"/sec1.pem"), testkit.Read(t, other+"/cert.pem")},
		{append(bytes.Clone(cert), key...), append(bytes.Clone(cert), key...)},
	} {
		if _, err := NewSigner(good[0], good[1], ""); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []struct {
		key, cert []byte
		hash      string
		want      string
	}{
		{key, cert, "md5", `digest "md5" is not supported`},
		{cert, cert, "", "no private key"},
		{key, key, "", "no certificate"},
		{key, testkit.Read(t, other+"/cert.pem"), "", "not that of the key"},
		{testkit.Read(t, dir+"/encrypted.pem"), cert, "", "encrypted"},
		{testkit.Read(t, dir+"/encrypted1.pem"), cert, "", "encrypted"},
		{testkit.Read(t, dir+"/ed.pem"), cert, "", "cannot sign modules"},
		{key, []byte{0x30, 0x82, 1}, "", "read the certificate"},
		{nil, nil, "", "no private key"},
	} {
		if _, err := NewSigner(bad.key, bad.cert, bad.hash); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("want an error with %q, got %v", bad.want, err)
		}
	}
}

func FuzzNewSigner(f *testing.F) {
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n"), []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"), []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, key, cert []byte) {
		if s, err := NewSigner(key, cert, "sha512"); err == nil {
			if _, err := s.Sign(key); err != nil {
				t.Log(err)
			}
		}
	})
}
