package klp

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"livepatch/internal/kstate"
)

// errInUse is what Unload returns while something uses the module.
var errInUse = errors.New("it is in use")

// A loader changes one system.
type loader struct {
	system
	opt     Options
	letGo   time.Duration // how long the kernel may need to let go of a module whose patch is disabled
	letMove time.Duration // how long a transition may take that was forced
	goBack  time.Duration // how long a transition may take that was reversed, at least
}

// newLoader makes the loader of this machine. The kernel lets go of a module in
// a work queue.
func newLoader(opt Options) (*loader, error) {
	sys, err := thisMachine()
	return &loader{sys, opt, 5 * time.Second, DefaultTimeout, DefaultTimeout}, err
}

// Poll intervals. The kernel tries to switch what is left once a second, the
// list of tasks is long.
const (
	pollEvery  = 20 * time.Millisecond
	tasksEvery = time.Second
)

// A transition is what the loader watches.
type transition struct {
	name     string   // of the livepatch
	enabling bool     // else it is being disabled
	replaced []string // the functions that the livepatch replaces
}

// code is what no task may be in for the transition to end.
func (t *transition) code() kstate.Code {
	if t.enabling {
		return kstate.Code{Functions: t.replaced}
	}
	return kstate.Code{Module: t.name}
}

// errTimeout and errInterrupted end the watching of a transition.
var (
	errTimeout     = errors.New("the time is over")
	errInterrupted = errors.New("interrupted")
)

// watch waits for a transition to end: a patch that was enabled stays, one that
// was disabled goes away.
func (l *loader) watch(ctx context.Context, t *transition, limit time.Duration) error {
	deadline, look := time.Now().Add(limit), time.Now().Add(tasksEvery)
	for {
		p, err := kstate.ReadPatch(l.Files(), t.name)
		switch {
		case err != nil:
			return err
		case p == nil && t.enabling:
			return fmt.Errorf("livepatch %s was disabled by somebody else", t.name)
		case p == nil, t.enabling && p.Enabled && !p.Transition:
			return nil
		case t.enabling && !p.Enabled:
			return fmt.Errorf("livepatch %s is being disabled by somebody else", t.name)
		case !t.enabling && p.Enabled && !p.Transition:
			return fmt.Errorf("livepatch %s was enabled again by somebody else", t.name)
		}
		if now := time.Now(); now.After(look) {
			l.tell(t)
			look = now.Add(tasksEvery)
		}
		if time.Now().After(deadline) {
			return errTimeout
		}
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-time.After(pollEvery):
		}
	}
}

// tell shows which tasks a transition waits for.
func (l *loader) tell(t *transition) {
	if l.opt.Progress == nil {
		return
	}
	tasks, n, err := kstate.Holders(l.Files(), t.enabling)
	if err != nil || n == 0 {
		l.opt.progress("waiting for the last tasks to switch")
		return
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf("; %d more", n-1)
	}
	l.opt.progress("waiting: %s %s%s", tasks[0].Who(), tasks[0].Why(t.code()), more)
}

// busy describes a transition that did not end.
func (l *loader) busy(t *transition, reason string) *BusyError {
	tasks, n, err := kstate.Holders(l.Files(), t.enabling)
	if err != nil {
		tasks, n = nil, 0
	}
	e := &BusyError{Reason: reason, Tasks: tasks, Total: n, Code: t.code()}
	switch {
	case n == 0:
		e.Advice = "no task of /proc was in the way at the end: an idle processor may have been; try again"
	case tasks[0].Kernel:
		e.Advice = "a longer --timeout helps if the kernel thread comes out of the function at some time"
	default:
		e.Advice = "a longer --timeout may help: after 15 s the kernel wakes tasks that can be woken; or end what the tasks wait for"
	}
	return e
}

// set writes one of the switches of a livepatch.
func (l *loader) set(name, file, value string) error {
	at := path.Join("sys/kernel/livepatch", name, file)
	if err := l.Write(at, value); err != nil {
		return fmt.Errorf("write %s to /%s: %w", value, at, bare(err))
	}
	return nil
}

// unload takes out a module whose patch is not in effect. The reason is why it
// stays, "" if it is gone.
func (l *loader) unload(name string) (reason string) {
	deadline := time.Now().Add(l.letGo)
	for {
		err := l.Unload(name)
		switch {
		case err == nil:
			return ""
		case !errors.Is(err, errInUse):
			return err.Error()
		case time.Now().After(deadline):
			return "something holds it; the kernel keeps code that was forced out until the next boot"
		}
		time.Sleep(pollEvery)
	}
}
