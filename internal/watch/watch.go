// Package watch applies the packages of a directory to the processes that they
// fit: those that run, and those that start. It learns of starts from the
// kernel's process connector where that is permitted, and looks through all
// processes from time to time. What is applied is read from the processes
// themselves, so that nothing is applied twice, whoever applied it.
package watch

import (
	"context"
	"errors"
	"time"

	"livepatch/internal/fit"
	"livepatch/internal/pack"
	"livepatch/internal/process"
)

// Config says what to watch.
type Config struct {
	Dir      string        // of the packages
	Interval time.Duration // at which the directory and all processes are looked through
	Once     bool          // only what runs now, each once
	Poll     bool          // without the process connector
	Parse    Parse
	Machine  Machine
	Log      func(Event) // called by one goroutine
}

// A Machine is what has processes.
type Machine interface {
	Processes() ([]int, error)
	Identify(pid int) (process.Life, error)
	Program(pid int) (process.File, error)
	Look(pid int, look func(*process.Seen)) error
	Apply(pid int, pkg *pack.Package) (*process.Result, error)
}

const (
	workers = 8                     // processes that are patched at a time
	full    = 20 * time.Millisecond // until the next try to find a free one
	recheck = 10                    // intervals after which programs are identified anew though the connector tells
)

// Run watches until the context ends, or once. It returns the number of
// packages that could not be applied at the last try.
func Run(ctx context.Context, cfg Config) (failed int, err error) {
	w := newWatcher(cfg)
	news, err := w.folder.look(true)
	if err != nil {
		return 0, err
	}
	var signals <-chan signal
	reason := ""
	if !cfg.Once && !cfg.Poll {
		// First the connector, then the processes that run: none is missed.
		source, err := listen()
		if err == nil {
			defer source.close()
			signals = source.signals
		} else {
			reason = err.Error()
		}
	}
	w.log(Event{Event: Watching, File: cfg.Dir, Reason: reason})
	w.tell(news)
	w.scan(true)
	if cfg.Once {
		w.finishAll(ctx)
		return w.failures(), nil
	}
	w.loop(ctx, signals)
	return w.failures(), nil
}

// watcher is the state of Run. Only its goroutine changes it.
type watcher struct {
	cfg     Config
	folder  *folder
	ledger  *ledger
	results chan result
	running int               // workers
	scans   int               // that were made
	blind   map[string]string // what was told of things that cannot be read

	strangers map[process.File]bool // programs that no package is for, whatever libraries they have
}

func newWatcher(cfg Config) *watcher {
	return &watcher{
		cfg: cfg, folder: &folder{dir: cfg.Dir, parse: cfg.Parse, files: map[string]*file{}}, ledger: newLedger(),
		results: make(chan result, workers), blind: map[string]string{}, strangers: map[process.File]bool{},
	}
}

// result is what became of a package, or with done set the end of a worker.
type result struct {
	pid  int
	life process.Life // of the program that was to be patched
	job  job
	res  *process.Result
	err  error
	done bool
}

// job is a package to apply.
type job struct {
	name string
	pkg  *fit.Package
}

func (w *watcher) log(e Event) {
	e.Time = time.Now()
	w.cfg.Log(e)
}

func (w *watcher) loop(ctx context.Context, signals <-chan signal) {
	tick := time.NewTicker(w.cfg.Interval)
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		if at, ok := w.ledger.next(); ok {
			due.Reset(max(time.Until(at), 0))
		}
		select {
		case <-ctx.Done():
			w.await()
			return
		case s, ok := <-signals:
			if !ok {
				signals = nil // it is only looked through from now on
				w.log(Event{Event: Lost, Reason: "the process connector has ended"})
				break
			}
			w.notice(s)
		case r := <-w.results:
			w.finish(r)
		case <-due.C:
			w.lookDue(time.Now())
		case <-tick.C:
			w.lookAround(signals == nil)
		}
	}
}

// lookAround looks through the directory and the processes.
func (w *watcher) lookAround(all bool) {
	news, err := w.folder.look(false)
	w.see(w.cfg.Dir, err)
	w.tell(news)
	w.scans++
	w.scan(all || w.scans%recheck == 0)
}

// see tells of something that cannot be read once, until it can be read again.
func (w *watcher) see(what string, err error) {
	if err == nil {
		delete(w.blind, what)
		return
	}
	if w.blind[what] != err.Error() {
		w.blind[what] = err.Error()
		w.log(Event{Event: Blind, Reason: err.Error()})
	}
}

// tell logs what is new in the directory. A package that is new may fit any
// process.
func (w *watcher) tell(news []finding) {
	for _, n := range news {
		switch {
		case n.err != nil:
			w.log(Event{Event: Bad, File: n.name, Reason: reasonOf(n.err), Codes: codesOf(n.err)})
		case n.pkg == nil:
			w.log(Event{Event: Gone, File: n.name})
		default:
			w.log(Event{Event: Found, File: n.name, Package: n.pkg.Name, Digest: n.pkg.Digest, Targets: n.pkg.Targets()})
		}
	}
	if len(news) == 0 {
		return
	}
	w.ledger.forget(w.folder.has)
	clear(w.strangers)
	now := time.Now()
	for _, p := range w.ledger.byPID {
		if !p.busy {
			w.ledger.plan(p, now)
		}
	}
}

// scan looks which processes there are. With identify it notices those that run
// another program than before.
func (w *watcher) scan(identify bool) {
	pids, err := w.cfg.Machine.Processes()
	w.see("/proc", err)
	if err != nil {
		return
	}
	now := time.Now()
	present := make(map[int]bool, len(pids))
	for _, pid := range pids {
		present[pid] = true
		p := w.ledger.byPID[pid]
		switch {
		case p == nil:
			p = w.ledger.add(pid)
			if w.scans == 0 {
				p.looks = settled
			}
			w.ledger.plan(p, now)
		case identify && !p.busy && p.life != (process.Life{}):
			if life, err := w.cfg.Machine.Identify(pid); err == nil && life != p.life {
				p.reset()
				w.ledger.plan(p, now)
			}
		}
	}
	for pid, p := range w.ledger.byPID {
		if !present[pid] && !p.busy {
			w.ledger.remove(p)
		}
	}
	w.lookDue(now)
}

// notice takes in what the kernel tells.
func (w *watcher) notice(s signal) {
	now := time.Now()
	switch s.kind {
	case lost:
		w.log(Event{Event: Lost})
		w.scan(true)
	case started:
		p := w.ledger.add(s.pid)
		if life, err := w.cfg.Machine.Identify(s.pid); err != nil || life != p.life {
			p.reset() // it was not seen with this program before
		}
		p.began = s.at
		if !p.busy {
			w.ledger.plan(p, now)
			w.lookDue(now)
		}
	case forked:
		// What its parent had when it was made, it has too; but the parent may
		// have been about to get more.
		if parent := w.ledger.byPID[s.parent]; parent != nil && parent.fits {
			w.ledger.plan(w.ledger.add(s.pid), now)
			w.lookDue(now)
		}
	}
}

// errReplaced is what a worker meets when a file is not the one that was read.
var errReplaced = errors.New("the file has changed")

// work applies packages to a process. It runs beside the watcher.
func (w *watcher) work(pid int, life process.Life, jobs []job) {
	for _, j := range jobs {
		pkg, what, err := w.folder.open(j.name)
		if err == nil && what.Digest != j.pkg.Digest {
			err = errReplaced // it will be looked at anew
		}
		var res *process.Result
		if err == nil {
			res, err = w.cfg.Machine.Apply(pid, pkg)
		}
		w.results <- result{pid: pid, life: life, job: j, res: res, err: err}
	}
	w.results <- result{pid: pid, done: true}
}

// finish takes in what a worker has done.
func (w *watcher) finish(r result) {
	p := w.ledger.byPID[r.pid]
	now := time.Now()
	digest := ""
	if !r.done {
		digest = r.job.pkg.Digest
	}
	e := Event{PID: r.pid, Command: p.command, File: r.job.name}
	switch {
	case r.done:
		w.running--
		p.busy = false
		if !w.cfg.Once {
			w.ledger.plan(p, p.due)
		}
	case r.err == nil:
		e.Event, e.Package, e.Functions, e.Pause = Applied, r.job.pkg.Name, r.res.Functions, r.res.Pause.Total
		if p.life == r.life {
			p.done[digest] = true
			delete(p.failed, digest)
			e.After = since(p.began)
		}
		w.log(e)
	case p.life != r.life: // it has started another program meanwhile
		p.due = now
	case process.Ended(r.err), errors.Is(r.err, errReplaced):
		p.due = now // there may be something else to see
	case isApplied(r.err):
		p.done[digest] = true // by somebody else, in the meantime
	default:
		retry, again := p.fail(digest, r.err.Error(), now)
		if next := now.Add(retry); next.Before(p.due) {
			p.due = next
		}
		if !again {
			e.Event, e.Package, e.Retry, e.Reason, e.Codes = Failed, r.job.pkg.Name, retry, reasonOf(r.err), codesOf(r.err)
			w.log(e)
		}
	}
}

// finishAll applies what is needed now and waits for it.
func (w *watcher) finishAll(ctx context.Context) {
	for w.running > 0 {
		select {
		case <-ctx.Done():
			w.await()
			return
		case r := <-w.results:
			w.finish(r)
		}
		for _, p := range w.ledger.byPID {
			if p.waits && w.running < workers {
				w.ledger.hold(p)
				w.lookAt(p, time.Now())
			}
		}
	}
}

// await waits for the workers.
func (w *watcher) await() {
	for w.running > 0 {
		w.finish(<-w.results)
	}
}

// failures counts the packages whose last try failed.
func (w *watcher) failures() (n int) {
	for _, p := range w.ledger.byPID {
		n += len(p.failed)
	}
	return n
}
