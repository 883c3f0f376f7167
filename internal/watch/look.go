package watch

import (
	"time"

	"livepatch/internal/fit"
	"livepatch/internal/process"
)

func (w *watcher) lookDue(now time.Time) {
	for {
		p := w.ledger.due(now)
		if p == nil {
			return
		}
		w.lookAt(p, now)
	}
}

// lookAt looks which packages a program needs and has them applied.
func (w *watcher) lookAt(p *program, now time.Time) {
	if p.looks == 0 && w.isStranger(p.pid) {
		p.looks = settled
		w.ledger.plan(p, now.Add(delay(p.looks)))
		return
	}
	var jobs []job
	retry := time.Time{}
	err := w.cfg.Machine.Look(p.pid, func(s *process.Seen) {
		if p.life != (process.Life{}) && p.life != s.Life {
			p.reset()
		}
		p.life, p.command = s.Life, s.Command
		jobs, retry = w.needs(p, s, now)
		if w.strangers[s.Program] {
			p.looks = settled
		}
	})
	if process.Ended(err) && !w.isThere(p.pid) {
		w.ledger.remove(p)
		return
	}
	p.looks++
	next := now.Add(delay(p.looks))
	if !retry.IsZero() && retry.Before(next) {
		next = retry
	}
	p.waits = len(jobs) > 0 && w.running == workers
	switch {
	case len(jobs) == 0:
		w.ledger.plan(p, next)
	case p.waits:
		w.ledger.plan(p, now.Add(full))
	default:
		p.busy, p.due = true, next
		w.running++
		go w.work(p.pid, p.life, jobs)
	}
}

// isThere reports whether a process can be looked at. While it starts another
// program it may seem to have ended.
func (w *watcher) isThere(pid int) bool {
	_, err := w.cfg.Machine.Identify(pid)
	return err == nil
}

// maxStrangers bounds the programs that are remembered.
const maxStrangers = 4096

// isStranger reports whether a process runs a program that was looked at in
// another process, and that no package is for. Most starts are of such programs.
func (w *watcher) isStranger(pid int) bool {
	file, err := w.cfg.Machine.Program(pid)
	return err == nil && w.strangers[file]
}

// judge remembers a program that no package is for.
func (w *watcher) judge(program process.File, images []fit.Image) {
	if len(images) == 0 {
		return
	}
	for _, name := range w.folder.names {
		if w.folder.files[name].pkg.MayFit(images[0]) {
			return
		}
	}
	if len(w.strangers) >= maxStrangers {
		clear(w.strangers)
	}
	w.strangers[program] = true
}

// needs returns the packages that are to be applied now, and when the first of
// those that failed is to be tried again.
func (w *watcher) needs(p *program, s *process.Seen, now time.Time) (jobs []job, retry time.Time) {
	images := Images(s)
	p.fits = false
	w.judge(s.Program, images)
	for _, name := range w.folder.names {
		pkg := w.folder.files[name].pkg
		if !pkg.Fits(images) {
			continue
		}
		p.fits = true
		f, failed := p.failed[pkg.Digest]
		state := pkg.StateIn(s.Patches)
		switch {
		case p.done[pkg.Digest]:
		case state == fit.Applied, state == fit.Reverted:
			p.done[pkg.Digest] = true
		case failed && f.next.After(now):
			if retry.IsZero() || f.next.Before(retry) {
				retry = f.next
			}
		default:
			jobs = append(jobs, job{name, pkg})
		}
	}
	return jobs, retry
}
