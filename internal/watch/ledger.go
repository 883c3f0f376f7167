package watch

import (
	"container/heap"
	"time"

	"livepatch/internal/process"
)

// A ledger remembers what was done with each running program and when it is to
// be looked at next. It holds one entry for each process.
type ledger struct {
	byPID map[int]*program
	queue queue
}

// program is what one process runs.
type program struct {
	pid     int
	life    process.Life // zero until it was looked at
	command string
	began   uint64    // when it started, by the kernel's clock; 0 if not known
	due     time.Time // of the next look
	looks   int       // that were made
	fits    bool      // some package
	busy    bool      // packages are being applied to it
	waits   bool      // for a free worker
	done    map[string]bool
	failed  map[string]failure
	place   int // in the queue, -1 if it is not there
}

// failure is a package that could not be applied to a program.
type failure struct {
	tries int
	next  time.Time
	why   string
}

func newLedger() *ledger { return &ledger{byPID: map[int]*program{}} }

// add returns the program of a process, a new one if it is not known.
func (l *ledger) add(pid int) *program {
	p := l.byPID[pid]
	if p == nil {
		p = &program{pid: pid, place: -1}
		p.reset()
		l.byPID[pid] = p
	}
	return p
}

// reset forgets what the process ran before.
func (p *program) reset() {
	p.life, p.began, p.looks, p.fits = process.Life{}, 0, 0, false
	p.done, p.failed = map[string]bool{}, map[string]failure{}
}

// plan sets the time of the next look.
func (l *ledger) plan(p *program, due time.Time) {
	p.due = due
	if p.place < 0 {
		heap.Push(&l.queue, p)
	} else {
		heap.Fix(&l.queue, p.place)
	}
}

// hold takes a program out of the queue until it is planned again.
func (l *ledger) hold(p *program) {
	if p.place >= 0 {
		heap.Remove(&l.queue, p.place)
	}
}

func (l *ledger) remove(p *program) {
	l.hold(p)
	delete(l.byPID, p.pid)
}

// next returns when the first look is due.
func (l *ledger) next() (time.Time, bool) {
	if len(l.queue) == 0 {
		return time.Time{}, false
	}
	return l.queue[0].due, true
}

// due takes the first program that is due out of the queue, nil if there is none.
func (l *ledger) due(now time.Time) *program {
	if len(l.queue) == 0 || l.queue[0].due.After(now) {
		return nil
	}
	return heap.Pop(&l.queue).(*program)
}

// forget drops what is remembered of packages that are not there any more.
func (l *ledger) forget(present func(digest string) bool) {
	for _, p := range l.byPID {
		for d := range p.done {
			if !present(d) {
				delete(p.done, d)
			}
		}
		for d := range p.failed {
			if !present(d) {
				delete(p.failed, d)
			}
		}
	}
}

// Libraries are mapped soon after a program has started, or at any time later.
const (
	firstDelay = 10 * time.Millisecond
	lastDelay  = time.Minute
	settled    = 9 // looks, of what ran before
)

// delay is the time from a look to the next one.
func delay(looks int) time.Duration {
	d := firstDelay
	for range looks - 1 {
		if d *= 4; d >= lastDelay {
			return lastDelay
		}
	}
	return d
}

// Packages that could not be applied are tried again, later each time.
const (
	firstRetry = time.Second
	lastRetry  = 10 * time.Minute
)

func (p *program) fail(digest, why string, now time.Time) (retry time.Duration, again bool) {
	f := p.failed[digest]
	f.tries++
	retry = firstRetry
	for range f.tries - 1 {
		if retry *= 2; retry >= lastRetry {
			retry = lastRetry
			break
		}
	}
	again = f.why == why
	f.next, f.why = now.Add(retry), why
	p.failed[digest] = f
	return retry, again
}

// queue is a heap of programs by the time of their next look.
type queue []*program

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *queue) Push(x any) {
	p := x.(*program)
	p.place = len(*q)
	*q = append(*q, p)
}

func (q *queue) Pop() any {
	old := *q
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	p.place = -1
	return p
}
