// Package manifest is the contract between the builder and the loader of a
// livepatch package: Go types, their JSON Schema and their validation. It
// depends on no other package of this module. The format is described in
// docs/manifest.md.
package manifest

// Format is the version of the manifest that this package writes and reads.
const Format = "livepatch/1"

// Manifest describes one patch, of processes (Targets) or of a kernel (Kernel).
// Addresses are link-time addresses of the target file (as in its program
// headers); sizes and lengths are bytes.
type Manifest struct {
	Format  string   `json:"format"` // Format
	Name    string   `json:"name"`   // of the patch: [A-Za-z0-9][A-Za-z0-9._-]*
	Tool    Tool     `json:"tool"`
	Targets []Target `json:"targets"` // at least one, or none and Kernel

	// Requires are the packages that this one builds on: they are applied
	// before it, and it may replace functions that they have replaced.
	Requires []Requirement `json:"requires,omitempty"`

	Kernel *Kernel `json:"kernel,omitempty"`
	Build  *Build  `json:"build,omitempty"` // how the package was made
}

// Requirement is another package, signed or not.
type Requirement struct {
	Name   string `json:"name"`   // of its patch
	SHA256 Hex    `json:"sha256"` // Digest of its manifest
}

// Tool names the program that wrote the package.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Target is one file that is patched where it is mapped.
type Target struct {
	Kind      string     `json:"kind"`             // "executable" (ET_EXEC), "pie", "library"
	Machine   string     `json:"machine"`          // "x86-64", "arm64"
	BuildID   Hex        `json:"build_id"`         // GNU build-id; empty only with SHA256
	SHA256    Hex        `json:"sha256,omitempty"` // of the allocated read-only bytes, when there is no build-id
	Name      string     `json:"name"`             // base name of the file, for messages
	Soname    string     `json:"soname,omitempty"`
	Payload   Payload    `json:"payload"`
	Functions []Function `json:"functions"`
	Variables []Variable `json:"variables"` // shared with the target
	Imports   []Import   `json:"imports"`
	Writes    []Write    `json:"writes"` // in the order of writing

	// Pieces are the symbols of the payload that stand between redirects and
	// replacements; none where every redirect is direct.
	Pieces []Piece `json:"pieces,omitempty"`

	// Unwind says what the payload's .eh_frame is for: UnwindNeeded or
	// UnwindOffered; empty if it has none.
	Unwind string `json:"unwind,omitempty"`
}

// Whether a patch does without the target's unwinder knowing its functions.
const (
	UnwindNeeded  = "needed"  // no: an exception may meet them
	UnwindOffered = "offered" // yes: it serves backtraces
)

// Piece is code or data between a redirect and its replacement. The functions of
// a target that are not direct have one dispatch.
type Piece struct {
	Kind     string `json:"kind"`     // "entry", "handler", "table", "record", "version"
	Symbol   string `json:"symbol"`   // of the payload
	Function int    `json:"function"` // "entry" and "record": index into Functions; else 0
}

// Payload is the patch object of a target: a member of the package, ET_REL.
type Payload struct {
	Member string `json:"member"` // "payload/0.o", …
	Size   int64  `json:"size"`
	SHA256 Hex    `json:"sha256"`
}

// Function is one function that is replaced.
type Function struct {
	Name        string `json:"name"`
	Object      string `json:"object"` // base name of the before object it came from
	Address     uint64 `json:"address"`
	Size        uint64 `json:"size"` // of the old body in the target
	Site        Site   `json:"site"`
	Strategy    string `json:"strategy"`    // "near", "far", "filler", "veneer", "slot"
	Replacement string `json:"replacement"` // symbol of the payload
	NewSize     uint64 `json:"new_size"`
	SHA256      Hex    `json:"sha256"` // of the old body as the target file holds it
	Proof       string `json:"proof"`  // "symbol", "dynsym", "debug", "search", "reference": how the address was found

	// Dispatch is the way from the entry to the replacement: "gated", "shared" or
	// "slot"; empty for a redirect that leads there itself.
	Dispatch string `json:"dispatch,omitempty"`

	// Extra are the stretches that the compiler moved out of the old body: no
	// thread may be in them either while the function is replaced.
	Extra []Range `json:"extra,omitempty"`
}

// Range is a stretch of the target's text.
type Range struct {
	Address uint64 `json:"address"`
	Size    uint64 `json:"size"`
}

// Site is the patch site of a function.
type Site struct {
	Kind     string `json:"kind"`
	Address  uint64 `json:"address"`
	Expected Hex    `json:"expected"` // as many bytes as the site's writes cover
	Room     int    `json:"room"`
}

// Variable is a variable of the target that the replacement uses.
type Variable struct {
	Name    string `json:"name"`
	Symbol  string `json:"symbol"` // undefined symbol of the payload
	Address uint64 `json:"address"`
	Size    uint64 `json:"size"`
	Found   string `json:"found"` // "symbol", "debug", or the first place: "function+0x12"
	Uses    int    `json:"uses"`  // places that agree
}

// Import is an undefined symbol of the payload and where its value comes from.
type Import struct {
	Symbol  string `json:"symbol"`            // in the payload
	Kind    string `json:"kind"`              // "target": Address; "tls-offset": Offset; "dynamic": Name, Version, Library
	Address uint64 `json:"address,omitempty"` // link-time address in the target
	Offset  int64  `json:"offset,omitempty"`  // from the thread pointer
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Library string `json:"library,omitempty"` // soname that defines it, when the version needs one
}

// Write is one write into the target's text.
type Write struct {
	Function int    `json:"function"` // index into Functions
	Address  uint64 `json:"address"`
	Length   int    `json:"length"`
	Expected Hex    `json:"expected"`
	Template Hex    `json:"template"`
	Holes    []Hole `json:"holes"`
}

// Hole is a part of a write that is known only when the patch is loaded.
type Hole struct {
	Offset int    `json:"offset"`
	Kind   string `json:"kind"`   // "rel32", "abs64", "branch26"
	Symbol string `json:"symbol"` // of the payload
}

// Hex is bytes that JSON shows as lower-case hexadecimal.
type Hex []byte
