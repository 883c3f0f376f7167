package compose

import (
	"encoding/json"
	"slices"
	"strings"

	"livepatch/manifest"
)

// record joins what the packages say of how they were made, and adds the
// packages themselves. What several say is said once.
func record(parts []Part) *manifest.Build {
	out := new(manifest.Build)
	var descriptions, versions, compilers []string
	for _, p := range parts {
		b := p.Package.Manifest.Build
		if b == nil {
			b = new(manifest.Build)
		}
		descriptions = union(descriptions, b.Description)
		versions = union(versions, b.Version)
		compilers = union(compilers, b.Compiler)
		out.CVE = union(out.CVE, b.CVE...)
		out.Inputs = union(out.Inputs, b.Inputs...)
		out.Units = union(out.Units, b.Units...)
		out.Proofs = union(out.Proofs, b.Proofs...)
		out.Findings = union(out.Findings, b.Findings...)
		out.Inputs = union(out.Inputs, manifest.Input{Role: manifest.RolePackage, Name: p.File, SHA256: p.SHA256})
	}
	out.Description, out.Version, out.Compiler = said(descriptions), said(versions), said(compilers)
	manifest.SortInputs(out.Inputs)
	return out
}

func said(list []string) string {
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), "; ")
}

// union appends what is not in the list yet. Values are told apart by what the
// manifest would say of them.
func union[T any](list []T, more ...T) []T {
	seen := map[string]bool{}
	key := func(x T) string {
		b, _ := json.Marshal(x) // of strings and numbers, which have an encoding
		return string(b)
	}
	for _, x := range list {
		seen[key(x)] = true
	}
	for _, x := range more {
		if k := key(x); !seen[k] {
			seen[k] = true
			list = append(list, x)
		}
	}
	return list
}
