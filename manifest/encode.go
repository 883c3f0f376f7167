package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// MarshalJSON writes the bytes as a JSON string of lower-case hexadecimal.
func (h Hex) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2+hex.EncodedLen(len(h)))
	b = append(b, '"')
	b = hex.AppendEncode(b, h)
	return append(b, '"'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote and nothing else: upper-case
// digits, null and escapes are errors.
func (h *Hex) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return fmt.Errorf("bytes must be a string of hexadecimal digits, not %.20s", b)
	}
	digits := b[1 : len(b)-1]
	if i := bytes.IndexFunc(digits, notLowerHex); i >= 0 {
		return fmt.Errorf("bytes must be lower-case hexadecimal, not %.20q", digits[i:])
	}
	out := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(out, digits); err != nil {
		return fmt.Errorf("read hexadecimal bytes: %w", err)
	}
	*h = out
	return nil
}

func notLowerHex(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }

func (h Hex) String() string { return hex.EncodeToString(h) }

// Encode returns the one encoding of a manifest: JSON indented by two spaces,
// keys in the order of the types, every list present, a newline at the end.
// A manifest that Validate refuses is not encoded.
func Encode(m *Manifest) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return marshal(m)
}

// Digest is the SHA-256 of the encoding of a manifest. As that holds the digests
// of all payloads, it stands for the package whether that is signed or not.
func Digest(m *Manifest) ([sha256.Size]byte, error) {
	b, err := Encode(m)
	return sha256.Sum256(b), err
}

func marshal(m *Manifest) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // C++ names are full of < and >
	enc.SetIndent("", "  ")
	if err := enc.Encode(listed(m)); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return out.Bytes(), nil
}

// listed is m with empty lists for nil ones, so that a list is never null and
// an absent list and an empty one have the same encoding.
func listed(m *Manifest) *Manifest {
	c := *m
	c.Targets = make([]Target, len(m.Targets))
	for i, t := range m.Targets {
		t.Functions = nonNil(t.Functions)
		t.Variables = nonNil(t.Variables)
		t.Imports = nonNil(t.Imports)
		t.Writes = append([]Write{}, t.Writes...)
		for j := range t.Writes {
			t.Writes[j].Holes = nonNil(t.Writes[j].Holes)
		}
		c.Targets[i] = t
	}
	if m.Kernel != nil {
		c.Kernel = listedKernel(*m.Kernel)
	}
	if m.Build != nil {
		c.Build = listedBuild(*m.Build)
	}
	return &c
}

func listedBuild(b Build) *Build {
	b.CVE, b.Inputs, b.Findings = nonNil(b.CVE), nonNil(b.Inputs), nonNil(b.Findings)
	b.Units, b.Proofs = append([]Unit{}, b.Units...), append([]Proof{}, b.Proofs...)
	for i := range b.Units {
		b.Units[i].Flags = nonNil(b.Units[i].Flags)
	}
	for i := range b.Proofs {
		b.Proofs[i].Masked = nonNil(b.Proofs[i].Masked)
	}
	return &b
}

func listedKernel(k Kernel) *Kernel {
	k.Exports, k.States, k.Warnings = nonNil(k.Exports), nonNil(k.States), nonNil(k.Warnings)
	k.Objects = append([]KernelObject{}, k.Objects...)
	for i := range k.Objects {
		o := &k.Objects[i]
		o.Functions, o.Symbols, o.Callbacks = nonNil(o.Functions), nonNil(o.Symbols), nonNil(o.Callbacks)
	}
	return &k
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// A FormatVersionError says that a manifest is of a format that this program
// does not know, such as that of a later livepatch.
type FormatVersionError struct{ Format string }

func (e *FormatVersionError) Error() string {
	return fmt.Sprintf("manifest format %.40q is not %q", e.Format, Format)
}

// Decode reads what Encode wrote. It is strict: an unknown or repeated key, a
// missing one, another spelling of the same value, and anything after the
// manifest are errors, so that one manifest has one sequence of bytes. The
// manifest is valid when the error is nil.
func Decode(b []byte) (*Manifest, error) {
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if head.Format != Format {
		return nil, fmt.Errorf("decode manifest: %w", &FormatVersionError{head.Format})
	}
	m := new(Manifest)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	again, err := marshal(m)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("decode manifest: %s", difference(b, again))
	}
	return m, nil
}

// difference names the first line at which b is not the canonical encoding.
func difference(b, canonical []byte) string {
	i := 0
	for i < len(b) && i < len(canonical) && b[i] == canonical[i] {
		i++
	}
	if i == len(canonical) {
		return fmt.Sprintf("%d bytes follow the end of the manifest", len(b)-i)
	}
	line := 1 + bytes.Count(b[:i], []byte("\n"))
	return fmt.Sprintf("byte %d (line %d): not in the canonical encoding", i, line)
}
