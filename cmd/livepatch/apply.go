package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func applyCommand() *cli.Command {
	return &cli.Command{
		Name: "apply", Usage: "patch running processes or the kernel", ArgsUsage: "PKG", Category: groupRun,
		Flags: slices.Concat(selectorFlags(), loaderFlags(), switchFlags(), kernelFlags(), requireFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "if-fits", Usage: "kernel: do nothing, and say so, if the package is for another kernel or is applied", DisableDefaultText: true},
			&cli.BoolFlag{Name: "unload-replaced", Usage: "kernel: unload the modules of the patches that this one replaces", DisableDefaultText: true},
			&cli.BoolFlag{Name: "print-unit", Usage: "kernel: print a systemd unit that applies the package at boot", DisableDefaultText: true},
			jsonFlag(),
		}),
		Description: `
Maps the patch into each process, stops all their threads, checks that no
thread is inside or will return into what is replaced, redirects the functions
and lets the threads go on. If a thread is in the way, they go on too and it is
tried again, after 1 ms, then twice as long each time, at most 250 ms, until
--timeout; the exit code is 5 then, nothing was changed, and the error says
which thread is where.
No sleep is cut short: if all threads sleep or wait with a time limit, it takes
until the first one wakes up, so --timeout must be longer than that.
The last line says what became of the target.

With --require-key, or if the machine has a trust directory, a package that
the right keys have not signed is refused before the target is looked at.

With --switch int3 the threads run on: a breakpoint on the first byte of each
place keeps them away while the other bytes change, and a handler of SIGTRAP in
the process sends who meets it to the new code. Nothing is checked then but that
no thread is inside the bytes that change: calls of the old functions finish
there. Places that lie in two lines of 64 bytes are refused, and so are
processes that block or handle SIGTRAP (--chain-sigtrap permits the latter). A
thread that blocks it for a moment only may not be noticed, and a breakpoint ends
the process then, unless --guard has the loader trace all threads meanwhile.
docs/switching.md says when that is better.

With --json the result holds a journal of every byte that was written.

With --kernel the package's module is loaded into the running kernel, after a
check that it is the very kernel, and that its modules are the very modules,
that the package was made for. Then every task switches to the new code when it
is not inside the old. If that takes longer than --timeout, all is taken back;
the exit code is 5 then and the last line says "rolled back".

Examples:
  livepatch apply fix.lpatch --pid 4182
  livepatch apply fix.lpatch --exe /usr/sbin/server --max-pause 5ms
  livepatch apply fix.lpatch --pid 4182 --dry-run
  livepatch apply fix.lpatch --pid 4182 --switch int3
  livepatch apply fix.lpatch --pid 4182 --require-key release.key.pub
  livepatch apply fix.lpatch --kernel
  livepatch apply /var/lib/livepatch/fix.lpatch --kernel --print-unit`,
		Action: apply,
	}
}

func apply(c *cli.Context) error {
	args, err := takeArgs(c, 1, 1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	kernel, err := selectsKernel(c, "force", "if-fits", "unload-replaced", "print-unit")
	if err != nil {
		return err
	}
	if kernel {
		return applyKernel(c, p, args[0])
	}
	pids, err := mustSelect(c)
	if err != nil {
		return err
	}
	opt, err := loaderOptions(c, p)
	if err != nil {
		return err
	}
	pkg, err := processPackage(c, args[0])
	if err != nil {
		return err
	}
	res, err := process.Apply(pids, pkg, opt)
	if err != nil {
		return err
	}
	return printChange(p, res, "patched")
}
