package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"livepatch/internal/klp"
	"livepatch/internal/process"
)

// selectorFlags choose what a command works on.
func selectorFlags() []cli.Flag {
	return append(processFlags(), &cli.BoolFlag{Name: "kernel", Usage: "this machine's kernel", DisableDefaultText: true})
}

// processFlags choose processes.
func processFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntSliceFlag{Name: "pid", Usage: "process `N`; repeatable, all or none are changed"},
		&cli.StringFlag{Name: "exe", Usage: "every process that runs the executable `PATH`"},
		&cli.StringFlag{Name: "service", Usage: "every process of the systemd `UNIT`"},
	}
}

// loaderFlags are the limits of what stops a process.
func loaderFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: "max-pause", Usage: "let the target run again rather than stop it longer than `D`", DefaultText: process.DefaultMaxPause.String()},
		&cli.DurationFlag{Name: "timeout", Usage: "give up when the target was busy for `D`",
			DefaultText: fmt.Sprintf("%v; kernels %v", process.DefaultTimeout, klp.DefaultTimeout)},
		&cli.BoolFlag{Name: "scan-memory", Usage: "accept programs that switch stacks: look through all their memory while they stand", DisableDefaultText: true},
		&cli.BoolFlag{Name: "dry-run", Usage: "do everything, the stop included, but change nothing", DisableDefaultText: true},
		demangleFlag(),
	}
}

// switchFlags choose how code is changed.
func switchFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "switch", Usage: "`WAY` to change code: stop, while nothing runs, or int3, while threads run", DefaultText: string(process.SwitchStop)},
		&cli.StringFlag{Name: "sync", Usage: "`WAY` of int3 to synchronise processors: interrupt or membarrier", DefaultText: string(process.SyncInterrupt)},
		&cli.BoolFlag{Name: "guard", Usage: "int3 traces all threads meanwhile: those that block SIGTRAP for a moment survive breakpoints", DisableDefaultText: true},
		&cli.BoolFlag{Name: "chain-sigtrap", Usage: "int3 may give signals to the target's own handler of SIGTRAP", DisableDefaultText: true},
	}
}

// selected returns the processes that the selector names; nil if there is none.
func selected(c *cli.Context) ([]int, error) {
	given := 0
	for _, name := range []string{"pid", "exe", "service", "kernel"} {
		if c.IsSet(name) {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, hintHelp(usageErrorf("%s takes one of %s", c.Command.Name, selectors(c, "--pid", "--exe", "--service")), c.Command)
	case c.IsSet("service"), c.IsSet("exe"):
		is, err := belongs(c)
		if err != nil {
			return nil, err
		}
		pids, err := process.Those(is)
		switch {
		case err != nil:
			return nil, err
		case len(pids) == 0 && c.IsSet("exe"):
			return nil, fmt.Errorf("no process runs %s", c.String("exe"))
		case len(pids) == 0:
			return nil, fmt.Errorf("no process belongs to %s", c.String("service"))
		}
		return pids, nil
	}
	pids := c.IntSlice("pid")
	for _, pid := range pids {
		if pid <= 0 {
			return nil, hintHelp(usageErrorf("%d is no process", pid), c.Command)
		}
	}
	return pids, nil
}

// belongs is what --exe or --service chooses processes by; nil for --pid.
func belongs(c *cli.Context) (func(pid int) bool, error) {
	switch {
	case c.IsSet("service"):
		return process.InService(c.String("service")), nil
	case c.IsSet("exe"):
		path, err := filepath.Abs(c.String("exe"))
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", c.String("exe"), err)
		}
		return process.Running(path), nil
	}
	return nil, nil
}

// selectors lists options, and --kernel if the command has it.
func selectors(c *cli.Context, list ...string) string {
	for _, f := range c.Command.Flags {
		if slices.Contains(f.Names(), "kernel") {
			list = append(list, "--kernel")
		}
	}
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// kernelFlags are the options that only --kernel takes, besides those that a
// command names itself.
func kernelFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "force", Usage: "kernel: when the time is over, make the tasks that are left switch where they stand; can crash the system", DisableDefaultText: true},
	}
}

// selectsKernel reports whether the command is about the kernel. It refuses
// what does not go together: options of processes with --kernel, options of
// the kernel without it.
func selectsKernel(c *cli.Context, only ...string) (bool, error) {
	other := []string{"pid", "exe", "service", "max-pause", "scan-memory", "switch", "sync", "guard", "chain-sigtrap"}
	if !c.Bool("kernel") {
		other = only
	}
	for _, name := range other {
		switch {
		case !c.IsSet(name):
		case c.Bool("kernel"):
			return false, hintHelp(usageErrorf("--%s does not go with --kernel", name), c.Command)
		default:
			return false, hintHelp(usageErrorf("--%s goes with --kernel only", name), c.Command)
		}
	}
	return c.Bool("kernel"), nil
}

// mustSelect is selected for commands that need a process.
func mustSelect(c *cli.Context) ([]int, error) {
	pids, err := selected(c)
	if err == nil && len(pids) == 0 {
		return nil, hintHelp(usageErrorf("%s needs %s", c.Command.Name, selectors(c, "--pid", "--exe", "--service")), c.Command)
	}
	return pids, err
}

// loaderOptions reads the flags of loaderFlags.
func loaderOptions(c *cli.Context, p *printer) (process.Options, error) {
	opt := process.Options{
		MaxPause: c.Duration("max-pause"), Timeout: c.Duration("timeout"),
		DryRun: c.Bool("dry-run"), ScanMemory: c.Bool("scan-memory"), Progress: p.Progress,
	}
	if err := switchOptions(c, &opt); err != nil {
		return opt, err
	}
	for _, name := range []string{"max-pause", "timeout"} {
		if c.IsSet(name) && c.Duration(name) <= 0 {
			return opt, hintHelp(usageErrorf("--%s must be positive", name), c.Command)
		}
	}
	var err error
	opt.Belongs, err = belongs(c)
	return opt, err
}

// switchOptions reads how code is to be changed.
func switchOptions(c *cli.Context, opt *process.Options) error {
	opt.Switch, opt.Sync, opt.ChainSigtrap = process.Switch(c.String("switch")), process.Sync(c.String("sync")), c.Bool("chain-sigtrap")
	opt.Guard = c.Bool("guard")
	switch opt.Switch {
	case "":
		opt.Switch = process.SwitchStop
	case process.SwitchStop, process.SwitchInt3:
	default:
		return hintHelp(usageErrorf("--switch takes stop or int3, not %q", c.String("switch")), c.Command)
	}
	switch opt.Sync {
	case "", process.SyncInterrupt, process.SyncMembarrier:
	default:
		return hintHelp(usageErrorf("--sync takes interrupt or membarrier, not %q", c.String("sync")), c.Command)
	}
	for _, name := range []string{"sync", "guard", "chain-sigtrap"} {
		if c.IsSet(name) && opt.Switch != process.SwitchInt3 {
			return hintHelp(usageErrorf("--%s goes with --switch int3 only", name), c.Command)
		}
	}
	return nil
}

// printChange shows what apply or revert did; the last line goes to standard
// error and states the target.
func printChange(p *printer, r *process.Result, did string) error {
	if p.json {
		if err := p.JSON(r); err != nil {
			return err
		}
	} else {
		for _, proc := range r.Processes {
			for _, im := range proc.Images {
				for _, w := range im.Journal {
					p.Printf("process %d  %s  %s  %#x: %s -> %s\n", proc.PID, im.Target, p.Paint(bold, p.names(w.Function)), w.Address, w.Old, w.New)
				}
			}
		}
	}
	for _, n := range r.Notes {
		p.Warn("%s", n)
	}
	for _, pid := range r.Forked {
		p.Warn("process %d was forked half-way; it runs, and needs livepatch repair --pid %d", pid, pid)
	}
	where := fmt.Sprintf("process %d", r.Processes[0].PID)
	if n := len(r.Processes); n > 1 {
		where = fmt.Sprintf("%d processes", n)
	}
	if r.DryRun {
		p.Note("nothing was changed; %s could be %s in %s now, stopped for %s to find out",
			plural(r.Functions, "function", "functions"), did, where, milliseconds(r.Pause.Total))
		return nil
	}
	if r.Switch == process.SwitchInt3 {
		p.Note("%s %s in %s as it ran: written in %s, no thread held longer than %s", did, plural(r.Functions, "function", "functions"), where,
			milliseconds(r.Took), milliseconds(r.Pause.Total))
		return nil
	}
	p.Note("%s %s in %s, paused %s", did, plural(r.Functions, "function", "functions"), where, milliseconds(r.Pause.Total))
	return nil
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
