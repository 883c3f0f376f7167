//go:build linux && amd64

package process

import (
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
)

// Apply applies a package to processes, to all or to none of them. Every target
// of the package must be mapped in each. The error is a refusal.List, a
// *BusyError or something else, within an *ApplyError that tells what became of
// the targets.
func Apply(pids []int, pkg *pack.Package, opt Options) (*Result, error) {
	runtime.LockOSThread() // ptrace knows tracers by thread
	defer runtime.UnlockOSThread()
	deadline := time.Now().Add(opt.timeout())
	opt.progress("reading the target", 0, 0)
	procs, list, err := prepareAll(pids, pkg, &opt)
	defer closeAll(procs)
	if err != nil {
		return nil, &ApplyError{"prepare", Unchanged, err}
	}
	// From here on everything is known but where the patch will lie.
	if opt.DryRun {
		for _, in := range list {
			if err := in.linkNearest(); err != nil {
				return nil, &ApplyError{"prepare", Unchanged, err}
			}
		}
	} else {
		opt.progress("mapping memory", 0, 0)
		if err := mapEverywhere(procs, list, deadline, &opt); err != nil {
			return nil, abort(procs, list, &ApplyError{"map", Unchanged, err}, &opt)
		}
	}
	// From here on the patch is in place and nothing leads to it.
	opt.at("mapped")
	c := newChange(procs, &opt)
	for _, in := range list {
		c.add(&part{p: in.p, record: &in.record, writes: in.record.Writes, mapped: in.mapped, state: live.Applied}, in.old())
	}
	c.seal()
	opt.progress("stopping the target", 0, 0)
	if err := c.commit(deadline); err != nil {
		return nil, abort(procs, list, err, &opt)
	}
	res := c.result(pkg.Manifest.Name)
	if opt.DryRun {
		for i := range res.Processes {
			for j := range res.Processes[i].Images {
				res.Processes[i].Images[j].Base = 0
			}
		}
	}
	return res, nil
}

// Verify checks everything about a package and a process that can be checked
// without stopping it.
func Verify(pid int, pkg *pack.Package, opt Options) error {
	opt.DryRun = true
	procs, list, err := prepareAll([]int{pid}, pkg, &opt)
	defer closeAll(procs)
	if err != nil {
		return err
	}
	for _, in := range list {
		if err := in.linkNearest(); err != nil {
			return err
		}
	}
	return nil
}

// prepareAll opens the processes and prepares every target in each. Reasons
// against it are collected over all of them.
func prepareAll(pids []int, pkg *pack.Package, opt *Options) (procs []*proc, list []*installation, err error) {
	pids = slices.Clone(pids)
	slices.Sort(pids)
	pids = slices.Compact(pids)
	if len(pids) == 0 {
		return nil, nil, fmt.Errorf("no process to patch")
	}
	digest, err := digestOf(pkg)
	if err != nil {
		return nil, nil, err
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
		if err != nil {
			continue
		}
		for i := range pkg.Manifest.Targets {
			in, err := p.prepare(pkg, i, digest)
			if err != nil {
				err = p.orEnded(err)
			}
			if !collect(&reasons, err) {
				return procs, nil, err
			}
			if err == nil {
				list = append(list, in)
			}
		}
	}
	return procs, list, reasons.Err()
}

// digestOf is the digest that the package's file ends with. Computing it checks
// the package once more.
func digestOf(pkg *pack.Package) (sum [32]byte, err error) {
	b, err := pack.Write(pkg)
	if err == nil {
		_, err = hex.Decode(sum[:], []byte(pack.Digest(b)))
	}
	return sum, err
}

// collect takes refusals out of an error; false if it is something else.
func collect(to *refusal.List, err error) bool {
	var list refusal.List
	var one refusal.Refusal
	switch {
	case errors.As(err, &list):
		*to = append(*to, list...)
	case errors.As(err, &one):
		*to = append(*to, one)
	default:
		return err == nil
	}
	return true
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
	}
	return nil
}

func of(p *proc, list []*installation) []*installation {
	return slices.DeleteFunc(slices.Clone(list), func(in *installation) bool { return in.p != p })
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

func newChange(procs []*proc, opt *Options) *change {
	return &change{procs: procs, opt: opt, ranges: map[*proc][]live.Range{}, forbid: map[*proc]*live.Ranges{}}
}

// add adds a part and the code that no thread may be inside of.
func (c *change) add(x *part, forbid []live.Range) {
	c.parts = append(c.parts, x)
	c.ranges[x.p] = append(c.ranges[x.p], forbid...)
}

// seal prepares what is needed while the target is stopped.
func (c *change) seal() {
	for _, p := range c.procs {
		for i := range c.ranges[p] {
			p.lookAtEnd(&c.ranges[p][i])
		}
		c.forbid[p] = live.NewRanges(c.ranges[p])
	}
}

// lookAtEnd finds out whether a call may end the code of a range. Code that
// cannot be read may.
func (p *proc) lookAtEnd(r *live.Range) {
	code := make([]byte, min(r.End-r.Start, 16))
	r.Open = p.readMem(code, r.End-uint64(len(code))) != nil || live.MayEndWithCall(code)
}
