package check

import (
	"fmt"

	"livepatch/internal/pack"
	"livepatch/internal/sign"
)

// Signer is a signature of a package. It is a good one: a package with another
// is not read.
type Signer struct {
	Key       string `json:"key"`                // id
	PublicKey string `json:"public_key"`         // hexadecimal
	Named     string `json:"named_in,omitempty"` // the file of the key, if it is demanded or trusted
}

// Signers lists the signatures of a package.
func Signers(p *pack.Package, policy sign.Policy) []Signer {
	out := []Signer{}
	for _, s := range p.Signatures {
		out = append(out, Signer{s.Key.ID(), fmt.Sprintf("%x", s.Key), policy.Name(s.Key)})
	}
	return out
}

// Sign puts the signatures of a package, and what is demanded of them, before
// the other results.
func (r *Report) Sign(p *pack.Package, policy sign.Policy) {
	r.Signatures = Signers(p, policy)
	var results []Result
	add := func(x Result) { results = append(results, x) }
	for _, s := range r.Signatures {
		text := "its signature is good; nobody asked for this key"
		if s.Named != "" {
			text = "its signature is good; the key is that of " + s.Named
		}
		add(Result{Target: "manifest.sig", What: "signature", Where: s.Key, Status: OK, Text: text})
	}
	for _, x := range policy.Judge(p.Signatures) {
		add(Result{Target: x.Where, What: "signature", Status: Refused, Code: x.Code, Text: x.Text})
	}
	r.Results = append(results, r.Results...)
}
