// Package sign owns the keys and signatures of packages: their text formats,
// what a signature is over, and whether signatures satisfy a demand. It is pure;
// who may have changed a key file is asked by internal/trust. The formats are
// described in docs/trust.md.
package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// PublicKey is an Ed25519 public key (RFC 8032).
type PublicKey [ed25519.PublicKeySize]byte

// PrivateKey is an Ed25519 private key. Its zero value is none.
type PrivateKey struct{ key ed25519.PrivateKey }

// The DER of a key is this and its 32 bytes: RFC 8410, section 4 (public) and
// section 7 (private), as OpenSSL writes them. There is nothing else that
// could be in it, so it is compared and not parsed.
const (
	publicDER  = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
	privateDER = "\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"

	publicPEM  = "PUBLIC KEY"
	privatePEM = "PRIVATE KEY"
)

// MaxKeyFile is the most bytes of a key file.
const MaxKeyFile = 4096

// Generate makes a private key of 32 random bytes.
func Generate(random io.Reader) (PrivateKey, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return PrivateKey{}, fmt.Errorf("make a key: %w", err)
	}
	return PrivateKey{ed25519.NewKeyFromSeed(seed[:])}, nil
}

// Public is the public half of the key.
func (k PrivateKey) Public() PublicKey { return PublicKey(k.key.Public().(ed25519.PublicKey)) }

// IsZero reports that there is no key.
func (k PrivateKey) IsZero() bool { return k.key == nil }

// PEM is the one text of a private key: PKCS #8 as RFC 8410 has it.
func (k PrivateKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: privatePEM, Bytes: append([]byte(privateDER), k.key.Seed()...)})
}

// PEM is the one text of a public key: SubjectPublicKeyInfo.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicPEM, Bytes: k.der()})
}

func (k PublicKey) der() []byte { return append([]byte(publicDER), k[:]...) }

// ID names the key: the first 16 bytes of the SHA-256 of its DER, in
// hexadecimal.
func (k PublicKey) ID() string {
	sum := sha256.Sum256(k.der())
	return hex.EncodeToString(sum[:16])
}

// ParsePublic reads a public key.
func ParsePublic(b []byte) (PublicKey, error) {
	raw, err := parse(b, publicPEM, publicDER)
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey(raw), nil
}

// ParsePrivate reads a private key that is not encrypted.
func ParsePrivate(b []byte) (PrivateKey, error) {
	raw, err := parse(b, privatePEM, privateDER)
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{ed25519.NewKeyFromSeed(raw)}, nil
}

// parse returns the 32 bytes of a key. A file holds one key and nothing else:
// of two, or of a key with words around it, nobody could say what was meant.
func parse(b []byte, kind, prefix string) ([]byte, error) {
	if len(b) > MaxKeyFile {
		return nil, fmt.Errorf("%d bytes are too many for a key", len(b))
	}
	text := bytes.TrimSpace(b)
	block, rest := pem.Decode(text)
	switch {
	case block == nil || !bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return nil, errors.New("it does not begin with a key in PEM")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something follows the key")
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the key is encrypted, which livepatch does not read")
	case block.Type != kind:
		return nil, fmt.Errorf("it holds a %.40q, not a %q", block.Type, kind)
	case len(block.Headers) > 0:
		return nil, errors.New("the key has PEM headers")
	case !bytes.HasPrefix(block.Bytes, []byte(prefix)) || len(block.Bytes) != len(prefix)+ed25519.SeedSize:
		return nil, errors.New("it is no Ed25519 key")
	}
	return block.Bytes[len(prefix):], nil
}
