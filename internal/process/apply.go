//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// Apply applies a package to processes, to all or to none of them. Every target
// of the package must be mapped in each. The error is a refusal.List, a
// *BusyError or something else, within an *ApplyError that tells what became of
// the targets.
func Apply(pids []int, pkg *pack.Package, opt Options) (*Result, error) {
	return transact(pids, pkg, keepAll, opt)
}

// Retarget applies a package in place of all patches of the processes, by one
// change: functions that had a replacement and get another one lead to either at
// any time.
func Retarget(pids []int, pkg *pack.Package, opt Options) (*Result, error) {
	return transact(pids, pkg, takeAll, opt)
}

// A removal says which of the patches of a process go, and how.
type removal struct {
	of    func(p *proc) ([]*live.Record, error)
	clear bool // redirects that lead through records go, too
}

var (
	keepAll = removal{of: func(*proc) ([]*live.Record, error) { return nil, nil }}
	takeAll = removal{of: func(p *proc) ([]*live.Record, error) { return p.patches.Applied(), nil }}
)

// transact changes processes: a package comes (nil for none), patches go. If
// another loader, or new processes, come between, it starts again.
func transact(pids []int, pkg *pack.Package, goes removal, opt Options) (*Result, error) {
	runtime.LockOSThread() // ptrace knows tracers by thread
	defer runtime.UnlockOSThread()
	deadline := time.Now().Add(opt.timeout())
	for {
		res, err := attempt(pids, pkg, goes, deadline, &opt)
		const wait = 2 * time.Millisecond
		var busy *BusyError
		again := errors.As(err, &busy) && busy.again || opt.Belongs != nil && errors.Is(err, errEnded)
		if !again || StateOf(err) != Unchanged || time.Now().Add(wait).After(deadline) {
			return res, err
		}
		opt.progress("another loader is at work", 0, 0)
		time.Sleep(wait)
	}
}

// attempt makes one change, prepared for what it finds.
func attempt(pids []int, pkg *pack.Package, goes removal, deadline time.Time, opt *Options) (*Result, error) {
	opt.progress("reading the target", 0, 0)
	procs, seen, err := openAll(pids, opt)
	defer closeAll(procs)
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	c := &change{procs: procs, opt: opt, forbid: map[*proc]*live.Ranges{}, seen: seen}
	plan, err := prepareAll(procs, pkg, goes)
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	// From here on everything is known but where the patch will lie.
	for _, in := range plan.installs {
		if opt.DryRun {
			err = errors.Join(err, in.linkNearest())
		}
	}
	if err == nil && !opt.DryRun && len(plan.installs) > 0 {
		opt.progress("mapping memory", 0, 0)
		err = mapEverywhere(procs, plan.installs, deadline, opt)
	}
	if err != nil {
		return nil, abort(procs, plan.installs, &ApplyError{"map", Unchanged, err}, opt)
	}
	// From here on the patch is in place and nothing leads to it.
	opt.at("mapped")
	for _, p := range procs {
		err = errors.Join(err, c.add(p, plan.members(p)))
	}
	if err != nil {
		return nil, abort(procs, plan.installs, &ApplyError{"prepare", Unchanged, err}, opt)
	}
	opt.progress("stopping the target", 0, 0)
	if err := c.commit(deadline); err != nil {
		if c.entered {
			return nil, retire(plan.installs, err)
		}
		return nil, abort(procs, plan.installs, err, opt)
	}
	return c.result(), nil
}

// A plan is what comes and what goes.
type plan struct {
	installs []*installation
	leaving  map[*proc][]*live.Record
	clear    bool // of what leaves, the redirects too that lead through its records
}

func (x *plan) members(p *proc) []*member {
	var list []*member
	for _, in := range of(p, x.installs) {
		list = append(list, &member{record: &in.record, was: in.was, next: live.Applied, mapped: in.mapped || in.reused, fill: in.data, data: in.memory[partWrite]})
	}
	for _, r := range x.leaving[p] {
		next := live.Reverted
		if r.Hosts() && !x.clear {
			next = live.Hosting
		}
		list = append(list, &member{record: r, was: r.Control, next: next, mapped: true})
	}
	return list
}

// openAll opens the processes, and lists those that there are. Reasons against
// patching them are collected over all.
func openAll(pids []int, opt *Options) (procs []*proc, seen []int, err error) {
	pids = slices.Compact(slices.Sorted(slices.Values(pids)))
	if opt.Belongs != nil {
		if seen, err = All(); err != nil {
			return nil, nil, err
		}
		pids = slices.DeleteFunc(slices.Clone(seen), func(pid int) bool { return !opt.Belongs(pid) || ended(pid) })
	}
	if len(pids) == 0 {
		return nil, nil, fmt.Errorf("no process to patch")
	}
	var reasons refusal.List
	for _, pid := range pids {
		p, err := open(pid)
		if err == nil {
			p.opt = opt
			p.keep(opt.held)
			procs = append(procs, p)
			err = p.permit()
		}
		if err == nil && !opt.ScanMemory && !opt.fresh {
			err = p.coroutines()
		}
		if !collect(&reasons, err) {
			return procs, nil, err
		}
	}
	return procs, seen, reasons.Err()
}

// prepareAll finds out for each process what goes, and prepares what comes.
// Reasons against it are collected over all of them.
func prepareAll(procs []*proc, pkg *pack.Package, goes removal) (*plan, error) {
	x := &plan{leaving: map[*proc][]*live.Record{}, clear: goes.clear}
	var reasons refusal.List
	for _, p := range procs {
		leaving, err := p.leaving(goes)
		if !collect(&reasons, err) {
			return nil, err
		}
		x.leaving[p] = leaving
		if pkg == nil || err != nil {
			continue
		}
		list, err := p.prepareTargets(pkg, leaving)
		if err != nil {
			err = p.orEnded(err)
		}
		if !collect(&reasons, err) {
			return nil, err
		}
		x.installs = append(x.installs, list...)
	}
	return x, reasons.Err()
}

// leaving asks what goes, if the process is in a state from which to go on.
func (p *proc) leaving(goes removal) ([]*live.Record, error) {
	if c := p.patches.Pending; c != nil {
		return nil, p.pending(c)
	}
	return goes.of(p)
}

// pending says that a loader has begun a change and not ended it.
func (p *proc) pending(c *live.Change) error {
	r := c.Report(alive(c.Leader.Owner))
	if r.Alive {
		return &BusyError{PID: p.pid, Reason: fmt.Sprintf("is being patched by process %d", r.Loader), again: true}
	}
	return refusal.New(refusal.Interrupted, p.where(), "a loader was killed when %d of %d writes of its %s of %s were made: repair it first",
		r.Written, r.Writes, r.Kind, joined(r.Patches))
}

// prepareTargets prepares every target of a package.
func (p *proc) prepareTargets(pkg *pack.Package, leaving []*live.Record) ([]*installation, error) {
	digest, err := manifest.Digest(pkg.Manifest)
	if err != nil {
		return nil, err
	}
	var list []*installation
	var reasons refusal.List
	stay := slices.DeleteFunc(p.patches.Applied(), func(r *live.Record) bool { return slices.Contains(leaving, r) })
	for i := range pkg.Manifest.Targets {
		in, err := p.prepare(pkg, i, digest, stay)
		if !collect(&reasons, err) {
			return nil, err
		}
		if err == nil {
			list = append(list, in)
		}
	}
	return list, reasons.Err()
}

// Verify checks everything about a package and a process that can be checked
// without stopping it.
func Verify(pid int, pkg *pack.Package, opt Options) error {
	opt.DryRun = true
	procs, _, err := openAll([]int{pid}, &opt)
	defer closeAll(procs)
	if err != nil {
		return err
	}
	plan, err := prepareAll(procs, pkg, keepAll)
	if err != nil {
		return err
	}
	for _, in := range plan.installs {
		if err := in.linkNearest(); err != nil {
			return err
		}
	}
	return nil
}

// collect takes refusals out of an error; false if it is something else.
func collect(to *refusal.List, err error) bool {
	list := refusal.Of(err)
	*to = append(*to, list...)
	return err == nil || list != nil
}

func closeAll(procs []*proc) {
	for _, p := range procs {
		p.close()
	}
}

func mapEverywhere(procs []*proc, list []*installation, deadline time.Time, opt *Options) error {
	for _, p := range procs {
		_, err := retry(deadline, opt, func() error { return mapAll(p, of(p, list), deadline, opt) })
		if err != nil {
			return err
		}
		for _, in := range of(p, list) {
			if err := in.register(deadline, opt); err != nil {
				return err
			}
		}
	}
	return nil
}

func of(p *proc, list []*installation) []*installation {
	return slices.DeleteFunc(slices.Clone(list), func(in *installation) bool { return in.p != p })
}

// retire marks memory that nothing leads to any more, but that threads may have
// come to.
func retire(list []*installation, err error) error {
	if StateOf(err) == Interrupted {
		return err
	}
	for _, in := range list {
		if (in.mapped || in.reused) && in.was.State != live.Hosting {
			e := in.p.setState(&in.record, live.Reverted)
			if e != nil && !errors.Is(in.p.orEnded(e), errEnded) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

// abort takes back what was mapped, for code that nothing has led to.
func abort(procs []*proc, list []*installation, err error, opt *Options) error {
	if StateOf(err) == Interrupted {
		return err
	}
	for _, p := range procs {
		mine := slices.DeleteFunc(of(p, list), func(in *installation) bool { return !in.mapped })
		if len(mine) == 0 {
			continue
		}
		if note := unmapAll(p, mine, opt); note != "" {
			err = errors.Join(err, errors.New(note))
		}
	}
	return err
}
