package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"livepatch/internal/refusal"
	"livepatch/internal/sign"
	"livepatch/manifest"
)

// Read returns the package of a package file. Every byte must be the one that
// Write would have put there; otherwise the error is a refusal.List with code
// package-damaged that names the place, unsupported for a format of another
// version, or signature-invalid for a package that is whole but has a signature
// of something else. The members of the package refer to b.
func Read(b []byte) (*Package, error) {
	p, err := read(b)
	var damage *damageError
	var forged *signatureError
	var version *manifest.FormatVersionError
	switch {
	case err == nil:
		return p, nil
	case errors.As(err, &damage):
		return nil, refusal.List{refusal.New(refusal.PackageDamaged, damage.where, "%s", damage.text)}
	case errors.As(err, &forged):
		return nil, refusal.List{refusal.New(refusal.SignatureInvalid, signatureMember, "%v", forged)}
	case errors.As(err, &version):
		return nil, refusal.List{refusal.New(refusal.Unsupported, manifestMember, "%v", version)}
	}
	return nil, refusal.List{refusal.New(refusal.PackageDamaged, manifestMember, "%v", err)}
}

// A damageError says where a package file is not what Write wrote.
type damageError struct{ where, text string }

func (e *damageError) Error() string { return e.where + ": " + e.text }

// A signatureError says whose signature is not one of the manifest.
type signatureError struct{ key sign.PublicKey }

func (e *signatureError) Error() string {
	return "the signature of key " + e.key.ID() + " is not one of this manifest"
}

func damaged(where, format string, args ...any) error {
	return &damageError{where, fmt.Sprintf(format, args...)}
}

func read(b []byte) (*Package, error) {
	if err := checkFrame(b); err != nil {
		return nil, err
	}
	r := reader{b: b}
	text, err := r.member(manifestMember, -1)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(text)
	if err != nil {
		return nil, r.blame(err)
	}
	p := &Package{Manifest: m, Members: map[string][]byte{}}
	if p.Signatures, err = r.signatures(); err != nil {
		return nil, err
	}
	for _, pl := range m.Payloads() {
		data, err := r.member(pl.Member, pl.Size)
		if err != nil {
			return nil, err
		}
		p.Members[pl.Member] = data
	}
	if err := p.checkMembers(); err != nil {
		return nil, damaged("payload", "%v", err)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	// From here on the file is as somebody wrote it on purpose.
	for _, s := range p.Signatures {
		if !s.Covers(text) {
			return nil, &signatureError{s.Key}
		}
	}
	// All parts have been compared; the whole is compared too, so that this
	// does not rest on the parts having left no byte out.
	again, err := Write(p)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, damaged("package", "byte %#x differs from the canonical encoding", firstDifference(again, b))
	}
	return p, nil
}

// checkFrame refuses what cannot be a package before anything is read from it.
func checkFrame(b []byte) error {
	switch {
	case len(b) > MaxPackage:
		return damaged("package", "%d bytes are more than %d", len(b), MaxPackage)
	case len(b) < block+digestTail:
		return damaged("package", "%d bytes are too few to be a package", len(b))
	case string(b[257:263]) != "ustar\x00":
		return damaged("package", "not a package: no ustar archive")
	case len(b)%block != 0:
		return damaged("package", "%d bytes are not a whole number of blocks: the file was cut or extended", len(b))
	}
	return nil
}

// A reader walks the members of a package file.
type reader struct {
	b   []byte
	off int
}

// member returns the data of the next member, which must have the name and,
// unless it is negative, the size.
func (r *reader) member(name string, size int64) ([]byte, error) {
	start := r.off
	if len(r.b)-start < block {
		return nil, damaged(name, "the file ends before it, at byte %#x", len(r.b))
	}
	if size < 0 {
		n, err := headerSize(r.b[start : start+block])
		if err != nil {
			return nil, damaged(name, "header at byte %#x: %v", start, err)
		}
		size = n
	}
	want, err := header(name, size)
	if err != nil {
		return nil, damaged(name, "header at byte %#x: %v", start, err)
	}
	if have := r.b[start : start+block]; !bytes.Equal(have, want) {
		return nil, damaged(name, "header differs at byte %#x", start+firstDifference(have, want))
	}
	rest := r.b[start+block:]
	if size > int64(len(rest)) {
		return nil, damaged(name, "the file ends within it, at byte %#x", len(r.b))
	}
	data, padded := rest[:size:size], (int(size)+block-1)/block*block
	if padded > len(rest) {
		return nil, damaged(name, "the file ends within it, at byte %#x", len(r.b))
	}
	for i := int(size); i < padded; i++ {
		if rest[i] != 0 {
			return nil, damaged(name, "padding differs at byte %#x", start+block+i)
		}
	}
	r.off = start + block + padded
	return data, nil
}

// signatures reads the member that is there only if the package is signed.
func (r *reader) signatures() ([]sign.Signature, error) {
	if !bytes.HasPrefix(r.b[r.off:], []byte(signatureMember+"\x00")) {
		return nil, nil
	}
	data, err := r.member(signatureMember, -1)
	if err != nil {
		return nil, err
	}
	list, err := sign.Decode(data)
	if err != nil {
		return nil, damaged(signatureMember, "%v", err)
	}
	return list, nil
}

// end checks the digest and that only the archive's trailer follows it.
func (r *reader) end() error {
	sealed := r.off
	data, err := r.member(digestMember, int64(len(digestText(nil))))
	if err != nil {
		return err
	}
	if want := digestText(r.b[:sealed]); !bytes.Equal(data, want) {
		return damaged(digestMember, "it is not the digest of the %d bytes before it", sealed)
	}
	rest := r.b[r.off:]
	if len(rest) != trailer {
		return damaged("package", "%d bytes follow the last member, not %d", len(rest), trailer)
	}
	for i, v := range rest {
		if v != 0 {
			return damaged("package", "trailer differs at byte %#x", r.off+i)
		}
	}
	return nil
}

// blame tells a manifest that was changed after it was built from one that a
// different livepatch built.
func (r *reader) blame(err error) error {
	at := len(r.b) - digestTail
	if !bytes.HasPrefix(r.b[at+block:], digestText(r.b[:at])) {
		return damaged(manifestMember, "%v", err)
	}
	return err
}

// header is the one header that a member of this name and size may have.
func header(name string, size int64) ([]byte, error) {
	var out bytes.Buffer
	h := &tar.Header{Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}
	if err := tar.NewWriter(&out).WriteHeader(h); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// headerSize reads the size field of a ustar header: eleven octal digits.
func headerSize(h []byte) (int64, error) {
	n, err := strconv.ParseUint(string(h[124:135]), 8, 40)
	if err != nil {
		return 0, fmt.Errorf("size field %.12q is no octal number", h[124:136])
	}
	if n > MaxManifest {
		return 0, fmt.Errorf("size %d is more than %d", n, MaxManifest)
	}
	return int64(n), nil
}

func firstDifference(a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}
