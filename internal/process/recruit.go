//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Processes that are chosen by what they run, not by their numbers, come and go
// while others of them are made ready. One that has left is left out. One that has
// come is made ready while those stand that were found before, which cannot fork
// meanwhile, and then stands with them: so an end is reached at any rate of forks.

// errAllLeft says that there was a process.
var errAllLeft = errors.New("all processes have ended, or run another program by now")

// vanished reports whether an error says that a process is no more, or runs
// another program.
func vanished(err error) bool {
	return errors.Is(err, errAllLeft) || errors.Is(err, errEnded) || errors.Is(err, unix.ESRCH) || errors.Is(err, errExec)
}

// left reports whether a process that failed is not one of the chosen any more.
func (o *Options) left(pid int, err error) bool {
	return o.Belongs != nil && (vanished(err) || !o.Belongs(pid) || ended(pid))
}

// dismissed leaves a process out of the change, if it has left by itself. If one of
// that number comes again, it is a new one.
func (c *change) dismissed(p *proc, err error) bool {
	if !c.opt.left(p.pid, err) {
		return false
	}
	c.dismiss(p)
	return true
}

func (c *change) dismiss(p *proc) {
	p.release()
	c.procs = slices.DeleteFunc(slices.Clone(c.procs), func(o *proc) bool { return o == p })
	c.parts = slices.DeleteFunc(slices.Clone(c.parts), func(x *part) bool { return x.p == p })
	c.seen = slices.DeleteFunc(c.seen, func(pid int) bool { return pid == p.pid })
	c.left = append(c.left, p)
}

// close ends the work with all processes.
func (c *change) close() {
	closeAll(c.procs)
	closeAll(c.left)
}

// stopAll stops every process, until no other has come that belongs to them.
func (c *change) stopAll(limit time.Time) error {
	stand := map[*proc]bool{}
	for {
		for _, p := range slices.Clone(c.procs) {
			if stand[p] {
				continue
			}
			if err := p.stop(limit); err != nil && !c.dismissed(p, err) {
				return err
			}
			stand[p] = true
			c.counts[p] = len(p.threads)
		}
		fresh, err := c.fresh()
		switch {
		case err != nil:
			return err
		case len(fresh)+len(c.procs) == 0:
			return errAllLeft
		case len(fresh) == 0:
			return nil
		case c.admit == nil:
			return startedMeanwhile(fresh[0])
		case time.Now().After(limit):
			return &BusyError{PID: fresh[0], Reason: "was started meanwhile, as others were before"}
		}
		if err := c.admit(fresh, limit); err != nil {
			return err
		}
	}
}

// recruit makes a change ready in processes that have come, while all others stand.
func (c *change) recruit(x *plan, pids []int, limit time.Time) error {
	quiet := *c.opt
	quiet.Progress = nil // which may take its time
	loud := c.opt
	c.opt = &quiet
	defer func() { c.opt = loud }()
	procs, err := openThose(pids, c.opt)
	c.procs = append(c.procs, procs...)
	known := len(x.installs)
	if err == nil {
		_, err = c.enlist(x, procs, limit)
	}
	if err == nil {
		for _, p := range procs {
			if slices.Contains(c.procs, p) { // what has left is new if it comes again
				c.seen = append(c.seen, p.pid)
			}
		}
		slices.Sort(c.seen)
		return nil
	}
	// What was mapped in them goes, as nothing leads to it. They will be found again.
	err = c.abort(x.installs[known:], err)
	x.installs = x.installs[:known]
	for _, p := range procs {
		if slices.Contains(c.procs, p) {
			c.dismiss(p)
		}
	}
	return err
}

// fresh lists the processes that have come since the change was prepared and
// should be among its own.
func (c *change) fresh() (list []int, err error) {
	if c.opt.Belongs == nil {
		return nil, nil
	}
	all, err := All()
	if err != nil {
		return nil, err
	}
	for _, pid := range all {
		if _, old := slices.BinarySearch(c.seen, pid); !old && c.opt.Belongs(pid) && !ended(pid) {
			list = append(list, pid)
		}
	}
	return list, nil
}

// newcomers makes sure that no process has come that should be among the
// selected ones: none of those that stand can start another one now.
func (c *change) newcomers() error {
	fresh, err := c.fresh()
	if err == nil && len(fresh) > 0 {
		err = startedMeanwhile(fresh[0])
	}
	return err
}

func startedMeanwhile(pid int) error {
	return &BusyError{PID: pid, Reason: "was started meanwhile", again: true}
}
