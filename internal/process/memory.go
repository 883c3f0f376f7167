//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"livepatch/internal/live"
)

const mapFlags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED_NOREPLACE

// protections of the parts; the target itself can never write what it runs.
func protections() [parts]uint64 {
	return [parts]uint64{unix.PROT_READ, unix.PROT_READ | unix.PROT_EXEC, unix.PROT_READ | unix.PROT_WRITE}
}

// errTaken is returned when an address has been used since the maps were read.
var errTaken = errors.New("the address is taken")

// mapAll maps and fills the memory of every installation in one process.
func mapAll(p *proc, list []*installation, deadline time.Time, opt *Options) error {
	// A try that failed may have mapped some.
	list = slices.DeleteFunc(list, func(in *installation) bool { return in.mapped || in.reused })
	list = slices.DeleteFunc(list, (*installation).reuse)
	if len(list) == 0 {
		return nil
	}
	for _, in := range list {
		if err := in.hostNone(); err != nil {
			return err
		}
		if err := in.linkNearest(); err != nil {
			return err
		}
	}
	return p.withThread(deadline, opt, func(c *injection) error {
		for _, in := range list {
			if err := in.mapSomewhere(c); err != nil {
				return err
			}
		}
		return nil
	})
}

// mapSomewhere maps the patch where it was linked for, or at the next
// candidate if the target has mapped something there in the meantime.
func (in *installation) mapSomewhere(c *injection) error {
	const most = 64
	for range most {
		err := in.mapAt(c)
		if err == nil {
			in.mapped = true
			return in.store(c.t)
		}
		if !errors.Is(err, errTaken) {
			return err
		}
		if err := in.p.readMaps(); err != nil {
			return err
		}
		if err := in.linkNearest(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: the target takes every address before the patch does", in.where())
}

// mapAt makes the mappings; what was mapped is unmapped if one fails.
func (in *installation) mapAt(c *injection) error {
	at := in.record.Base
	for i, prot := range protections() {
		size := in.record.Sizes[i]
		if size == 0 {
			continue
		}
		got, err := c.call(unix.SYS_MMAP, at, size, prot, mapFlags, ^uint64(0), 0)
		if err == nil && got != at { // before Linux 4.17 the address was only a wish
			_, _ = c.call(unix.SYS_MUNMAP, got, size)
			err = syscall.EEXIST
		}
		if err != nil {
			if done := at - in.record.Base; done > 0 {
				_, _ = c.call(unix.SYS_MUNMAP, in.record.Base, done)
			}
			if err == syscall.EEXIST {
				return errTaken
			}
			return fmt.Errorf("%s: map %#x bytes of memory: %w", in.where(), size, err)
		}
		at += size
	}
	return nil
}

// store fills the mapped memory and reads it back.
func (in *installation) store(t *thread) error {
	at := in.record.Base
	for i, b := range in.memory {
		if err := in.p.writeVerified(b, at, t); err != nil {
			return err
		}
		at += in.record.Sizes[i]
	}
	return nil
}

// unmapAll takes the memory of patches away that never were applied. If no
// thread can be had for it, or an unwinder may know the patch, the memory stays
// and is marked as retired; that is told in the returned note.
func unmapAll(p *proc, list []*installation, opt *Options) (note string) {
	const limit = time.Second
	free, err := p.forgetAll(list, time.Now().Add(3*limit), opt)
	if len(free) > 0 {
		err = errors.Join(err, p.withThread(time.Now().Add(limit), opt, func(c *injection) error {
			for _, in := range free {
				if _, err := c.call(unix.SYS_MUNMAP, in.record.Base, in.record.Size()); err != nil {
					return err
				}
				in.mapped = false
			}
			return nil
		}))
	}
	if err == nil || errors.Is(err, errEnded) || errors.Is(err, errExec) {
		return "" // the memory is gone
	}
	for _, in := range list {
		if in.mapped {
			_ = p.setState(&in.record, live.Reverted)
			note = fmt.Sprintf("%d unused bytes stay mapped at %#x in process %d: %v", in.record.Size(), in.record.Base, p.pid, err)
		}
	}
	return note
}

// forgetAll makes the unwinders forget patches to which nothing has led, and
// returns those that no unwinder knows, or will come to know.
func (p *proc) forgetAll(list []*installation, deadline time.Time, opt *Options) (free []*installation, err error) {
	for _, in := range list {
		if !in.mapped {
			continue
		}
		if e := p.forget(&in.record, deadline, opt); e != nil {
			err = errors.Join(err, e)
			continue
		}
		if in.record.Known() { // a thread is on its way to tell of it
			err = errors.Join(err, fmt.Errorf("a thread has not come back from the unwinder"))
			continue
		}
		free = append(free, in)
	}
	return free, err
}
