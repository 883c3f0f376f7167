package manifest

// Build records how a package was made: from what, what was proven and found on
// the way, and what somebody decided to allow. No loader needs it; a reviewer
// does. It holds no time and no path of the machine that built the package.
type Build struct {
	Description string    `json:"description,omitempty"` // one line
	Version     string    `json:"version,omitempty"`     // of the patch
	CVE         []string  `json:"cve"`                   // "CVE-2024-1234"
	Compiler    string    `json:"compiler,omitempty"`    // its version line
	Inputs      []Input   `json:"inputs"`
	Units       []Unit    `json:"units"`
	Proofs      []Proof   `json:"proofs"`
	Findings    []Finding `json:"findings"`
}

// Input is a file that the package was made from.
type Input struct {
	Role   string `json:"role"`   // one of InputRoles
	Name   string `json:"name"`   // base name, or path below the source tree
	SHA256 Hex    `json:"sha256"` // of its bytes as given, compressed or not
}

// Unit is one source file and how it was compiled.
type Unit struct {
	Source string   `json:"source"` // path below the source tree
	Object string   `json:"object"` // base name, as in Function.Object
	Flags  []string `json:"flags"`  // of the compiler, without paths of the build
}

// Proof is the record of one function of a before object that was proven to be
// code of the target.
type Proof struct {
	Object   string   `json:"object"` // base name of the before object
	Function string   `json:"function"`
	Target   string   `json:"target"`            // base name of the target, name of the kernel's module
	Section  string   `json:"section,omitempty"` // of a kernel module: Address counts from its start
	Address  uint64   `json:"address"`           // in the target, link-time
	Size     uint64   `json:"size"`
	Masked   []Masked `json:"masked"` // what was allowed to differ, by kind
}

// Masked counts the places of one kind that may differ between object and
// target, since linking or the kernel's start rewrites them.
type Masked struct {
	Kind  string `json:"kind"` // "relocation", "jump-label", …: docs/manifest.md lists them
	Count int    `json:"count"`
}

// Finding is something about the change that the reviewer has to know. One that
// is refused by itself is in a package only if it was allowed.
type Finding struct {
	Code    string `json:"code"`    // of docs/diagnostics.md
	Where   string `json:"where"`   // "object: function+0x1a4"
	Text    string `json:"text"`    // a sentence without capital and stop
	Allowed bool   `json:"allowed"` // it would have been refused, and was overridden
}

// InputRoles are the roles of inputs, in the order in which they are listed.
func InputRoles() []string {
	return []string{"patch", "before", "after", "plain", "target", "debug", "config", "symvers", "btf", "objtool", RolePackage}
}

// RolePackage is the role of a package that was merged into another one.
const RolePackage = "package"
