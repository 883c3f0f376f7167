// Package pack writes and reads the package file: a POSIX ustar archive with
// exactly one encoding per content. Its members are manifest.json, manifest.sig
// if the package is signed, the payloads in the order of the manifest, and
// digest, the SHA-256 of every byte before the header of digest. Times are zero, owners and modes fixed. Nothing that
// differs from what Write would write is accepted, so that a package is either
// byte for byte what was built or refused.
package pack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"livepatch/internal/sign"
	"livepatch/manifest"
)

const (
	manifestMember  = "manifest.json"
	signatureMember = "manifest.sig"
	digestMember    = "digest"

	block      = 512
	trailer    = 2 * block // zeros at the end of an archive
	digestTail = block + block + trailer

	// MaxManifest and MaxPackage are the most bytes that are read or written.
	MaxManifest = 16 << 20
	MaxPackage  = 256 << 20
)

// Package is a manifest and the members that it names.
type Package struct {
	Manifest *manifest.Manifest
	Members  map[string][]byte // by the member names of the payloads

	// Signatures are of the encoded manifest, in the order of their keys; nil
	// if the package is not signed. Only those that cover it are written and
	// accepted: a manifest that was changed has to be signed anew.
	Signatures []sign.Signature
}

// Sign adds a signature, which covers the payloads by their digests.
func (p *Package) Sign(key sign.PrivateKey) error {
	text, err := manifest.Encode(p.Manifest)
	if err != nil {
		return fmt.Errorf("sign package: %w", err)
	}
	list := sign.Add(p.Signatures, key.Sign(text))
	if len(list) > sign.MaxSignatures {
		return fmt.Errorf("sign package: it has %d signatures already", len(p.Signatures))
	}
	p.Signatures = list
	return nil
}

// Digest is the digest that the last member of a package file states, in
// hexadecimal. b must be what Write wrote or Read accepted.
func Digest(b []byte) string {
	sum := sha256.Sum256(b[:max(0, len(b)-digestTail)])
	return hex.EncodeToString(sum[:])
}

// Write returns the bytes of the package file. The members must be exactly
// those that the manifest names, of the size and SHA-256 it states.
func Write(p *Package) ([]byte, error) {
	text, err := manifest.Encode(p.Manifest)
	if err != nil {
		return nil, fmt.Errorf("write package: %w", err)
	}
	if len(text) > MaxManifest {
		return nil, fmt.Errorf("write package: manifest has %d bytes, more than %d", len(text), MaxManifest)
	}
	if err := p.checkMembers(); err != nil {
		return nil, fmt.Errorf("write package: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := add(w, manifestMember, text); err != nil {
		return nil, err
	}
	if err := p.addSignatures(w, text); err != nil {
		return nil, err
	}
	for _, pl := range p.Manifest.Payloads() {
		if err := add(w, pl.Member, p.Members[pl.Member]); err != nil {
			return nil, err
		}
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("write package: %w", err)
	}
	if err := add(w, digestMember, digestText(out.Bytes())); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write package: %w", err)
	}
	if out.Len() > MaxPackage {
		return nil, fmt.Errorf("write package: it would have %d bytes, more than %d", out.Len(), MaxPackage)
	}
	return out.Bytes(), nil
}

func (p *Package) addSignatures(w *tar.Writer, text []byte) error {
	if len(p.Signatures) == 0 {
		return nil
	}
	for _, s := range p.Signatures {
		if !s.Covers(text) {
			return fmt.Errorf("write package: the signature of key %s is not one of this manifest", s.Key.ID())
		}
	}
	data, err := sign.Encode(p.Signatures)
	if err != nil {
		return fmt.Errorf("write package: member %s: %w", signatureMember, err)
	}
	return add(w, signatureMember, data)
}

func digestText(b []byte) []byte {
	sum := sha256.Sum256(b)
	return fmt.Appendf(nil, "sha256 %x\n", sum)
}

func add(w *tar.Writer, name string, data []byte) error {
	h := &tar.Header{Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("write package: member %s: %w", name, err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write package: member %s: %w", name, err)
	}
	return nil
}

// checkMembers compares the members with what the manifest says of them.
func (p *Package) checkMembers() error {
	payloads := p.Manifest.Payloads()
	for _, pl := range payloads {
		data, ok := p.Members[pl.Member]
		if !ok {
			return fmt.Errorf("member %s is missing", pl.Member)
		}
		if int64(len(data)) != pl.Size {
			return fmt.Errorf("member %s has %d bytes, not %d as the manifest says", pl.Member, len(data), pl.Size)
		}
		if sum := sha256.Sum256(data); !slices.Equal(sum[:], pl.SHA256) {
			return fmt.Errorf("member %s has SHA-256 %x, not %s as the manifest says", pl.Member, sum, pl.SHA256)
		}
	}
	if have, want := len(p.Members), len(payloads); have != want {
		return fmt.Errorf("%d members for %d payloads", have, want)
	}
	return nil
}
