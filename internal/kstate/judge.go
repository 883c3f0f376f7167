package kstate

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Verdict is whether a package can be loaded into the kernel of the facts.
type Verdict struct {
	Refusals  refusal.List `json:"refusals"`
	Busy      string       `json:"busy,omitempty"` // it could be loaded at another moment
	Conflicts []Conflict   `json:"conflicts"`
	Replaces  []string     `json:"replaces"` // livepatches whose place it takes
	Later     []string     `json:"later"`    // modules that are patched when they are loaded
	Warnings  []string     `json:"warnings"`
	Loaded    bool         `json:"loaded,omitempty"` // direct calls: the module is loaded and was taken off
	Applied   bool         `json:"applied"`          // the patch is loaded and enabled already
	Foreign   bool         `json:"foreign"`          // the package is for another kernel
}

// Judge asks everything that the kernel would ask before it loads the package,
// and what the kernel does not ask: whether it is the very kernel, and whether
// its modules are the very modules, that the package was made for.
func Judge(plan Plan, module []byte, f *Facts) *Verdict {
	j := &judge{plan: plan, k: plan.Kernel, f: f, v: &Verdict{
		Refusals: refusal.List{}, Conflicts: []Conflict{}, Replaces: []string{}, Later: []string{}, Warnings: []string{},
	}}
	j.kernel()
	if j.v.Foreign {
		return j.v // nothing else that is found would mean anything
	}
	j.permission(module)
	j.base()
	j.names()
	for i := range j.k.Objects {
		j.object(&j.k.Objects[i])
	}
	j.patches()
	j.conflicts()
	for _, u := range f.Unknown {
		j.warn("%s cannot be read (%s), so nothing was checked against them", u.What, u.Why)
	}
	return j.v
}

type judge struct {
	plan Plan
	k    *manifest.Kernel
	f    *Facts
	v    *Verdict
}

func (j *judge) refuse(code refusal.Code, where, format string, args ...any) {
	j.v.Refusals = append(j.v.Refusals, refusal.New(code, where, format, args...))
}

func (j *judge) warn(format string, args ...any) {
	j.v.Warnings = append(j.v.Warnings, fmt.Sprintf(format, args...))
}

// kernel compares release and build-id. The release is for people: kernels of
// one release can be built in different ways, their build-ids differ then.
func (j *judge) kernel() {
	want := hex.EncodeToString(j.k.BuildID)
	switch {
	case j.k.Release != j.f.Release:
		j.v.Foreign = true
		j.refuse(refusal.WrongTarget, "kernel", "the package is for %s, this is %s", j.k.Release, j.f.Release)
	case j.f.BuildID == "":
		j.refuse(refusal.WrongTarget, "kernel", "the running kernel does not tell its build-id; the package is for %s", want)
	case want != j.f.BuildID:
		j.v.Foreign = true
		j.refuse(refusal.WrongTarget, "kernel", "the package is for the build %s of %s, this is build %s", want, j.k.Release, j.f.BuildID)
	}
}

// permission foresees why a kernel would not take the module at all.
func (j *judge) permission(module []byte) {
	if !j.f.Livepatch && !j.direct() {
		j.refuse(refusal.NoLivepatch, "kernel", "there is no /sys/kernel/livepatch: it was built without CONFIG_LIVEPATCH, or sysfs is not mounted")
	}
	if j.f.ModulesDisabled {
		j.refuse(refusal.ModulesDisabled, "kernel", "/proc/sys/kernel/modules_disabled is 1: no module can be loaded or unloaded until the next boot")
	}
	if !j.f.CanLoad {
		j.refuse(refusal.NoPermission, "kernel", "loading a module takes CAP_SYS_MODULE; run livepatch as root, outside of containers")
	}
	if !j.f.FtraceEnabled {
		j.refuse(refusal.FtraceDisabled, "kernel", "/proc/sys/kernel/ftrace_enabled is 0: no function can be redirected")
	}
	if Signed(module) {
		return
	}
	switch {
	case j.f.SigEnforce:
		j.refuse(refusal.ModuleSignature, "kernel", "module.sig_enforce is on and the module is not signed")
	case j.f.Lockdown == "integrity" || j.f.Lockdown == "confidentiality":
		j.refuse(refusal.ModuleSignature, "kernel", "lockdown is %q and the module is not signed", j.f.Lockdown)
	}
}

// direct reports a package that does without the livepatch core.
func (j *judge) direct() bool { return j.k.Flavour == manifest.FlavourDirect }

// base looks for a base module that a patch of this package cannot be handed to.
// It stays until the next boot once a patch was on.
func (j *judge) base() {
	m := j.f.Module(manifest.BaseModule)
	if !j.direct() || m == nil || j.plan.Base == "" || m.Version == j.plan.Base {
		return
	}
	j.refuse(refusal.BaseModule, "kernel", "the module %s that is loaded has version %q, the package needs %q", m.Name, m.Version, j.plan.Base)
}

// names looks for somebody else with the module's name.
func (j *judge) names() {
	name := j.k.Module
	p, m := j.f.Patch(name), j.f.Module(name)
	switch {
	case p != nil && p.Transition:
		j.v.Busy = fmt.Sprintf("livepatch %s is in transition (%s)", name, p.Condition())
	case p != nil && m != nil && m.BuildID != "" && j.plan.BuildID != "" && m.BuildID != j.plan.BuildID:
		j.refuse(refusal.AlreadyApplied, "kernel", "livepatch %s is %s, from another package: its module is build %s, that of this package %s", name, p.Condition(), m.BuildID, j.plan.BuildID)
	case p != nil && p.IsDirect() && !p.Enabled:
		j.v.Loaded = true // it is put on again
	case p != nil:
		j.v.Applied = p.Enabled
		j.refuse(refusal.AlreadyApplied, "kernel", "livepatch %s is %s", name, p.Condition())
	case m != nil && strings.Contains(m.Taint, "K"):
		j.refuse(refusal.AlreadyApplied, "kernel", "the module %s is loaded, though its patch is not in effect; livepatch revert --kernel %s unloads it", name, name)
	case m != nil:
		j.refuse(refusal.AlreadyApplied, "kernel", "a module of the name %s is loaded which is no livepatch", name)
	}
}

// object checks a module that the package patches. The kernel goes by its name
// alone: it would put the patch of one build into another.
func (j *judge) object(o *manifest.KernelObject) {
	if o.Name == manifest.Vmlinux {
		return
	}
	m := j.f.Module(o.Name)
	if m == nil {
		j.v.Later = append(j.v.Later, o.Name)
		return
	}
	want := hex.EncodeToString(o.BuildID)
	switch {
	case m.State != "live":
		j.v.Busy = fmt.Sprintf("module %s is %s", o.Name, m.State)
	case m.BuildID == "" && m.Srcversion == "":
		j.refuse(refusal.WrongTarget, o.Name, "the loaded module tells neither build-id nor srcversion; the package is for build %s", want)
	case m.BuildID != "" && m.BuildID != want:
		j.refuse(refusal.WrongTarget, o.Name, "the package is for build %s, loaded is build %s", want, m.BuildID)
	case o.Srcversion != "" && m.Srcversion != "" && o.Srcversion != m.Srcversion:
		j.refuse(refusal.WrongTarget, o.Name, "the package is for srcversion %s, loaded is %s", o.Srcversion, m.Srcversion)
	}
}

// File compares the file of a module that is not loaded with what the package
// was made for.
func (v *Verdict) File(o *manifest.KernelObject, file string, buildID []byte, srcversion string) {
	switch {
	case len(buildID) > 0 && !slices.Equal(buildID, o.BuildID):
		v.Refusals = append(v.Refusals, refusal.New(refusal.WrongTarget, o.Name,
			"the package is for build %x, the file that will be loaded is build %x: %s", []byte(o.BuildID), buildID, file))
	case o.Srcversion != "" && srcversion != "" && srcversion != o.Srcversion:
		v.Refusals = append(v.Refusals, refusal.New(refusal.WrongTarget, o.Name,
			"the package is for srcversion %s, the file that will be loaded has %s: %s", o.Srcversion, srcversion, file))
	}
}

// patches looks at the livepatches that are there.
func (j *judge) patches() {
	for i := range j.f.Patches {
		p := &j.f.Patches[i]
		if p.Name == j.k.Module {
			continue
		}
		if p.Transition {
			j.v.Busy = fmt.Sprintf("livepatch %s is in transition (%s); the kernel does one at a time", p.Name, p.Condition())
		}
		if !j.k.Replace || !p.Enabled || p.IsDirect() != j.direct() {
			continue
		}
		j.v.Replaces = append(j.v.Replaces, p.Name)
		if lost := j.lost(p); len(lost) > 0 {
			j.warn("%s is replaced, and with it its versions of %s, which this package does not replace", p.Name, strings.Join(lost, ", "))
		}
	}
}

// lost are the functions of a livepatch that the package does not replace.
func (j *judge) lost(p *Patch) []string {
	var lost []string
	for _, o := range p.Objects {
		i := slices.IndexFunc(j.k.Objects, func(x manifest.KernelObject) bool { return x.Name == o.Name })
		for _, f := range o.Functions {
			same := func(x manifest.KernelFunction) bool { return x.Name == f.Name && max(x.Position, 1) == f.Position }
			if i < 0 || !slices.ContainsFunc(j.k.Objects[i].Functions, same) {
				lost = append(lost, f.Name)
			}
		}
	}
	return lost
}

// conflicts turns the certain ones into refusals, all others into warnings.
func (j *judge) conflicts() {
	j.v.Conflicts = Conflicts([]Plan{j.plan}, j.f)
	for i := range j.v.Conflicts {
		c := &j.v.Conflicts[i]
		switch {
		case c.Effect == Harmless:
		case c.Certain && (c.Effect == Blocks || c.Effect == Defeats):
			j.refuse(refusal.FunctionClaimed, c.Where(), "%s: %s", c.Who, c.Text)
		default:
			j.warn("%s: %s: %s", c.Where(), c.Who, c.Text)
		}
	}
}
