// Package kmod makes the bytes of a loadable livepatch module: cut objects are
// merged into one relocatable object, and that becomes a module as the kernel
// loads it, with the structures of its livepatch core, symbol versions and
// livepatch relocations. No part of the kernel's build is used, and nothing
// but the arguments decides the bytes.
//
// The formats are those of Documentation/livepatch/module-elf-format.rst,
// kernel/livepatch/core.c and kernel/module/main.c; docs/module-format.md
// describes what is written and why.
package kmod

import (
	"debug/elf"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
)

// Spec is what a module is made from.
type Spec struct {
	Name   string         // of the module: letters, digits and underscores
	Object *elfpatch.File // what Merge made, after objtool where the kernel wants it; not changed

	// Bindings says where each undefined symbol of Object comes from, and holds
	// the exports that the module needs itself, see OwnExports.
	Bindings map[string]Binding
	Objects  []Object // what is patched; the kernel itself first

	ABI       *kimage.ABI // layouts of the kernel's structures
	Vermagic  string      // of the kernel, "6.12.117+deb12-cloud-amd64 SMP preempt mod_unload modversions "
	Versions  Versions
	Retpoline bool               // the kernel is built with retpolines and asks modules for the same (CONFIG_MITIGATION_RETPOLINE)
	Rethunk   bool               // functions return through __x86_return_thunk (CONFIG_MITIGATION_RETHUNK)
	ORC       bool               // the kernel unwinds by ORC tables (CONFIG_UNWINDER_ORC)
	Padding   int                // bytes of NOPs before functions (CONFIG_FUNCTION_PADDING_BYTES with CONFIG_CALL_PADDING), else 0
	CFI       bool               // indirect calls are checked (CONFIG_CFI, CONFIG_CFI_CLANG before 6.18)
	Hashes    kimage.EntryHashes // with CFI; zero: not known

	License    string   // "GPL" if empty
	Info       []string // further entries of .modinfo, "description=…"
	ImportNS   []string // namespaces of exported symbols, beside those of Bindings
	Depends    []string // modules that have to be loaded first, beside those of Bindings
	Srcversion string   // optional
	Replace    bool     // the patch takes the place of all others
	States     []State

	// Direct makes a module for ftrace's direct calls; nil for one for the
	// livepatch core.
	Direct    *Direct
	CallSites bool // calls are counted, and listed in .call_sites (CONFIG_MITIGATION_CALL_DEPTH_TRACKING)

	base     bool   // the base module of the direct flavour
	orcEntry []byte // of the first instruction of a function: the base module has no object to take it from
}

func (s *Spec) layouts() layouts { return layouts{s.ABI} }

// OwnExports lists the exported symbols that every module for such a kernel
// needs, whatever it patches: Spec.Bindings has to have them.
func (s *Spec) OwnExports() []string {
	own := []string{enablePatch}
	if s.Direct != nil {
		own = []string{s.Direct.Anchor, "param_get_bool", "param_ops_charp"}
	}
	if s.Versions != NoVersions {
		own = append(own, moduleLayout)
	}
	if s.Rethunk {
		own = append(own, returnThunk)
	}
	return own
}

const (
	enablePatch  = "klp_enable_patch"
	moduleLayout = "module_layout"
	returnThunk  = "__x86_return_thunk"
)

// Object is one patched object: the kernel or one of its modules.
type Object struct {
	Name      string // of the module, with underscores; "" for the kernel itself ("vmlinux" is taken for it too)
	Funcs     []Func
	Callbacks map[CallbackKind]string // symbols of Spec.Object
}

// Func is one patched function.
type Func struct {
	Name        string // in the object that is patched
	Sympos      int    // 0 if the name is unique there, else its position among those of the same name, from 1
	Site        uint64 // where ftrace redirects it, for the direct flavour: the address in the kernel as it was linked
	Replacement string // symbol of Spec.Object
}

// CallbackKind names a callback after its member of struct klp_callbacks.
type CallbackKind string

// The callbacks of an object (include/linux/livepatch.h).
const (
	PrePatch    CallbackKind = "pre_patch"
	PostPatch   CallbackKind = "post_patch"
	PreUnpatch  CallbackKind = "pre_unpatch"
	PostUnpatch CallbackKind = "post_unpatch"
)

var callbackKinds = []CallbackKind{PrePatch, PostPatch, PreUnpatch, PostUnpatch}

// State is a change of the system that outlives the patch
// (Documentation/livepatch/system-state.rst).
type State struct {
	ID      uint64
	Version uint32
}

// BindingKind says how an undefined symbol is found when the module is loaded.
type BindingKind string

const (
	// Export is a symbol that the kernel or a module exports; the module's
	// loader resolves it.
	Export BindingKind = "export"
	// KLP is any other symbol of the kernel or a module; the livepatch core
	// finds it by name and position.
	KLP BindingKind = "klp"
	// Absent is a weak symbol that nothing defines: its address is 0.
	Absent BindingKind = "absent"
)

// Binding says where an undefined symbol of the merged object comes from.
type Binding struct {
	Kind   BindingKind
	Object string // the module that defines it; "" or "vmlinux" for the kernel
	Name   string // in that object; if empty, the name of the undefined symbol
	Pos    int    // KLP: position among the symbols of this name, 0 if there is only one
	// Address is where the kernel was linked to have it, for KLP in the direct
	// flavour.
	Address uint64
	// For is the patched object whose code refers to it, which must be loaded
	// when the reference is resolved ("" or "vmlinux": the kernel). Merge sets
	// it where it is "". References to symbols of the kernel never wait for a module.
	For string

	CRC       uint32 // Export: version of the symbol
	HasCRC    bool
	GPL       bool   // Export: only for modules under GPL
	Namespace string // Export: to be imported
}

// Versions says in which form a kernel reads the versions of imported symbols.
type Versions uint8

const (
	NoVersions       Versions = 0 // CONFIG_MODVERSIONS is off
	BasicVersions    Versions = 1 // __versions (CONFIG_BASIC_MODVERSIONS, and all kernels before 6.14)
	ExtendedVersions Versions = 2 // __version_ext_crcs and __version_ext_names (CONFIG_EXTENDED_MODVERSIONS)
)

// vmlinux is the name of the kernel in livepatch names.
const vmlinux = "vmlinux"

// objectName normalises the name of an object: the kernel is vmlinux.
func objectName(name string) string {
	if name == "" {
		return vmlinux
	}
	return name
}

// shnLivepatch is the section number of symbols that the livepatch core
// resolves, flagLivepatch marks sections of relocations that it applies
// (include/uapi/linux/elf.h SHN_LIVEPATCH, SHF_RELA_LIVEPATCH).
const (
	shnLivepatch  = 0xff20 - 0x10000
	flagLivepatch = elf.SectionFlag(0x00100000)
)
