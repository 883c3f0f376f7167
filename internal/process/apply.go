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
		again := errors.As(err, &busy) && busy.again || opt.Belongs != nil && vanished(err)
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
	c := &change{procs: procs, opt: opt, forbid: map[*proc]*live.Ranges{}, seen: seen}
	defer c.close()
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	x := &plan{pkg: pkg, goes: goes, leaving: map[*proc][]*live.Record{}}
	if stage, err := c.enlist(x, procs, deadline); err != nil {
		return nil, c.abort(x.installs, &ApplyError{stage, Unchanged, err})
	}
	// From here on the patch is in place and nothing leads to it.
	opt.at("mapped")
	c.admit = func(pids []int, limit time.Time) error { return c.recruit(x, pids, limit) }
	opt.progress("stopping the target", 0, 0)
	if err := c.commit(deadline); err != nil {
		if c.entered {
			return nil, c.retire(x.installs, err)
		}
		return nil, c.abort(x.installs, err)
	}
	return c.result(), nil
}

// A plan is what comes and what goes.
type plan struct {
	pkg      *pack.Package // nil if nothing comes
	goes     removal
	installs []*installation
	leaving  map[*proc][]*live.Record
}

// enlist makes everything ready for the change in processes that are opened: what
// comes is mapped, and all writes are known.
func (c *change) enlist(x *plan, procs []*proc, deadline time.Time) (stage string, err error) {
	if err := c.each(procs, x.prepare); err != nil {
		return "prepare", err
	}
	// From here on everything is known but where the patch will lie.
	if x.pkg != nil && !c.opt.DryRun {
		c.opt.progress("mapping memory", 0, 0)
	}
	err = c.each(procs, func(p *proc) error { return mapOnce(p, of(p, x.installs), deadline, c.opt) })
	if err != nil {
		return "map", err
	}
	return "prepare", c.each(procs, func(p *proc) error { return c.add(p, x.members(p)) })
}

// each does something with processes, and collects the refusals of all. Those that
// are there no more are left out, if they need not be.
func (c *change) each(procs []*proc, do func(p *proc) error) error {
	var reasons refusal.List
	for _, p := range procs {
		if !slices.Contains(c.procs, p) {
			continue // left out before
		}
		if err := do(p); err != nil && !c.dismissed(p, err) && !collect(&reasons, err) {
			return err
		}
	}
	if len(c.procs) == 0 && len(reasons) == 0 {
		return errAllLeft
	}
	return reasons.Err()
}

func (x *plan) members(p *proc) []*member {
	var list []*member
	for _, in := range of(p, x.installs) {
		list = append(list, &member{record: &in.record, was: in.was, next: live.Applied, mapped: in.mapped || in.reused, fill: in.data, data: in.memory[partWrite]})
	}
	for _, r := range x.leaving[p] {
		next := live.Reverted
		if r.Hosts() && !x.goes.clear {
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
		return nil, nil, errors.New("no process to patch")
	}
	procs, err = openThose(pids, opt)
	if opt.Belongs != nil { // those that have left are new if they come again
		seen = slices.DeleteFunc(seen, func(pid int) bool {
			return slices.Contains(pids, pid) && !slices.ContainsFunc(procs, func(p *proc) bool { return p.pid == pid })
		})
	}
	if err == nil && len(procs) == 0 {
		err = errAllLeft
	}
	return procs, seen, err
}

// openThose opens some processes. Those that are chosen by what they run and have
// left meanwhile are left out.
func openThose(pids []int, opt *Options) (procs []*proc, err error) {
	var reasons refusal.List
	for _, pid := range pids {
		p, err := openOne(pid, opt)
		if err != nil && opt.left(pid, err) {
			if p != nil {
				p.close()
			}
			continue
		}
		if p != nil {
			procs = append(procs, p)
		}
		if !collect(&reasons, err) {
			return procs, err
		}
	}
	return procs, reasons.Err()
}

// openOne opens a process and looks whether it may be patched. It may be returned
// with the reason against it.
func openOne(pid int, opt *Options) (*proc, error) {
	p, err := open(pid)
	if err != nil {
		return nil, err
	}
	p.opt = opt
	p.keep(opt.held)
	err = p.permit()
	if err == nil && !opt.ScanMemory && !opt.fresh {
		err = p.coroutines()
	}
	return p, err
}

// prepare finds out for a process what goes, and prepares what comes.
func (x *plan) prepare(p *proc) error {
	leaving, err := p.leaving(x.goes)
	if err != nil {
		return err
	}
	x.leaving[p] = leaving
	if x.pkg == nil {
		return nil
	}
	list, err := p.prepareTargets(x.pkg, leaving)
	if err != nil {
		return p.orEnded(err)
	}
	x.installs = append(x.installs, list...)
	return nil
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
	x := &plan{pkg: pkg, goes: keepAll, leaving: map[*proc][]*live.Record{}}
	if err := x.prepare(procs[0]); err != nil {
		return err
	}
	return mapOnce(procs[0], x.installs, time.Time{}, &opt)
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

// mapOnce maps what comes to a process and tells its unwinders; in a dry run it
// makes sure that there is room.
func mapOnce(p *proc, list []*installation, deadline time.Time, opt *Options) error {
	if opt.DryRun {
		for _, in := range list {
			if err := in.linkNearest(); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := retry(deadline, opt, func() error { return mapAll(p, slices.Clone(list), deadline, opt) })
	for _, in := range list {
		if err == nil {
			err = in.register(deadline, opt)
		}
	}
	return err
}

func of(p *proc, list []*installation) []*installation {
	return slices.DeleteFunc(slices.Clone(list), func(in *installation) bool { return in.p != p })
}

// retire marks memory that nothing leads to any more, but that threads may have
// come to.
func (c *change) retire(list []*installation, err error) error {
	if StateOf(err) == Interrupted {
		return err
	}
	for _, in := range list {
		if (in.mapped || in.reused) && in.was.State != live.Hosting && !slices.Contains(c.left, in.p) {
			e := in.p.setState(&in.record, live.Reverted)
			if e != nil && !errors.Is(in.p.orEnded(e), errEnded) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}

// abort takes back what was mapped, for code that nothing has led to.
func (c *change) abort(list []*installation, err error) error {
	if StateOf(err) == Interrupted {
		return err
	}
	for _, p := range c.procs {
		mine := slices.DeleteFunc(of(p, list), func(in *installation) bool { return !in.mapped })
		if len(mine) == 0 {
			continue
		}
		if note := unmapAll(p, mine, c.opt); note != "" {
			err = errors.Join(err, errors.New(note))
		}
	}
	return err
}
