package modcheck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/check"
	"livepatch/internal/kimage"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

const (
	whatIdentity = "identity" // build-ids
	whatManifest = "manifest" // what the manifest says of the module
	whatSite     = "site"     // bytes at patch sites
)

// Package checks a package for a kernel: its files against the manifest, the
// module as Check does, and the manifest against the module.
func Package(p *pack.Package, set Set) *check.Report {
	k := p.Manifest.Kernel
	c := &checker{report: &check.Report{Results: []check.Result{}}, refused: map[string]int{}, title: k.Module, target: newTarget(set, check.Machine(k.Machine))}
	same := c.identify(k, set)
	b := p.Members[k.Payload.Member]
	info, err := Describe(b)
	if err != nil {
		c.refuse(refusal.ModuleFormat, whatFormat, k.Payload.Member, "%v", err)
		return c.report
	}
	c.compareManifest(k, info)
	if same {
		// From here on the files are those that the patch was made for.
		for i := range k.Objects {
			c.oldBodies(&k.Objects[i])
		}
		if k.Base != nil {
			if m, err := kimage.ParseModule(p.Members[k.Base.Payload.Member]); err == nil {
				set.Base = m // else it is refused below
			}
		}
		c.report.Results = append(c.report.Results, Check(b, set).Results...)
		if k.Base != nil {
			c.report.Results = append(c.report.Results, Check(p.Members[k.Base.Payload.Member], set).Results...)
		}
	}
	c.summarize()
	return c.report
}

// identify compares release and build-ids. The answer is false when the kernel
// is another: nothing else can be said about it.
func (c *checker) identify(k *manifest.Kernel, set Set) bool {
	if set.Kernel == nil {
		c.later(whatIdentity, manifest.Vmlinux, "no image was given; the patch is for %s, build-id %s", k.Release, k.BuildID)
	} else {
		switch img := set.Kernel; {
		case !bytes.Equal(img.BuildID, k.BuildID):
			c.refuse(refusal.WrongTarget, whatIdentity, manifest.Vmlinux, "the image is %s with build-id %x, the patch is for %s with %s", img.Release, img.BuildID, k.Release, k.BuildID)
			return false
		case img.Release != k.Release:
			c.refuse(refusal.WrongTarget, whatIdentity, manifest.Vmlinux, "the image is %s, the patch is for %s", img.Release, k.Release)
			return false
		default:
			c.ok(whatIdentity, manifest.Vmlinux, "%s with build-id %s", k.Release, k.BuildID)
		}
	}
	same := true
	for i := range k.Objects {
		o := &k.Objects[i]
		if o.Name == manifest.Vmlinux {
			continue
		}
		j := slices.IndexFunc(set.Modules, func(m *kimage.Module) bool { return m.Name == o.Name })
		if j < 0 {
			c.later(whatIdentity, o.Name, "the module was not given; the patch is for build-id %s", o.BuildID)
			continue
		}
		switch m := set.Modules[j]; {
		case !bytes.Equal(m.BuildID, o.BuildID):
			c.refuse(refusal.WrongTarget, whatIdentity, o.Name, "the module has build-id %x, the patch is for %s", m.BuildID, o.BuildID)
			same = false
		case o.Srcversion != "" && m.Srcversion != o.Srcversion:
			c.refuse(refusal.WrongTarget, whatIdentity, o.Name, "the module has srcversion %s, the patch is for %s", m.Srcversion, o.Srcversion)
			same = false
		default:
			c.ok(whatIdentity, o.Name, "build-id %x, srcversion %s", m.BuildID, m.Srcversion)
		}
	}
	return same
}

// compareManifest asks whether the module does what the manifest says.
func (c *checker) compareManifest(k *manifest.Kernel, x *Info) {
	before := c.refusals(whatManifest)
	bad := func(where, format string, args ...any) {
		c.refuse(refusal.PackageDamaged, whatManifest, where, format, args...)
	}
	if x.Name != k.Module || x.Machine != k.Machine || x.Signed != k.Signed {
		bad("", "the module is %s for %s (signed: %t), the manifest says %s for %s (%t)", x.Name, x.Machine, x.Signed, k.Module, k.Machine, k.Signed)
	}
	if x.Replace != nil && *x.Replace != k.Replace {
		bad("", "replace is %t in the module, %t in the manifest", *x.Replace, k.Replace)
	}
	for _, i := range x.Modinfo {
		if i.Key == "vermagic" && i.Value != k.Vermagic {
			bad("", "the module is for %q, the manifest says %q", i.Value, k.Vermagic)
		}
	}
	if direct := x.Flavour == FlavourDirect; direct != (k.Flavour == manifest.FlavourDirect) {
		bad("", "the module is of flavour %q, the manifest says %q", x.Flavour, k.Flavour)
	}
	if shared := slices.ContainsFunc(x.Imports, func(i Import) bool { return i.Name == sharedEnable }); shared != (k.Dispatch == manifest.DispatchShared) {
		bad("", "the module has the shared dispatch: %t, the manifest says dispatch %q", shared, k.Dispatch)
	}
	have, want := moduleFacts(x), manifestFacts(k)
	for _, f := range want {
		if !slices.Contains(have, f) {
			bad("", "the manifest lists %s, the module does not", f)
		}
	}
	for _, f := range have {
		if !slices.Contains(want, f) {
			bad("", "the module has %s, the manifest does not", f)
		}
	}
	if c.refusals(whatManifest) == before {
		c.ok(whatManifest, "", "it lists what the module does")
	}
}

// moduleFacts and manifestFacts say the same things in the same words.
func moduleFacts(x *Info) []string {
	var list []string
	for _, o := range x.Objects {
		for _, f := range o.Functions {
			list = append(list, functionFact(o.Name, f.Name, f.Position, f.Replacement))
		}
		for _, f := range o.Callbacks {
			list = append(list, callbackFact(o.Name, f.Kind, f.Function))
		}
	}
	for _, s := range x.Symbols {
		list = append(list, symbolFact(s.Object, s.Name, s.Position))
	}
	for _, s := range x.States {
		list = append(list, fmt.Sprintf("state %d, version %d", s.ID, s.Version))
	}
	return list
}

func manifestFacts(k *manifest.Kernel) []string {
	var list []string
	for _, o := range k.Objects {
		for _, f := range o.Functions {
			list = append(list, functionFact(o.Name, f.Name, uint64(f.Position), f.Replacement))
		}
		for _, f := range o.Callbacks {
			list = append(list, callbackFact(o.Name, f.Kind, f.Function))
		}
		for _, s := range o.Symbols {
			if k.Flavour != manifest.FlavourDirect { // there the module has no names of them
				list = append(list, symbolFact(o.Name, s.Name, fmt.Sprint(s.Position)))
			}
		}
	}
	for _, s := range k.States {
		list = append(list, fmt.Sprintf("state %d, version %d", s.ID, s.Version))
	}
	return list
}

func functionFact(object, name string, pos uint64, replacement string) string {
	return fmt.Sprintf("function %s,%d of %s with replacement %s", name, pos, object, replacement)
}

func callbackFact(object, kind, function string) string {
	return fmt.Sprintf("%s callback %s of %s", kind, function, object)
}

func symbolFact(object, name, pos string) string {
	return fmt.Sprintf("livepatch symbol %s,%s of %s", name, pos, object)
}

// oldBodies asks whether the functions are those that the patch was made for.
func (c *checker) oldBodies(o *manifest.KernelObject) {
	img := c.target.object(o.Name)
	if img == nil || img.kernel == nil && img.module == nil {
		return // said with the identity
	}
	for i := range o.Functions {
		f := &o.Functions[i]
		at := func(addr, size uint64) [][]byte { return fileBytes(img, f.Section, addr, size) }
		bodies := at(f.Address, f.Size)
		switch {
		case len(bodies) == 0:
			c.refuse(refusal.WrongTarget, whatFunction, f.Name, "no code at %#x, %#x bytes", f.Address, f.Size)
			continue
		case !slices.ContainsFunc(bodies, func(b []byte) bool { sum := sha256.Sum256(b); return bytes.Equal(sum[:], f.SHA256) }):
			c.refuse(refusal.NotTheRunningCode, whatFunction, f.Name, "the body at %#x is not the one that the patch was made for", f.Address)
			continue
		}
		c.ok(whatFunction, f.Name, "%d bytes at %#x are the old body", f.Size, f.Address)
		sites := at(f.Site.Address, uint64(len(f.Site.Expected)))
		if !slices.ContainsFunc(sites, func(b []byte) bool { return bytes.Equal(b, f.Site.Expected) }) {
			c.refuse(refusal.SiteChanged, whatSite, f.Name, "%x at %#x, expected %s", slices.Concat(sites[:min(1, len(sites))]...), f.Site.Address, f.Site.Expected)
		} else {
			c.ok(whatSite, f.Name, "%s at %#x", f.Site.Expected, f.Site.Address)
		}
	}
}

// maxBody bounds functions and sites.
const maxBody = 1 << 24

// fileBytes reads the kernel by address, a module by offset in a section: as it
// is in the file, and as it is laid out to be compared with objects.
func fileBytes(img *image, section string, addr, size uint64) [][]byte {
	var list [][]byte
	if size > maxBody {
		return nil
	}
	if img.module == nil {
		if b, ok := img.file.ReadAddr(addr, int(size)); ok {
			list = append(list, b)
		}
		return list
	}
	for _, f := range []*elfpatch.File{img.module.File, img.module.Linked} {
		if s := f.Section(section); s != nil && addr <= uint64(len(s.Data)) && size <= uint64(len(s.Data))-addr {
			list = append(list, s.Data[addr:addr+size])
		}
	}
	return list
}
