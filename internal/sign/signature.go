package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Prefix begins the member manifest.sig, and what is signed: a signature is
// over this line and the bytes of manifest.json. No other use of the same key
// can be taken for one.
const Prefix = "livepatch-signature/1\n"

// MaxSignatures is the most signatures of one package.
const MaxSignatures = 16

// algorithm begins the line of a signature.
const algorithm = "ed25519"

// lineSize is the size of such a line with its newline.
const lineSize = len(algorithm) + 1 + 2*ed25519.PublicKeySize + 1 + 2*ed25519.SignatureSize + 1

// MaxMember is the most bytes of the member manifest.sig.
const MaxMember = len(Prefix) + MaxSignatures*lineSize

// Signature is a signature and the key that it was made with.
type Signature struct {
	Key   PublicKey
	Value [ed25519.SignatureSize]byte
}

// Sign signs a manifest. The same key and manifest give the same signature.
func (k PrivateKey) Sign(manifest []byte) Signature {
	return Signature{k.Public(), [ed25519.SignatureSize]byte(ed25519.Sign(k.key, message(manifest)))}
}

// Covers reports whether the signature is one of this manifest by its key.
func (s Signature) Covers(manifest []byte) bool {
	return ed25519.Verify(s.Key[:], message(manifest), s.Value[:])
}

func message(manifest []byte) []byte { return append([]byte(Prefix), manifest...) }

func byKey(a, b Signature) int { return bytes.Compare(a.Key[:], b.Key[:]) }

// Add returns the list with a signature; one by the same key makes way.
func Add(list []Signature, s Signature) []Signature {
	out := slices.DeleteFunc(slices.Clone(list), func(o Signature) bool { return o.Key == s.Key })
	out = append(out, s)
	slices.SortFunc(out, byKey)
	return out
}

// Encode returns the member manifest.sig: Prefix, then a line for each
// signature, in the order of their keys.
func Encode(list []Signature) ([]byte, error) {
	if n := len(list); n < 1 || n > MaxSignatures {
		return nil, fmt.Errorf("%d signatures, not 1 to %d", n, MaxSignatures)
	}
	out := []byte(Prefix)
	for i, s := range list {
		if i > 0 && byKey(list[i-1], s) >= 0 {
			return nil, fmt.Errorf("signature %d is not in the order of the keys", i+1)
		}
		out = fmt.Appendf(out, "%s %x %x\n", algorithm, s.Key, s.Value)
	}
	return out, nil
}

// Decode reads what Encode wrote and nothing else.
func Decode(b []byte) ([]Signature, error) {
	text, ok := strings.CutPrefix(string(b[:min(len(b), MaxMember+1)]), Prefix)
	if !ok {
		return nil, fmt.Errorf("it does not begin with %q", strings.TrimSpace(Prefix))
	}
	var list []Signature
	for line := range strings.Lines(text) {
		s, err := decodeLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(list)+2, err)
		}
		list = append(list, s)
	}
	again, err := Encode(list)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("it is not in the canonical encoding")
	}
	return list, nil
}

func decodeLine(line string) (s Signature, err error) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 3 || f[0] != algorithm || len(line) != lineSize {
		return s, fmt.Errorf("no %s signature", algorithm)
	}
	if len(f[1]) != hex.EncodedLen(len(s.Key)) || len(f[2]) != hex.EncodedLen(len(s.Value)) {
		return s, fmt.Errorf("the key or the signature has another length")
	}
	if _, err := hex.Decode(s.Key[:], []byte(f[1])); err != nil {
		return s, fmt.Errorf("read the key: %w", err)
	}
	if _, err := hex.Decode(s.Value[:], []byte(f[2])); err != nil {
		return s, fmt.Errorf("read the signature: %w", err)
	}
	return s, nil
}
