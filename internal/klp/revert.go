package klp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"livepatch/internal/kstate"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Revert disables a livepatch, waits until no task runs its code, and unloads
// its module. A module whose patch is not in effect any more, because another
// one took its place, is only unloaded. If the transition does not end in
// time the patch is enabled again.
func Revert(ctx context.Context, name string, opt Options) (*Reverted, error) {
	l, err := newLoader(opt)
	if err != nil {
		return nil, err
	}
	facts, err := l.facts()
	if err != nil {
		return nil, &Error{"check", Unchanged, err}
	}
	return l.revert(ctx, known(facts, name), facts)
}

// known is the name of the livepatch that a user means: that of the module, or
// of a package, in which other characters may stand for '_' and which the name
// of the module may have a prefix to.
func known(facts *kstate.Facts, name string) string {
	if facts.Patch(name) != nil || facts.Module(name) != nil && livepatch(facts.Module(name)) {
		return name
	}
	module := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, name)
	for _, try := range []string{module, "livepatch_" + module} {
		if m := facts.Module(try); facts.Patch(try) != nil || m != nil && livepatch(m) {
			return try
		}
	}
	return name
}

// livepatch reports a module that is a livepatch by its taint.
func livepatch(m *kstate.Module) bool { return strings.Contains(m.Taint, "K") }

// RevertAll reverts every livepatch, and unloads the modules of those that
// have no effect. It stops at the first that cannot be reverted; what was
// reverted before is returned with the error.
func RevertAll(ctx context.Context, opt Options) ([]Reverted, error) {
	l, err := newLoader(opt)
	if err != nil {
		return nil, err
	}
	return l.revertAll(ctx)
}

func (l *loader) revertAll(ctx context.Context) ([]Reverted, error) {
	facts, err := l.facts()
	if err != nil {
		return nil, &Error{"check", Unchanged, err}
	}
	done := []Reverted{}
	for _, name := range inEffectFirst(facts) {
		r, err := l.revert(ctx, name, facts)
		var e *Error
		if errors.As(err, &e) && len(done) > 0 && e.State != Unfinished {
			e.State = Partly
		}
		if err != nil {
			return done, err
		}
		done = append(done, *r)
	}
	return done, nil
}

// inEffectFirst lists all livepatches, those of the highest stack order first
// where the kernel tells it, then modules without a livepatch in effect.
func inEffectFirst(f *kstate.Facts) []string {
	patches := slices.Clone(f.Patches)
	slices.SortStableFunc(patches, func(a, b kstate.Patch) int { return order(b) - order(a) })
	var names []string
	for _, p := range patches {
		if p.Condition() != kstate.Retired {
			names = append(names, p.Name)
		}
	}
	for _, m := range f.Modules {
		if livepatch(&m) && !slices.Contains(names, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

func order(p kstate.Patch) int {
	if p.StackOrder == nil {
		return 0
	}
	return *p.StackOrder
}

func (l *loader) facts() (*kstate.Facts, error) {
	facts, err := l.read()
	if err != nil {
		return nil, err
	}
	var list refusal.List
	if !facts.Livepatch && facts.Module(manifest.BaseModule) == nil {
		list = append(list, refusal.New(refusal.NoLivepatch, "kernel", "there is no /sys/kernel/livepatch"))
	}
	if !facts.CanLoad {
		list = append(list, refusal.New(refusal.NoPermission, "kernel", "unloading a module takes CAP_SYS_MODULE; run livepatch as root, outside of containers"))
	}
	return facts, list.Err()
}

func (l *loader) revert(ctx context.Context, name string, facts *kstate.Facts) (*Reverted, error) {
	res := &Reverted{Name: name, Functions: []string{}}
	if p := facts.Patch(name); p != nil && p.IsDirect() {
		return l.revertDirect(p, res)
	}
	p, err := kstate.ReadPatch(l.Files(), name)
	if err != nil {
		return nil, &Error{"check", Unchanged, fmt.Errorf("read the state of livepatch %s: %w", name, err)}
	}
	if p == nil {
		m := facts.Module(name)
		if m == nil || !livepatch(m) {
			return nil, notApplied(name)
		}
		if l.opt.DryRun {
			return res, nil
		}
		l.takeOut(res, facts)
		return res, nil
	}
	t := &transition{name: name}
	for _, o := range p.Objects {
		for _, f := range o.Functions {
			res.Functions = append(res.Functions, o.Name+": "+f.Name)
			t.replaced = append(t.replaced, f.Name)
		}
	}
	if err := otherTransition(facts, name); err != nil {
		return nil, err
	}
	if l.opt.DryRun {
		return res, nil
	}
	// From here on nothing is known that speaks against it.
	start := time.Now()
	if err := l.disable(ctx, p, t, res); err != nil {
		return nil, err
	}
	res.Transition = time.Since(start)
	l.takeOut(res, facts)
	return res, nil
}

func otherTransition(facts *kstate.Facts, name string) error {
	for _, p := range facts.Patches {
		if p.Transition && p.Name != name {
			return &Error{"check", Unchanged, &BusyError{Reason: fmt.Sprintf("livepatch %s is in transition (%s); the kernel does one at a time", p.Name, p.Condition())}}
		}
	}
	return nil
}

// disable starts the way back and waits for its end.
func (l *loader) disable(ctx context.Context, p *kstate.Patch, t *transition, res *Reverted) error {
	l.opt.progress("disabling %s", t.name)
	if p.Enabled {
		if err := l.set(t.name, "enabled", "0"); err != nil {
			return &Error{"transition", Unchanged, err}
		}
	}
	err := l.watch(ctx, t, l.opt.timeout())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTimeout) && l.opt.Force:
		res.Forced = true
		return l.force(ctx, t)
	case errors.Is(err, errTimeout):
		return l.enableAgain(t, l.busy(t, fmt.Sprintf("the transition of %s did not end within %s", t.name, l.opt.timeout())))
	case errors.Is(err, errInterrupted):
		return l.enableAgain(t, fmt.Errorf("interrupted while tasks were switching"))
	}
	return &Error{"transition", Unfinished, err}
}

// enableAgain reverses the way back.
func (l *loader) enableAgain(t *transition, cause error) error {
	l.opt.progress("enabling %s again", t.name)
	if err := l.turn(t, cause, "enabling it again did not end either"); err != nil {
		return err
	}
	return &Error{"transition", RolledBack, cause}
}

func (l *loader) takeOut(res *Reverted, facts *kstate.Facts) {
	l.opt.progress("unloading %s", res.Name)
	if facts.ModulesDisabled {
		res.Reason = "/proc/sys/kernel/modules_disabled is 1"
		return
	}
	res.Reason = l.unload(res.Name)
	res.Unloaded = res.Reason == ""
}
