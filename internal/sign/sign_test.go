package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"livepatch/internal/refusal"
)

// key is a private key whose seed is one byte repeated.
func key(b byte) PrivateKey {
	k, err := Generate(bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
	if err != nil {
		panic(err)
	}
	return k
}

// The example of RFC 8410, section 10: a private key, and the public key of 10.1.
const (
	rfcPrivate = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"
	rfcPublic  = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
)

func TestKeysOfTheRFC(t *testing.T) {
	private, err := ParsePrivate([]byte(rfcPrivate))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublic([]byte(rfcPublic))
	if err != nil {
		t.Fatal(err)
	}
	if private.Public() != public {
		t.Error("the public key of the private one is another")
	}
	if got := string(private.PEM()); got != rfcPrivate {
		t.Errorf("private key is written as %s", got)
	}
	if got := string(public.PEM()); got != rfcPublic {
		t.Errorf("public key is written as %s", got)
	}
	if id := public.ID(); id != "a1e9156054e04fac899ae9f275132cdc" {
		t.Errorf("id %s", id)
	}
}

func TestGenerateNeedsRandomness(t *testing.T) {
	if _, err := Generate(strings.NewReader("short")); err == nil {
		t.Error("a key of five bytes")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"empty", "", "does not begin with a key"},
		{"words before", "my key\n" + rfcPublic, "does not begin with a key"},
		{"words after", rfcPublic + "bob", "something follows"},
		{"two keys", rfcPublic + rfcPublic, "something follows"},
		{"private key", rfcPrivate, `it holds a "PRIVATE KEY", not a "PUBLIC KEY"`},
		{"encrypted", strings.ReplaceAll(rfcPublic, "PUBLIC", "ENCRYPTED PRIVATE"), "encrypted"},
		{"header", strings.Replace(rfcPublic, "\nMC", "\nName: x\n\nMC", 1), "has PEM headers"},
		{"X25519", strings.Replace(rfcPublic, "K2VwAyEA", "K2VuAyEA", 1), "no Ed25519 key"},
		{"short", "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n", "no Ed25519 key"},
		{"long", strings.Repeat(" ", MaxKeyFile) + rfcPublic, "too many"},
	} {
		if _, err := ParsePublic([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := ParsePrivate([]byte(rfcPublic)); err == nil {
		t.Error("a public key is read as a private one")
	}
}

func TestParseAllowsBlanks(t *testing.T) {
	if _, err := ParsePublic([]byte("\n" + strings.ReplaceAll(rfcPublic, "\n", "\r\n") + "\n")); err != nil {
		t.Error(err)
	}
}

func TestSignatures(t *testing.T) {
	manifest := []byte("{}\n")
	a, b := key(1).Sign(manifest), key(2).Sign(manifest)
	list := Add(Add(Add(nil, a), b), a)
	if len(list) != 2 {
		t.Fatalf("%d signatures of two keys", len(list))
	}
	for _, s := range list {
		if !s.Covers(manifest) || s.Covers([]byte("{} \n")) || s.Covers(nil) {
			t.Error("a signature covers something else than what was signed")
		}
	}
	// The bytes that are signed, without this package.
	if !ed25519.Verify(a.Key[:], []byte("livepatch-signature/1\n{}\n"), a.Value[:]) || ed25519.Verify(a.Key[:], manifest, a.Value[:]) {
		t.Error("not what docs/trust.md says is signed")
	}
	text, err := Encode(list)
	if err != nil {
		t.Fatal(err)
	}
	want := "livepatch-signature/1\n"
	for _, s := range list {
		want += "ed25519 " + hex.EncodeToString(s.Key[:]) + " " + hex.EncodeToString(s.Value[:]) + "\n"
	}
	if string(text) != want {
		t.Errorf("encoded as\n%s, want\n%s", text, want)
	}
	again, err := Decode(text)
	if err != nil || len(again) != 2 || again[0] != list[0] || again[1] != list[1] {
		t.Errorf("decoded as %v, error %v", again, err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	a, b := key(1).Sign(nil), key(2).Sign(nil)
	if bytes.Compare(a.Key[:], b.Key[:]) > 0 {
		a, b = b, a
	}
	for name, list := range map[string][]Signature{"none": nil, "many": make([]Signature, MaxSignatures+1), "order": {b, a}, "twice": {a, a}} {
		if _, err := Encode(list); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// Whatever differs from what Encode writes is refused.
func TestDecodeRefuses(t *testing.T) {
	good, err := Encode(Add([]Signature{key(1).Sign(nil)}, key(2).Sign(nil)))
	if err != nil {
		t.Fatal(err)
	}
	line := strings.SplitAfter(string(good), "\n")[1]
	for name, text := range map[string]string{
		"empty":      "",
		"no line":    Prefix,
		"version":    strings.Replace(string(good), "/1", "/2", 1),
		"algorithm":  strings.Replace(string(good), "ed25519", "ed25518", 1),
		"upper case": Prefix + "ed25519" + strings.ToUpper(line[7:]),
		"no digit":   Prefix + strings.Replace(line, line[8:10], "xx", 1),
		"blanks":     strings.ReplaceAll(string(good), " ", "  "),
		"CR":         strings.ReplaceAll(string(good), "\n", "\r\n"),
		"cut":        string(good[:len(good)-1]),
		"more":       string(good) + "\n",
		"twice":      Prefix + line + line,
		"huge":       Prefix + strings.Repeat(line, 1000),
	} {
		if list, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: decoded as %d signatures", name, len(list))
		}
	}
}

func TestPolicy(t *testing.T) {
	a, b, c := key(1), key(2), key(3)
	named := func(name string, k PrivateKey) NamedKey { return NamedKey{name, k.Public()} }
	signed := func(keys ...PrivateKey) (list []Signature) {
		for _, k := range keys {
			list = Add(list, k.Sign(nil))
		}
		return list
	}
	both := &Directory{"/trusted", []NamedKey{named("/trusted/a.pub", a), named("/trusted/b.pub", b)}}
	for _, tc := range []struct {
		name   string
		policy Policy
		list   []Signature
		want   []refusal.Code
	}{
		{"nothing demanded, not signed", Policy{}, nil, nil},
		{"nothing demanded, signed", Policy{}, signed(c), nil},
		{"required", Policy{Required: []NamedKey{named("a.pub", a)}}, signed(a, c), nil},
		{"required, not signed", Policy{Required: []NamedKey{named("a.pub", a)}}, nil, []refusal.Code{refusal.SignatureMissing}},
		{"another", Policy{Required: []NamedKey{named("a.pub", a)}}, signed(b), []refusal.Code{refusal.SignatureUntrusted}},
		{"all required", Policy{Required: []NamedKey{named("a.pub", a), named("b.pub", b)}}, signed(a, b), nil},
		{"one of two required", Policy{Required: []NamedKey{named("a.pub", a), named("b.pub", b)}}, signed(b), []refusal.Code{refusal.SignatureUntrusted}},
		{"one trusted", Policy{Trusted: both}, signed(b, c), nil},
		{"none trusted", Policy{Trusted: both}, signed(c), []refusal.Code{refusal.SignatureUntrusted}},
		{"trusted, not signed", Policy{Trusted: both}, nil, []refusal.Code{refusal.SignatureMissing}},
		{"empty directory", Policy{Trusted: &Directory{Path: "/trusted"}}, signed(a), []refusal.Code{refusal.SignatureUntrusted}},
		{"empty directory, not signed", Policy{Trusted: &Directory{Path: "/trusted"}}, nil, []refusal.Code{refusal.SignatureMissing}},
		{"a required key does not widen the directory", Policy{Required: []NamedKey{named("c.pub", c)}, Trusted: both}, signed(c), []refusal.Code{refusal.SignatureUntrusted}},
		{"a trusted key does not stand for a required one", Policy{Required: []NamedKey{named("c.pub", c)}, Trusted: both}, signed(a), []refusal.Code{refusal.SignatureUntrusted}},
		{"both", Policy{Required: []NamedKey{named("c.pub", c)}, Trusted: both}, signed(a, c), nil},
	} {
		got := tc.policy.Judge(tc.list)
		var codes []refusal.Code
		for _, r := range got {
			codes = append(codes, r.Code)
		}
		if len(codes) != len(tc.want) || len(codes) > 0 && codes[0] != tc.want[0] {
			t.Errorf("%s: %v, want %v", tc.name, errors.Join(got.Err()), tc.want)
		}
	}
	if n := (Policy{Trusted: both}).Name(b.Public()); n != "/trusted/b.pub" {
		t.Errorf("key b is called %q", n)
	}
	if n := (Policy{}).Name(b.Public()); n != "" {
		t.Errorf("an unknown key is called %q", n)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte(rfcPublic))
	f.Add([]byte(rfcPrivate))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParsePublic(b); err == nil {
			if again, err := ParsePublic(k.PEM()); err != nil || again != k {
				t.Fatalf("a key that was read is written as another (error %v)", err)
			}
		}
		if k, err := ParsePrivate(b); err == nil {
			if again, err := ParsePrivate(k.PEM()); err != nil || again.Public() != k.Public() {
				t.Fatalf("a key that was read is written as another (error %v)", err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	if b, err := Encode([]Signature{key(1).Sign(nil)}); err == nil {
		f.Add(b)
	}
	f.Add([]byte(Prefix))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Decode(b)
		if err != nil {
			return
		}
		if again, err := Encode(list); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("signatures that were read are written as other bytes (error %v)", err)
		}
	})
}
