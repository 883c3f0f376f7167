package klp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"livepatch/internal/kimage"
	"livepatch/internal/kstate"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Verify judges a package against the running kernel, changing nothing.
func Verify(pkg *pack.Package, opt Options) (*kstate.Verdict, *kstate.Facts, error) {
	l, err := newLoader(opt)
	if err != nil {
		return nil, nil, err
	}
	return l.verify(pkg)
}

func (l *loader) verify(pkg *pack.Package) (*kstate.Verdict, *kstate.Facts, error) {
	k := pkg.Manifest.Kernel
	if k == nil {
		return nil, nil, fmt.Errorf("%s patches programs, not the kernel", pkg.Manifest.Name)
	}
	facts, err := l.read()
	if err != nil {
		return nil, nil, err
	}
	plan := kstate.Plan{Name: pkg.Manifest.Name, Kernel: k}
	if m, err := kimage.ParseModule(pkg.Members[k.Payload.Member]); err == nil {
		plan.BuildID = hex.EncodeToString(m.BuildID)
	}
	if k.Base != nil {
		if m, err := kimage.ParseModule(pkg.Members[k.Base.Payload.Member]); err == nil {
			plan.Base, _ = m.Value("version")
		}
	}
	v := kstate.Judge(plan, pkg.Members[k.Payload.Member], facts)
	if !v.Foreign {
		l.opt.progress("looking up symbols")
		v.Symbols(l.Files(), k, facts)
		l.modulesLater(v, k)
	}
	return v, facts, nil
}

// Apply loads a package into the running kernel and waits until every task
// runs the new code. If that takes longer than the time-out, everything is
// taken back. The error is a refusal.List, a *BusyError, a *LoadError or
// something else, within an *Error that tells what became of the kernel.
func Apply(ctx context.Context, pkg *pack.Package, opt Options) (*Result, error) {
	l, err := newLoader(opt)
	if err != nil {
		return nil, err
	}
	return l.apply(ctx, pkg)
}

func (l *loader) apply(ctx context.Context, pkg *pack.Package) (*Result, error) {
	v, facts, err := l.verify(pkg)
	if err != nil {
		return nil, &Error{"check", Unchanged, err}
	}
	k := pkg.Manifest.Kernel
	res := l.newResult(pkg, v, facts)
	switch {
	case l.opt.IfFits && (v.Foreign || v.Applied):
		res.Skipped = v.Refusals[0].Text
		return res, nil
	case len(v.Refusals) > 0:
		return nil, &Error{"check", Unchanged, v.Refusals.Err()}
	case v.Busy != "":
		return nil, &Error{"check", Unchanged, &BusyError{Reason: v.Busy}}
	case l.opt.DryRun:
		return res, nil
	}
	// From here on nothing is known that speaks against it.
	log := l.Log()
	if k.Flavour == manifest.FlavourDirect {
		if err := l.applyDirect(pkg, v, facts, res, log); err != nil {
			return nil, err
		}
		l.trouble(k.Module, res, log)
		return res, nil
	}
	l.opt.progress("loading %s", k.Module)
	start := time.Now()
	if err := l.Load(pkg.Members[k.Payload.Member]); err != nil {
		return nil, &Error{"load", Unchanged, l.loadError(k.Module, err, log)}
	}
	// From here on the kernel switches task by task.
	t := &transition{k.Module, true, functionNames(k)}
	if err := l.finish(ctx, t, res); err != nil {
		return nil, err
	}
	res.Transition = time.Since(start)
	l.replaced(v, res)
	l.trouble(k.Module, res, log)
	return res, nil
}

// trouble warns of faults in the kernel's log.
func (l *loader) trouble(module string, res *Result, log func() []kstate.Record) {
	if log == nil {
		return
	}
	for _, r := range kstate.Relevant(log(), module) {
		if r.Trouble() {
			res.Warnings = append(res.Warnings, fmt.Sprintf("the kernel's log says: %s (%s)", r.Text, r.Meaning))
		}
	}
}

func (l *loader) newResult(pkg *pack.Package, v *kstate.Verdict, facts *kstate.Facts) *Result {
	k := pkg.Manifest.Kernel
	res := &Result{Patch: pkg.Manifest.Name, Module: k.Module, Flavour: k.Flavour, DryRun: l.opt.DryRun, Release: facts.Release, Functions: []string{},
		Later: v.Later, Replaced: []Replaced{}, Warnings: v.Warnings}
	for _, o := range k.Objects {
		for _, f := range o.Functions {
			res.Functions = append(res.Functions, o.Name+": "+f.Name)
		}
	}
	for _, name := range v.Replaces {
		res.Replaced = append(res.Replaced, Replaced{Name: name})
	}
	return res
}

func functionNames(k *manifest.Kernel) []string {
	var names []string
	for _, o := range k.Objects {
		for _, f := range o.Functions {
			names = append(names, f.Name)
		}
	}
	return names
}

func (l *loader) loadError(module string, err error, log func() []kstate.Record) *LoadError {
	e := &LoadError{Module: module, Err: err, Meaning: kstate.ErrnoMeaning(l.ErrorName(err))}
	if log != nil {
		e.Log = kstate.Relevant(log(), module)
	}
	return e
}

// finish waits for the transition of a patch that was loaded. If it does not
// end in time it is reversed, or forced if that was asked for.
func (l *loader) finish(ctx context.Context, t *transition, res *Result) error {
	err := l.watch(ctx, t, l.opt.timeout())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTimeout) && l.opt.Force:
		res.Forced = true
		return l.force(ctx, t)
	case errors.Is(err, errTimeout):
		busy := l.busy(t, fmt.Sprintf("the transition of %s did not end within %s", t.name, l.opt.timeout()))
		return l.reverse(t, busy)
	case errors.Is(err, errInterrupted):
		return l.reverse(t, fmt.Errorf("interrupted while tasks were switching"))
	}
	return &Error{"transition", Unfinished, err}
}

func (l *loader) force(ctx context.Context, t *transition) error {
	err := l.set(t.name, "force", "1")
	if err == nil {
		err = l.watch(ctx, t, l.letMove)
	}
	if err != nil {
		return &Error{"transition", Unfinished, fmt.Errorf("force the transition of %s: %w", t.name, err)}
	}
	return nil
}

// turn makes a transition that did not end, because of cause, go the other way
// and waits for that; late is said if it does not end either. It is not ended by
// interrupts: half a transition is no state to leave.
func (l *loader) turn(t *transition, cause error, late string) error {
	other, value := &transition{t.name, !t.enabling, t.replaced}, "0"
	if other.enabling {
		value = "1"
	}
	err := l.set(t.name, "enabled", value)
	if err == nil {
		if err = l.watch(context.Background(), other, max(l.goBack, l.opt.timeout())); errors.Is(err, errTimeout) {
			err = l.busy(other, late)
		}
	}
	if err != nil {
		return &Error{"transition", Unfinished, fmt.Errorf("%w\n%v", cause, err)}
	}
	return nil
}

// reverse takes back a patch whose transition did not end, because of cause.
func (l *loader) reverse(t *transition, cause error) error {
	l.opt.progress("taking %s back", t.name)
	if err := l.turn(t, cause, "the way back did not end either"); err != nil {
		return err
	}
	if reason := l.unload(t.name); reason != "" {
		return &Error{"unload", RolledBack, fmt.Errorf("%w\nthe module %s stays loaded without effect: %s", cause, t.name, reason)}
	}
	return &Error{"transition", RolledBack, cause}
}

// replaced finds out what became of the patches whose place was taken.
func (l *loader) replaced(v *kstate.Verdict, res *Result) {
	if !l.opt.Unload {
		return
	}
	for i := range res.Replaced {
		r := &res.Replaced[i]
		r.Reason = l.unload(r.Name)
		r.Unloaded = r.Reason == ""
	}
}

// notApplied is the refusal to revert what is not there.
func notApplied(name string) error {
	return &Error{"check", Unchanged, refusal.List{refusal.New(refusal.NotApplied, "kernel", "no livepatch %s is loaded", name)}}
}

// bare drops the operation and the path that the os package puts before an
// error; the caller names both.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		if errors.Is(p.Err, os.ErrPermission) {
			return fmt.Errorf("%w (livepatch must run as root)", p.Err)
		}
		return p.Err
	}
	return err
}
