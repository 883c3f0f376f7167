package sign

import (
	"slices"
	"strings"

	"livepatch/internal/refusal"
)

// NamedKey is a public key and the file that it is from.
type NamedKey struct {
	Name string // path of the file
	Key  PublicKey
}

// Policy is what is demanded of the signatures of a package. The zero value
// demands nothing. Its parts add up: none of them makes another one weaker.
type Policy struct {
	Required []NamedKey // every one of these keys must have signed
	Trusted  *Directory // one of these must have; nil without a directory
}

// Directory is the trust directory of a machine.
type Directory struct {
	Path string
	Keys []NamedKey
}

// Demands reports whether there is anything to satisfy.
func (p Policy) Demands() bool { return len(p.Required) > 0 || p.Trusted != nil }

// where is the place of refusals: the member that holds the signatures.
const where = "manifest.sig"

// Judge compares signatures, which must cover the manifest, with the demand.
// The list has every reason against them.
func (p Policy) Judge(list []Signature) refusal.List {
	if !p.Demands() {
		return nil
	}
	if len(list) == 0 {
		return refusal.List{refusal.New(refusal.SignatureMissing, where, "the package is not signed; %s", p.words())}
	}
	var out refusal.List
	for _, k := range p.Required {
		if !has(list, k.Key) {
			out = append(out, refusal.New(refusal.SignatureUntrusted, where, "not signed with %s of %s, but with %s", k.Key.ID(), k.Name, ids(list)))
		}
	}
	if d := p.Trusted; d != nil && !slices.ContainsFunc(d.Keys, func(k NamedKey) bool { return has(list, k.Key) }) {
		out = append(out, refusal.New(refusal.SignatureUntrusted, where, "signed with %s, which is not among %s of %s", ids(list), count(len(d.Keys)), d.Path))
	}
	return out
}

// words says what is demanded.
func (p Policy) words() string {
	var parts []string
	for _, k := range p.Required {
		parts = append(parts, "key "+k.Key.ID()+" of "+k.Name+" is required")
	}
	if d := p.Trusted; d != nil {
		parts = append(parts, "one of "+count(len(d.Keys))+" of "+d.Path+" has to have signed")
	}
	return strings.Join(parts, ", and ")
}

func count(n int) string {
	if n == 0 {
		return "the keys (there are none)"
	}
	return "the keys"
}

// Name returns the file in which the demand names a key, "" if it does not.
func (p Policy) Name(key PublicKey) string {
	all := p.Required
	if p.Trusted != nil {
		all = slices.Concat(all, p.Trusted.Keys)
	}
	for _, k := range all {
		if k.Key == key {
			return k.Name
		}
	}
	return ""
}

func has(list []Signature, key PublicKey) bool {
	return slices.ContainsFunc(list, func(s Signature) bool { return s.Key == key })
}

func ids(list []Signature) string {
	var out []string
	for _, s := range list {
		out = append(out, s.Key.ID())
	}
	return strings.Join(out, ", ")
}
