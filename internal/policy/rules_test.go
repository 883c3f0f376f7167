package policy

// module is the name of the module whose tree this is.
const module = "livepatch"

// imports says what each package may import from this module and from other
// modules. A package without a line fails. The table is the architecture: a
// new line in it needs a reason in ARCHITECTURE.md, not a broken build.
var imports = map[string][]string{
	"disasm":            {"golang.org/x/arch/arm64/arm64asm", "golang.org/x/arch/x86/x86asm"},
	"docs":              {},
	"elfpatch":          {},
	"elfpatch/diff":     {"disasm", "elfpatch", "elfpatch/kernel", "internal/leb128", "internal/refusal"},
	"elfpatch/kernel":   {"elfpatch"},
	"elfpatch/match":    {"disasm", "elfpatch", "elfpatch/kernel", "internal/refusal"},
	"elfpatch/btf":      {},
	"elfpatch/types":    {"elfpatch", "elfpatch/btf", "internal/leb128", "github.com/klauspost/compress/zstd"},
	"fentry":            {"disasm", "elfpatch", "elfpatch/kernel", "internal/leb128", "trampoline"},
	"trampoline":        {"disasm"},
	"manifest":          {},
	"internal/refusal":  {},
	"internal/sign":     {"internal/refusal"},
	"internal/pack":     {"internal/refusal", "internal/sign", "manifest"},
	"internal/pobj":     {"elfpatch", "elfpatch/match", "internal/refusal", "internal/unwind", "manifest", "trampoline"},
	"internal/kmod":     {"elfpatch", "elfpatch/diff", "elfpatch/kernel", "internal/kimage", "internal/refusal"},
	"internal/modcheck": {"disasm", "elfpatch", "elfpatch/kernel", "internal/check", "internal/kimage", "internal/pack", "internal/refusal", "manifest"},
	"internal/check":    {"disasm", "elfpatch", "internal/pack", "internal/refusal", "internal/sign", "manifest", "trampoline"},
	"internal/build": {"disasm", "elfpatch", "elfpatch/diff", "elfpatch/kernel", "elfpatch/match", "fentry", "internal/check", "internal/kimage", "internal/kmod",
		"internal/modcheck", "internal/pack", "internal/pobj", "internal/refusal", "internal/safety", "internal/unwind", "manifest", "trampoline"},
	"internal/safety": {"disasm", "elfpatch", "elfpatch/diff", "elfpatch/kernel", "elfpatch/types", "internal/refusal"},
	"internal/stub":   {"disasm", "elfpatch", "elfpatch/btf", "fentry", "internal/refusal", "internal/safety"},
	"internal/report": {"elfpatch", "elfpatch/diff", "internal/build", "internal/check", "internal/pack", "internal/refusal", "internal/srcpatch", "manifest",
		"github.com/ianlancetaylor/demangle"},
	"internal/compose":  {"disasm", "elfpatch", "elfpatch/kernel", "internal/kmod", "internal/live", "internal/modcheck", "internal/pack", "internal/refusal", "manifest"},
	"internal/resolve":  {"elfpatch"},
	"internal/live":     {},
	"internal/unwind":   {"internal/leb128"},
	"internal/leb128":   {},
	"internal/kimage":   {"elfpatch", "elfpatch/btf", "github.com/klauspost/compress/zstd", "github.com/therootcompany/xz"},
	"internal/srcpatch": {"internal/refusal"},
	"internal/kstate":   {"internal/refusal", "manifest"},
	"internal/klp":      {"internal/kimage", "internal/kstate", "internal/pack", "internal/refusal", "manifest", "golang.org/x/sys/unix"},
	"internal/fit":      {"internal/live", "manifest"},
	"internal/policy":   {},
	"test":              {},
	"test/kernel":       {},

	"internal/child":           {},
	"internal/compile":         {"internal/srcpatch"},
	"internal/distro":          {"internal/child"},
	"internal/kbuild":          {"internal/child", "internal/header", "internal/refusal", "internal/srcpatch"},
	"internal/header":          {},
	"internal/testkit":         {"elfpatch"},
	"internal/testkit/vm":      {"internal/testkit"},
	"internal/testkit/vm/boot": {"internal/testkit/vm"},

	"internal/trust": {"internal/refusal", "internal/sign"},
	"internal/image": {"elfpatch", "internal/kimage", "golang.org/x/sys/unix"},
	"internal/watch": {"internal/fit", "internal/pack", "internal/process", "internal/refusal", "golang.org/x/sys/unix"},
	"internal/taken": {"disasm"},
	"internal/demo":  {"elfpatch", "internal/build", "internal/pack", "internal/process"},
	"internal/process": {"elfpatch", "internal/check", "internal/live", "internal/pack", "internal/refusal", "internal/resolve", "internal/taken", "internal/unwind",
		"manifest", "trampoline", "golang.org/x/sys/unix"},
	"cmd/livepatch": {"docs", "elfpatch", "elfpatch/diff", "elfpatch/kernel", "elfpatch/match", "fentry", "internal/build", "internal/check", "internal/compile", "internal/compose", "internal/demo", "internal/distro", "internal/fit", "internal/header",
		"internal/image", "internal/kbuild", "internal/kimage", "internal/klp", "internal/kmod", "internal/kstate", "internal/live", "internal/modcheck", "internal/pack", "internal/process", "internal/refusal", "internal/report", "internal/safety", "internal/sign", "internal/srcpatch", "internal/stub", "internal/trust", "internal/watch", "manifest", "trampoline",
		"github.com/ianlancetaylor/demangle", "github.com/urfave/cli/v2", "golang.org/x/term"},
}

// machine lists the packages that may touch the machine. All others are pure
// functions of their inputs, and build and give the same answer everywhere.
var machine = []string{"cmd/livepatch", "internal/child", "internal/compile", "internal/demo", "internal/distro", "internal/kbuild", "internal/image", "internal/klp", "internal/process", "internal/testkit", "internal/trust", "internal/watch",
	"internal/testkit/vm", "internal/testkit/vm/boot"}

// impure lists packages of the standard library that only machine packages
// may import: they read or change the machine, or answer differently on
// another one.
var impure = []string{
	"io/ioutil", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec",
	"os/signal", "os/user", "path/filepath", "plugin", "runtime", "runtime/debug", "syscall", "time", "unsafe",
}

// The sizes beyond which a file or function needs a reason.
const (
	maxFile   = 600 // lines
	maxFunc   = 90  // lines
	maxParams = 5
	maxReadme = 150 // lines
)

// long lists the files and functions ("file: function") that are larger than
// that, and why.
var long = map[string]string{
	"elfpatch/version.go: walk":     "a list of records: where it is, how many, their size, and where each says how far the next is",
	"elfpatch/reloc.go: ApplyReloc": "the six values of a relocation, in the order of the ABI's formulas",
}

// state lists the package variables ("directory: name") that are neither
// constants, tables nor error values, and why they have to be.
var state = map[string]string{
	"disasm: arm64asmLock": "golang.org/x/arch/arm64/arm64asm writes a package variable while it decodes",
}
