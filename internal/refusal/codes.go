package refusal

import "slices"

// A Code is the stable name of a class of refusals.
type Code string

// The codes, in the order of the pipeline. Every one has a row in Codes and a
// section in docs/diagnostics.md.
const (
	// Compiling a source patch.
	PatchPath       Code = "patch-path"
	BuildFiles      Code = "build-files"
	Assembly        Code = "assembly"
	WrongCompiler   Code = "wrong-compiler"
	TooManyObjects  Code = "too-many-objects"
	UnitNotInTarget Code = "unit-not-in-target"
	UnitDoubtful    Code = "unit-doubtful"
	LinkTime        Code = "link-time-optimization"
	ProfileUse      Code = "profile-use"

	// Comparing the two objects.
	DataChanged       Code = "data-changed"
	DataResized       Code = "data-resized"
	StaticRemoved     Code = "static-removed"
	TLSNew            Code = "tls-new"
	TLSModel          Code = "tls-model"
	IFUNCChanged      Code = "ifunc-changed"
	CodeAddressInData Code = "code-address-in-data"
	UnwindNeeded      Code = "unwind-needed"
	ObjectsUnrelated  Code = "objects-unrelated"
	Unsupported       Code = "unsupported"

	// Comparing two kernel objects.
	InitTextChanged Code = "init-text-changed"
	NoPatchSite     Code = "no-patch-site"
	VDSO            Code = "vdso"
	ExportChanged   Code = "export-changed"
	SectionGroup    Code = "section-group"
	BootTable       Code = "boot-table"
	ForceUnsafe     Code = "force-unsafe"

	// Cutting a kernel object.
	StaticKeyModule   Code = "static-key-module"
	StaticCallModule  Code = "static-call-module"
	BootConstant      Code = "boot-constant"
	SpecialSection    Code = "special-section"
	CallbackDuplicate Code = "callback-duplicate"
	ObjtoolNeeded     Code = "objtool-needed"

	// Proving the before object against the target.
	NotTheRunningCode Code = "not-the-running-code"
	AddressUnknown    Code = "address-unknown"
	AddressAmbiguous  Code = "address-ambiguous"

	// The patch site.
	NoRoom         Code = "no-room"
	BranchIntoSite Code = "branch-into-site"
	NoSlot         Code = "no-slot"
	EntryMoves     Code = "entry-cannot-move"

	// What the change means for what runs.
	LayoutChanged    Code = "layout-changed"
	EnumChanged      Code = "enum-changed"
	PrototypeChanged Code = "prototype-changed"
	ExportChecksum   Code = "export-checksum"
	SleepInAtomic    Code = "sleep-in-atomic"
	LockChanged      Code = "lock-changed"
	NeverReturns     Code = "never-returns"
	InlinedElsewhere Code = "inlined-elsewhere"
	AddressTaken     Code = "address-taken"
	ModuleDependency Code = "module-dependency"
	DataAdded        Code = "data-added"
	TypesNotCompared Code = "types-not-compared"

	// What it means that a function returns at once.
	StubReturn Code = "stub-return"
	StubLock   Code = "stub-lock"

	// The package.
	PackageDamaged     Code = "package-damaged"
	SignatureInvalid   Code = "signature-invalid"
	SignatureMissing   Code = "signature-missing"
	SignatureUntrusted Code = "signature-untrusted"
	KeyUnsafe          Code = "key-unsafe"
	MergeConflict      Code = "merge-conflict"
	MergeKernel        Code = "merge-kernel"

	// A livepatch module.
	NotALivepatch     Code = "not-a-livepatch"
	ModuleFormat      Code = "module-format"
	KLPFormat         Code = "klp-format"
	KLPStructures     Code = "klp-structures"
	NameLimit         Code = "name-limit"
	WrongVermagic     Code = "wrong-vermagic"
	SymbolVersion     Code = "symbol-version"
	NotExported       Code = "not-exported"
	NamespaceMissing  Code = "namespace-missing"
	WrongPosition     Code = "wrong-position"
	NoFtraceSite      Code = "no-ftrace-site"
	InitMemory        Code = "init-memory"
	RelocationInvalid Code = "relocation-invalid"
	TableEntry        Code = "table-entry"
	LandingPadMissing Code = "landing-pad-missing"
	TypeHash          Code = "type-hash"
	MitigationMissing Code = "mitigation-missing"
	UnwindMissing     Code = "unwind-missing"

	// The running target.
	WrongTarget     Code = "wrong-target"
	SiteChanged     Code = "site-changed"
	NeedsStop       Code = "needs-stop"
	SigtrapBlocked  Code = "sigtrap-blocked"
	SigtrapHandled  Code = "sigtrap-handled"
	AlreadyTraced   Code = "already-traced"
	NoPermission    Code = "no-permission"
	Seccomp         Code = "seccomp"
	ShadowStack     Code = "shadow-stack"
	ForeignStack    Code = "foreign-stack"
	Coroutines      Code = "coroutines"
	OutOfReach      Code = "out-of-reach"
	SymbolNotFound  Code = "symbol-not-found"
	AlreadyApplied  Code = "already-applied"
	NotApplied      Code = "not-applied"
	FunctionClaimed Code = "function-claimed"
	Interrupted     Code = "interrupted"
	ChangeDivided   Code = "change-divided"

	RequirementMissing Code = "requirement-missing"
	BuiltUpon          Code = "built-upon"

	// The running kernel.
	NoLivepatch     Code = "no-livepatch"
	NoDirectCalls   Code = "no-direct-calls"
	BaseModule      Code = "base-module"
	ModuleSignature Code = "module-signature"
	ModulesDisabled Code = "modules-disabled"
	FtraceDisabled  Code = "ftrace-disabled"
)

// Codes lists every code with one line on what it means.
var Codes = []struct {
	Code    Code
	Meaning string
}{
	{PatchPath, "a path of the source patch leads out of the source tree"},
	{BuildFiles, "the source patch changes how the target is configured or built"},
	{Assembly, "the source patch changes assembler code"},
	{WrongCompiler, "the compiler is not the one that the target was built with"},
	{TooManyObjects, "the source patch touches more objects than one patch may have"},
	{UnitNotInTarget, "a touched source is not compiled, or not into the target"},
	{UnitDoubtful, "it is not clear whether a touched source is linked into the target as it was compiled here"},
	{LinkTime, "a touched source is optimized when the target is linked"},
	{ProfileUse, "a touched source is optimized by a profile that is not at hand"},
	{DataChanged, "the initial value of a live variable changed; the running copy keeps the old one"},
	{DataResized, "a live variable changed its size"},
	{StaticRemoved, "a static variable was removed but is still referred to"},
	{TLSNew, "the change adds a thread-local variable"},
	{TLSModel, "the change uses a thread-local access model that the target cannot serve"},
	{IFUNCChanged, "an indirect function or its resolver changed"},
	{CodeAddressInData, "a live variable holds an address inside a changed function"},
	{UnwindNeeded, "an exception could unwind through the replacement"},
	{ObjectsUnrelated, "the two objects have too little in common to be before and after"},
	{Unsupported, "the input uses something that livepatch does not handle"},
	{InitTextChanged, "a function changed that runs only while the kernel or a module starts"},
	{NoPatchSite, "a changed kernel function has no place for ftrace"},
	{VDSO, "the object is part of the vDSO, which runs in user space"},
	{ExportChanged, "an exported symbol is new or got another checksum or license"},
	{SectionGroup, "what changed is in a section group"},
	{BootTable, "the change adds to a table that the kernel reads only once"},
	{ForceUnsafe, "the patch asks to switch a function while tasks are in it"},
	{StaticKeyModule, "a static key that belongs to a module switches new code"},
	{StaticCallModule, "new code makes a static call whose key belongs to a module"},
	{BootConstant, "new code holds a constant that the kernel fills in only at boot"},
	{SpecialSection, "a table about code is damaged or of an unknown form"},
	{CallbackDuplicate, "two callbacks of one kind for one object"},
	{ObjtoolNeeded, "the objects lack tables that objtool adds when the kernel is linked"},
	{NotTheRunningCode, "the before object is not the code of the target"},
	{AddressUnknown, "the address of a symbol in the target cannot be found"},
	{AddressAmbiguous, "more than one place in the target fits a symbol"},
	{NoRoom, "the function's entry has no room for a jump"},
	{BranchIntoSite, "a branch of the function leads into its patch site"},
	{NoSlot, "the function has no NOPs for --dispatch slot"},
	{EntryMoves, "the function's first instructions would not do the same elsewhere"},
	{LayoutChanged, "a type that changed code uses is laid out differently"},
	{EnumChanged, "an enumerator has another value"},
	{PrototypeChanged, "a function takes or returns something else"},
	{ExportChecksum, "the types of an exported symbol are other ones than those that modules were built with"},
	{SleepInAtomic, "a call that may sleep was added where a lock is held that forbids it"},
	{LockChanged, "a function takes or gives back locks or references differently"},
	{NeverReturns, "a changed function stays on the stack"},
	{InlinedElsewhere, "a copy of a changed function is inlined where the patch does not reach"},
	{AddressTaken, "a function of the patch is called through a pointer"},
	{ModuleDependency, "the patch uses what another module exports"},
	{DataAdded, "the patch brings new variables along"},
	{TypesNotCompared, "types before and after could not be compared"},
	{StubReturn, "what a stub returns does not say to callers what it is meant to"},
	{StubLock, "the function that a stub replaces takes or gives back a lock for its callers"},
	{PackageDamaged, "the package is not byte for byte what was written"},
	{SignatureInvalid, "a signature of the package is not one of its manifest"},
	{SignatureMissing, "the package is not signed, and a signature is required"},
	{SignatureUntrusted, "the package is signed, but not with a key that is required or trusted"},
	{KeyUnsafe, "somebody else can change or read a key file"},
	{MergeConflict, "two packages to be merged disagree"},
	{MergeKernel, "packages to be merged cannot become one module of a kernel"},
	{NotALivepatch, "the file is no livepatch module"},
	{ModuleFormat, "the file is not laid out as the kernel loads modules"},
	{KLPFormat, "a livepatch relocation or symbol breaks the format of livepatch modules"},
	{KLPStructures, "the structures that describe the patch are wrong"},
	{NameLimit, "a name is longer than the kernel reads, or has a character that it cannot"},
	{WrongVermagic, "the module was made for another kernel"},
	{SymbolVersion, "the module expects another version of an exported symbol"},
	{NotExported, "the module needs a symbol that is not exported to it"},
	{NamespaceMissing, "the module uses a symbol of a namespace that it does not import"},
	{WrongPosition, "a livepatch symbol names a position that its object does not have"},
	{NoFtraceSite, "the kernel cannot redirect the function"},
	{InitMemory, "the patch refers to memory that the kernel gives back after boot"},
	{RelocationInvalid, "a relocation of the module is one that the loader refuses or that leads nowhere"},
	{TableEntry, "an entry of a special section does not lead to what it is about"},
	{LandingPadMissing, "code that is reached indirectly does not start with a landing pad"},
	{TypeHash, "a pointer leads to a function that calls through it would not accept"},
	{MitigationMissing, "a return or indirect branch lacks the protection that the kernel is built with"},
	{UnwindMissing, "the unwind tables do not cover the new code"},
	{WrongTarget, "the process or kernel is not the one that the package was made for"},
	{SiteChanged, "the patch site does not hold the expected bytes"},
	{NeedsStop, "the change cannot be made while threads run"},
	{SigtrapBlocked, "a thread that meets a breakpoint would be killed"},
	{SigtrapHandled, "the target handles SIGTRAP itself"},
	{AlreadyTraced, "another process traces the target"},
	{NoPermission, "the system does not permit what the loader has to do"},
	{Seccomp, "a seccomp filter covers the target and cannot be suspended"},
	{ShadowStack, "the target runs with user shadow stacks"},
	{ForeignStack, "a thread runs on a stack that is not its own"},
	{Coroutines, "the target switches stacks by itself"},
	{OutOfReach, "no memory is free within reach of the target"},
	{SymbolNotFound, "an imported symbol is not in the target"},
	{AlreadyApplied, "a patch of this name is applied already"},
	{NotApplied, "no patch of this name is applied"},
	{FunctionClaimed, "another patch, or another user of ftrace, owns a function of this one"},
	{Interrupted, "a loader was killed in the middle of a change"},
	{ChangeDivided, "processes that were changed together would be left apart"},
	{RequirementMissing, "the package builds on one that is not applied"},
	{BuiltUpon, "another patch builds on this one"},
	{NoLivepatch, "the kernel has no livepatch core"},
	{NoDirectCalls, "ftrace of the kernel has no direct calls"},
	{BaseModule, "another version of the base module of direct calls is loaded"},
	{ModuleSignature, "the running kernel takes signed modules only"},
	{ModulesDisabled, "the running kernel loads and unloads no modules any more"},
	{FtraceDisabled, "ftrace is switched off in the running kernel"},
}

// allowable are the codes that somebody may decide to allow: what they say is seen
// from the change, and may be harmless for reasons that are not. All others say
// that the patch is not right, or not proven to be.
var allowable = []Code{BuildFiles, UnitNotInTarget, UnitDoubtful, LayoutChanged, EnumChanged, PrototypeChanged, ExportChecksum, SleepInAtomic, StubReturn, StubLock}

// Allowable returns the codes that may be allowed.
func Allowable() []Code { return slices.Clone(allowable) }
