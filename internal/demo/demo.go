// Package demo patches a server of its own while clients use it: it makes the
// package from two objects, applies it, takes it back, and checks every reply.
package demo

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/build"
	"livepatch/internal/pack"
	"livepatch/internal/process"
)

// patchName is the name of the patch that the demo applies.
const patchName = "fix-prices"

// ErrUnsupported says that the demo cannot run on this system.
var ErrUnsupported = errors.New("the demo patches a running Linux program, on x86-64 or arm64")

// A Teller prints the story: what is being done, and what came of it.
type Teller interface {
	Step(verb, format string, args ...any)
	Good(verb, format string, args ...any)
	Bad(verb, format string, args ...any)
}

// Run runs the demo. It returns nil only if every check held; the server has
// ended in any case.
func Run(ctx context.Context, version string, say Teller) error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return fmt.Errorf("%w; this is %s/%s", ErrUnsupported, runtime.GOOS, runtime.GOARCH)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	srv, err := startServer()
	if err != nil {
		return err
	}
	defer srv.clean()
	say.Step("start", "a shop server, process %d: %d threads, static, stripped, built without a thought of patching",
		srv.pid(), threads+1)
	s := &story{ctx: ctx, say: say, version: version, srv: srv, load: startLoad(srv.socket)}
	defer s.load.finish()
	for _, chapter := range []func() error{s.before, s.create, s.apply, s.after, s.revert, s.end} {
		if err := chapter(); err != nil {
			return err
		}
	}
	return nil
}

// story is what one run knows.
type story struct {
	ctx               context.Context
	say               Teller
	version           string
	srv               *server
	load              *load
	pkg               *pack.Package
	applied, reverted span
}

// enough is how many replies each chapter waits for, and leisure how long it
// lasts at least, so that one can see it.
const (
	enough  = 2000
	leisure = 300 * time.Millisecond
)

func (s *story) before() error {
	s.say.Step("ask", "%d clients ask for prices without a pause; every reply is checked", clients)
	if err := s.load.wait(s.ctx, enough, leisure); err != nil {
		return err
	}
	rep := s.load.sample()
	s.say.Bad("wrong", "%s", describe(rep))
	return nil
}

// create makes the package from the two objects and the server's own file, as
// "livepatch create" does.
func (s *story) create() error {
	start := time.Now()
	in := build.Inputs{Name: patchName, Version: s.version}
	target := build.Target{Name: "shop"}
	pair := build.Pair{OrigName: "before.o", PatchedName: "after.o"}
	for _, f := range []struct {
		name, file string
		to         **elfpatch.File
	}{
		{target.Name, "server", &target.File},
		{pair.OrigName, "before.o", &pair.Orig},
		{pair.PatchedName, "after.o", &pair.Patched},
	} {
		b, err := file(f.file)
		if err != nil {
			return err
		}
		if *f.to, err = elfpatch.Parse(b); err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
	}
	target.Pairs = []build.Pair{pair}
	in.Targets = []build.Target{target}
	pkg, err := build.Create(in)
	if err != nil {
		return err
	}
	b, err := pack.Write(pkg)
	if err != nil {
		return err
	}
	if s.pkg, err = pack.Read(b); err != nil {
		return err
	}
	t := &s.pkg.Manifest.Targets[0]
	s.say.Step("create", "a package of %d bytes in %s from the object before and after:", len(b), round(time.Since(start)))
	for _, f := range t.Functions {
		s.say.Step("", "%s at %#x, found by %s, proven byte by byte", f.Name, f.Address, f.Proof)
	}
	for _, v := range t.Variables {
		s.say.Step("", "it shares %s at %#x, found at %s", v.Name, v.Address, v.Found)
	}
	return nil
}

func (s *story) apply() error {
	s.applied.from = s.load.last.Load()
	res, err := process.Apply([]int{s.srv.pid()}, s.pkg, process.Options{})
	s.applied.to = s.load.last.Load()
	if err != nil {
		return fmt.Errorf("%w (%s)", err, process.StateOf(err))
	}
	s.say.Step("apply", "%d functions replaced under load; the threads stood still for %s",
		res.Functions, round(res.Pause.Total))
	return nil
}

func (s *story) after() error {
	if err := s.load.wait(s.ctx, enough, leisure); err != nil {
		return err
	}
	s.say.Good("right", "%s", describe(s.load.sample()))
	s.say.Good("", "the static counters went on: reply %d was the last one before", s.applied.from)
	return nil
}

func (s *story) revert() error {
	s.reverted.from = s.load.last.Load()
	res, err := process.Revert(s.srv.pid(), patchName, process.Options{})
	s.reverted.to = s.load.last.Load()
	if err != nil {
		return fmt.Errorf("%w (%s)", err, process.StateOf(err))
	}
	s.say.Step("revert", "the old code again; the threads stood still for %s", round(res.Pause.Total))
	if err := s.load.wait(s.ctx, enough, leisure); err != nil {
		return err
	}
	s.say.Bad("wrong", "%s", describe(s.load.sample()))
	return nil
}

func (s *story) end() error {
	replies, err := s.load.finish()
	if err != nil {
		return err
	}
	if err := s.srv.end(); err != nil {
		return err
	}
	if err := judge(replies, s.applied, s.reverted); err != nil {
		return err
	}
	s.say.Good("end", "%d replies, none lost, none twice, none half old and half new", len(replies))
	return nil
}

func describe(r reply) string {
	return fmt.Sprintf("%d × %s cost %d cents (reply %d, discount %d)", r.pieces, r.item.name, r.cents, r.serial, r.given)
}

func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}
