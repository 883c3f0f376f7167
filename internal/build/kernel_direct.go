package build

import (
	"bytes"
	"fmt"
	"slices"

	"livepatch/internal/kmod"
	"livepatch/internal/refusal"
	"livepatch/internal/safety"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// anchors are exported functions that every kernel has. Symbols that are not
// exported are found by their distance from the first that is there once.
var anchors = []string{"_printk", "kfree", "schedule"}

// makeDirect describes the kernel to a module that needs no livepatch core, and
// makes the base module for it.
func (k *kernelSteps) makeDirect() error {
	img := k.kernel.Image
	k.spec.Direct = &kmod.Direct{BuildID: img.BuildID, Shared: k.in.Dispatch == trampoline.Shared}
	d := k.spec.Direct
	for _, name := range anchors {
		x, exported := k.exports[name]
		if n := img.Named(name); d.Anchor == "" && exported && x.Module == manifest.Vmlinux && len(n) == 1 {
			d.Anchor, d.Address = name, img.Symbols[n[0]].Addr
		}
	}
	if d.Anchor == "" {
		return refusal.List{refusal.New(refusal.NotExported, img.Release, "the kernel exports none of %v, from which other symbols could be found", anchors)}
	}
	var ok bool
	if d.Notes, ok = k.notes(); !ok {
		return refusal.List{refusal.New(refusal.AddressUnknown, img.Release, "the image does not tell where it has its build-id (__start_notes), by which the module makes sure of the kernel")}
	}
	return k.makeBase()
}

// notes is where the image has the bytes of its build-id.
func (k *kernelSteps) notes() (uint64, bool) {
	img := k.kernel.Image
	from, to := img.Named("__start_notes"), img.Named("__stop_notes")
	if len(from) != 1 || len(to) != 1 || len(img.BuildID) == 0 {
		return 0, false
	}
	start, stop := img.Symbols[from[0]].Addr, img.Symbols[to[0]].Addr
	if stop < start || stop-start > maxNotes {
		return 0, false
	}
	b, ok := img.File.ReadAddr(start, int(stop-start))
	at := bytes.Index(b, img.BuildID)
	return start + uint64(at), ok && at >= 0
}

// maxNotes bounds the notes of a kernel, which has some hundred bytes of them.
const maxNotes = 1 << 20

// makeBase makes the base module.
func (k *kernelSteps) makeBase() error {
	base := k.spec
	base.Bindings, base.ImportNS = map[string]kmod.Binding{}, nil
	names, err := base.BaseExports(func(name string) bool { return k.exports[name].Module == manifest.Vmlinux })
	if err != nil {
		return refusal.List{err.(refusal.Refusal)}
	}
	if err := k.bindOwn(&base, names); err != nil {
		return err
	}
	b, err := kmod.EmitBase(base)
	if err != nil {
		return err
	}
	k.base, err = k.signed(b)
	return err
}

// mixedCodes are findings that matter more where old and new code run side by
// side for as long as a call takes, in one task too.
var mixedCodes = []refusal.Code{refusal.LayoutChanged, refusal.EnumChanged, refusal.LockChanged, refusal.PrototypeChanged, refusal.DataAdded}

// warnMixed warns of changes that need more than the direct flavour gives.
func (k *kernelSteps) warnMixed() {
	if !k.direct {
		return
	}
	for _, f := range k.findings() {
		if slices.Contains(mixedCodes, f.Code) && f.Level != safety.Refuse {
			k.warnings = append(k.warnings, fmt.Sprintf(
				"%s: %s [%s]; without a livepatch core calls that run finish in old code beside new ones: the patch has to be right for both at once", f.Where, f.Text, f.Code))
		}
	}
}

// describeBase lists the base module in the manifest.
func (k *kernelSteps) describeBase(out *manifest.Kernel) map[string][]byte {
	members := map[string][]byte{manifest.KernelMember: k.module}
	if k.direct {
		out.Flavour, out.Consistency = manifest.FlavourDirect, manifest.ConsistencyCalls
		if k.spec.Direct.Shared {
			out.Dispatch = manifest.DispatchShared
		}
		out.Base = &manifest.KernelBase{Module: manifest.BaseModule, Payload: payloadOf(manifest.BaseMember, k.base)}
		members[manifest.BaseMember] = k.base
	}
	return members
}
