package klp

import (
	"errors"
	"fmt"
	"io/fs"

	"livepatch/internal/kstate"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// applyDirect puts a patch of direct calls on: it loads the base module, if
// that is not there, and the module of the patch, whose init redirects the
// functions and opens the gate of all of them; a module that was taken off is put
// on again. Then what is replaced is taken off. There is no transition: calls
// that run finish in the code that they are in.
func (l *loader) applyDirect(pkg *pack.Package, v *kstate.Verdict, facts *kstate.Facts, res *Result, log func() []kstate.Record) error {
	k := pkg.Manifest.Kernel
	brought := facts.Module(k.Base.Module) == nil
	if brought {
		l.opt.progress("loading %s", k.Base.Module)
		if err := l.Load(pkg.Members[k.Base.Payload.Member]); err != nil {
			return &Error{"load", Unchanged, l.loadError(k.Base.Module, err, log)}
		}
	}
	var err error
	if v.Loaded {
		l.opt.progress("enabling %s", k.Module)
		if err = l.switchDirect(k.Module, true); err != nil {
			e := l.loadError(k.Module, err, log)
			e.Loaded, err = true, e
		}
	} else {
		l.opt.progress("loading %s", k.Module)
		if err = l.Load(pkg.Members[k.Payload.Member]); err != nil {
			err = l.loadError(k.Module, err, log)
		}
	}
	if err == nil {
		err = l.mustBe(k.Module, true)
	}
	if err != nil {
		if brought {
			l.unload(k.Base.Module) // it stays if the module does, and is of no effect
		}
		return &Error{"load", Unchanged, err}
	}
	// From here on every new call of the functions runs the new code.
	for i := range res.Replaced {
		r := &res.Replaced[i]
		if err := l.switchDirect(r.Name, false); err != nil {
			r.Reason = err.Error()
			res.Warnings = append(res.Warnings, fmt.Sprintf("%s could not be taken off: %v", r.Name, err))
		}
	}
	return nil
}

// switchDirect puts a patch of direct calls on or takes it off.
func (l *loader) switchDirect(module string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	at := kstate.DirectSwitch(module)
	if err := l.Write(at, value); err != nil {
		return fmt.Errorf("write %s to /%s: %w", value, at, bare(err))
	}
	return nil
}

// mustBe looks whether a patch is on or off as it was told to be.
func (l *loader) mustBe(module string, on bool) error {
	all, err := kstate.ReadDirect(l.Files())
	if err != nil {
		return fmt.Errorf("read the state of %s: %w", module, err)
	}
	for _, p := range all {
		if p.Name == module && p.Enabled == on {
			return nil
		}
	}
	return fmt.Errorf("%s does not say that it is %s", module, map[bool]string{true: "on", false: "off"}[on])
}

// revertDirect closes the gate of a patch of direct calls and takes its
// redirects away. The module is retired.
func (l *loader) revertDirect(p *kstate.Patch, res *Reverted) (*Reverted, error) {
	res.Flavour = manifest.FlavourDirect
	if !p.Enabled {
		return nil, &Error{"check", Unchanged, refusal.List{refusal.New(refusal.NotApplied, "kernel", "%s is retired: it was taken back, and its module stays until the next boot", p.Name)}}
	}
	for _, o := range p.Objects {
		for _, f := range o.Functions {
			res.Functions = append(res.Functions, o.Name+": "+f.Name)
		}
	}
	if l.opt.DryRun {
		return res, nil
	}
	// From here on nothing is known that speaks against it.
	l.opt.progress("disabling %s", p.Name)
	err := l.switchDirect(p.Name, false)
	if err != nil {
		state := Unchanged
		if l.mustBe(p.Name, false) == nil { // the gate is closed, only a redirect was not let go of
			state = Partly
		}
		return nil, &Error{"unload", state, err}
	}
	if err := l.mustBe(p.Name, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{"unload", Partly, err}
	}
	res.Reason = "retired until the next boot: no kernel tells when the last call has left its code"
	return res, nil
}
