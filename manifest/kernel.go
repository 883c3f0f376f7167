package manifest

// Kernel describes the patch of a kernel: one livepatch module and what it
// replaces. A manifest has either targets or a kernel.
type Kernel struct {
	Flavour  string      `json:"flavour"`        // FlavourKLP, FlavourDirect
	Machine  string      `json:"machine"`        // "x86-64", "arm64"
	Release  string      `json:"release"`        // as uname -r prints it
	Vermagic string      `json:"vermagic"`       // of the module
	BuildID  Hex         `json:"build_id"`       // of the kernel image, as in /sys/kernel/notes
	Module   string      `json:"module"`         // name of the module, and of its directory in /sys/kernel/livepatch or /sys/module
	Payload  Payload     `json:"payload"`        // "payload/0.ko"
	Base     *KernelBase `json:"base,omitempty"` // FlavourDirect: the module that has to be loaded before

	// Dispatch is the way from a call to its replacement, for FlavourDirect:
	// DispatchShared, or nothing for a direct call of each function's own.
	Dispatch string `json:"dispatch,omitempty"`

	// Consistency says what is promised while the patch comes and goes:
	// ConsistencyCalls, or nothing for FlavourKLP, where the livepatch core
	// switches task by task.
	Consistency string `json:"consistency,omitempty"`

	Replace  bool           `json:"replace"` // takes the place of every livepatch of the same flavour that is loaded
	Signed   bool           `json:"signed"`  // the module carries a signature
	Objects  []KernelObject `json:"objects"`
	Exports  []KernelExport `json:"exports"` // exported symbols that the module uses, by name
	States   []KernelState  `json:"states"`
	Objtool  Hex            `json:"objtool,omitempty"` // SHA-256 of the objtool that processed the module's code
	Warnings []string       `json:"warnings"`          // what the patch does without, such as tracepoints
}

// KernelBase is the module that all patches of FlavourDirect share.
type KernelBase struct {
	Module  string  `json:"module"`  // its name, BaseModule
	Payload Payload `json:"payload"` // "payload/1.ko"
}

// KernelObject is the kernel image or a module whose functions are replaced.
type KernelObject struct {
	Name       string           `json:"name"`                 // "vmlinux", or that of the module
	BuildID    Hex              `json:"build_id"`             // of the image or module
	Srcversion string           `json:"srcversion,omitempty"` // of a module that has one
	Functions  []KernelFunction `json:"functions"`
	Symbols    []KernelSymbol   `json:"symbols"` // what the module shares with the object through livepatch relocations
	Callbacks  []KernelCallback `json:"callbacks"`
}

// KernelFunction is one function that is replaced. In modules addresses are
// offsets in Section.
type KernelFunction struct {
	Name        string `json:"name"`     // as kallsyms spells it
	Object      string `json:"object"`   // base name of the before object it came from
	Position    int    `json:"position"` // among the symbols of that name in the order of kallsyms, from 1; 0 if there is only one
	Section     string `json:"section,omitempty"`
	Address     uint64 `json:"address"`
	Size        uint64 `json:"size"` // of the old body
	Site        Site   `json:"site"` // the call that ftrace redirects
	Replacement string `json:"replacement"`
	NewSize     uint64 `json:"new_size"`
	SHA256      Hex    `json:"sha256"` // of the old body as the file holds it
	Proof       string `json:"proof"`  // as in Function
}

// KernelSymbol is a symbol of the object that the module refers to by name and
// position, since it is not exported.
type KernelSymbol struct {
	Name     string `json:"name"` // as kallsyms spells it
	Position int    `json:"position"`
	Section  string `json:"section,omitempty"`
	Address  uint64 `json:"address"`
	Found    string `json:"found"` // "symbol", or the first place that refers to it: "function+0x12"
	Uses     int    `json:"uses"`  // places that agree
}

// KernelCallback is a function that the kernel calls when the object is
// patched or unpatched.
type KernelCallback struct {
	Kind     string `json:"kind"`     // "pre_patch", "post_patch", "pre_unpatch", "post_unpatch"
	Function string `json:"function"` // of the module
}

// KernelExport is an exported symbol that the module uses.
type KernelExport struct {
	Name      string `json:"name"`
	CRC       *Hex   `json:"crc,omitempty"` // 4 bytes, as the number is written; nil in kernels without symbol versions
	Namespace string `json:"namespace,omitempty"`
}

// KernelState is a change of the system's state that the patch makes, and its
// version (Documentation/livepatch/system-state.rst).
type KernelState struct {
	ID      uint64 `json:"id"`
	Version uint32 `json:"version"`
}

// The words of a kernel patch.
const (
	// FlavourKLP patches through the kernel's livepatch core.
	FlavourKLP = "klp"

	// FlavourDirect patches through direct calls of ftrace.
	FlavourDirect = "direct"

	// ConsistencyCalls: new calls run the new code, of all functions from one
	// moment on; calls that run finish in the code that they began in.
	ConsistencyCalls = "calls"

	// BaseModule is the name of the module in KernelBase.
	BaseModule = "livepatch_direct"

	// BaseMember is the member that holds it.
	BaseMember = "payload/1.ko"

	// Vmlinux is the object name of the kernel image.
	Vmlinux = "vmlinux"

	// KernelMember is the member that holds the module of a kernel patch.
	KernelMember = "payload/0.ko"

	// MaxModuleName is the room for a module's name, MODULE_NAME_LEN without
	// its NUL (include/linux/moduleparam.h).
	MaxModuleName = 55
)

// CallbackKinds are the callbacks of an object, in the order of struct
// klp_callbacks.
func CallbackKinds() []string {
	return []string{"pre_patch", "post_patch", "pre_unpatch", "post_unpatch"}
}

// Payloads returns the payloads of the manifest in the order of the package.
func (m *Manifest) Payloads() []*Payload {
	if m.Kernel != nil {
		if m.Kernel.Base != nil {
			return []*Payload{&m.Kernel.Payload, &m.Kernel.Base.Payload}
		}
		return []*Payload{&m.Kernel.Payload}
	}
	out := make([]*Payload, len(m.Targets))
	for i := range m.Targets {
		out[i] = &m.Targets[i].Payload
	}
	return out
}
