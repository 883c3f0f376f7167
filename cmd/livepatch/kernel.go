package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/klp"
	"livepatch/internal/kstate"
	"livepatch/internal/pack"
	"livepatch/manifest"
)

// kernelOptions reads the flags that a change of the kernel takes.
func kernelOptions(c *cli.Context, p *printer) (klp.Options, error) {
	opt := klp.Options{
		Timeout: c.Duration("timeout"), DryRun: c.Bool("dry-run"), Force: c.Bool("force"),
		IfFits: c.Bool("if-fits"), Unload: c.Bool("unload-replaced"), Progress: p.Progress,
	}
	if c.IsSet("timeout") && opt.Timeout <= 0 {
		return opt, hintHelp(usageErrorf("--timeout must be positive"), c.Command)
	}
	if opt.Force {
		p.Warn("--force gives up what makes live patching safe: tasks may mix old and new code, and code that is forced out cannot be unloaded")
	}
	return opt, nil
}

// kernelPackage reads a package that must be one for kernels.
func kernelPackage(path string) (*pack.Package, error) {
	pkg, _, err := readPackage(path)
	if err != nil {
		return nil, err
	}
	return pkg, forKernels(path, pkg)
}

func forKernels(path string, pkg *pack.Package) error {
	if pkg.Manifest.Kernel == nil {
		return hinted(usageErrorf("%s patches programs, not the kernel", path), "livepatch inspect %s shows which", path)
	}
	return nil
}

func applyKernel(c *cli.Context, p *printer, path string) error {
	opt, err := kernelOptions(c, p)
	if err != nil {
		return err
	}
	pkg, err := readTrusted(c, path)
	if err == nil {
		err = forKernels(path, pkg)
	}
	if err != nil {
		return err
	}
	if c.Bool("print-unit") {
		return printUnit(c, p, pkg, path)
	}
	res, err := klp.Apply(c.Context, pkg, opt)
	if err != nil {
		return p.kernelError(err)
	}
	for _, w := range res.Warnings {
		p.Warn("%s", printable(w))
	}
	if p.json {
		if err := p.JSON(res); err != nil {
			return err
		}
	}
	printApplied(p, res)
	return nil
}

func printApplied(p *printer, res *klp.Result) {
	kernel := "kernel " + res.Release
	if res.Skipped != "" {
		p.Note("nothing was changed, nothing was to be done: %s", printable(res.Skipped))
		return
	}
	if !p.json {
		for _, f := range res.Functions {
			when := ""
			for _, m := range res.Later {
				if strings.HasPrefix(f, m+": ") {
					when = "  (when " + m + " is loaded)"
				}
			}
			p.Printf("%s%s\n", f, when)
		}
	}
	for _, r := range res.Replaced {
		switch {
		case res.DryRun:
			p.Note("%s would be replaced", r.Name)
		case r.Unloaded:
			p.Note("%s was replaced and unloaded", r.Name)
		case res.Flavour == manifest.FlavourDirect && r.Reason == "":
			p.Note("%s was replaced and is retired: its module stays until the next boot", r.Name)
		case r.Reason != "":
			p.Note("%s was replaced, its module stays loaded: %s", r.Name, r.Reason)
		default:
			p.Note("%s was replaced; its module can be unloaded: livepatch revert --kernel %s", r.Name, r.Name)
		}
	}
	n := plural(len(res.Functions), "function", "functions")
	switch {
	case res.DryRun:
		p.Note("nothing was changed; %s of %s could be patched now", n, kernel)
	case res.Flavour == manifest.FlavourDirect:
		p.Note("patched %s of %s: new calls run the new code, those that run finish in the old", n, kernel)
	case res.Forced:
		p.Note("patched %s of %s, forced after %s", n, kernel, seconds(res.Transition))
	default:
		p.Note("patched %s of %s, all tasks switched within %s", n, kernel, seconds(res.Transition))
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// kernelError adds the advice that an error carries, and with --json prints
// what only the text has otherwise.
func (p *printer) kernelError(err error) error {
	var busy *klp.BusyError
	var load *klp.LoadError
	switch {
	case errors.As(err, &busy):
		if p.json {
			tasks := busy.Tasks
			if tasks == nil {
				tasks = []kstate.Task{}
			}
			if jerr := p.JSON(map[string]any{"state": stateOf(err), "reason": busy.Reason, "tasks": tasks, "waiting": busy.Total}); jerr != nil {
				return jerr
			}
		}
		if busy.Advice != "" {
			return hinted(err, "%s", busy.Advice)
		}
	case errors.As(err, &load) && p.json:
		log := load.Log
		if log == nil {
			log = []kstate.Record{}
		}
		if jerr := p.JSON(map[string]any{"state": stateOf(err), "reason": load.Err.Error(), "meaning": load.Meaning, "log": log}); jerr != nil {
			return jerr
		}
	}
	return err
}

func revertKernel(c *cli.Context, p *printer, names []string) error {
	opt, err := kernelOptions(c, p)
	if err != nil {
		return err
	}
	list := []klp.Reverted{}
	if len(names) == 0 {
		list, err = klp.RevertAll(c.Context, opt)
	} else {
		var r *klp.Reverted
		if r, err = klp.Revert(c.Context, names[0], opt); err == nil {
			list = append(list, *r)
		}
	}
	if p.json && len(list) > 0 {
		if jerr := p.JSON(list); jerr != nil {
			return jerr
		}
	}
	n := 0
	for _, r := range list {
		n += len(r.Functions)
		printReverted(p, &r, opt.DryRun)
	}
	if err != nil {
		return p.kernelError(err)
	}
	switch {
	case len(list) == 0:
		p.Note("nothing was changed: no livepatch is loaded")
	case opt.DryRun:
		p.Note("nothing was changed; %s could be reverted now", plural(n, "function", "functions"))
	case n == 0:
		p.Note("unloaded what had no effect; the code of the kernel was not changed")
	default:
		p.Note("reverted %s", plural(n, "function", "functions"))
	}
	return nil
}

func printReverted(p *printer, r *klp.Reverted, dry bool) {
	if !p.json {
		for _, f := range r.Functions {
			p.Printf("%s\n", printable(f))
		}
	}
	switch {
	case dry:
	case r.Flavour == manifest.FlavourDirect:
		p.Note("%s is %s", r.Name, r.Reason)
	case r.Unloaded && len(r.Functions) == 0:
		p.Note("%s had no effect any more; its module was unloaded", r.Name)
	case r.Unloaded:
		p.Note("%s was disabled within %s and its module unloaded", r.Name, seconds(r.Transition))
	default:
		p.Note("%s is disabled; its module stays loaded: %s", r.Name, r.Reason)
	}
}

func statusOfKernel(c *cli.Context, p *printer) error {
	if c.Bool("all") {
		return hintHelp(usageErrorf("--all does not go with --kernel, which shows all"), c.Command)
	}
	r, err := klp.ReadStatus()
	if err != nil {
		return err
	}
	if p.json {
		return p.JSON(r)
	}
	if !r.Livepatch {
		p.Note("kernel %s has no livepatch core", r.Release)
	}
	if len(r.Patches) == 0 {
		p.Printf("no patches\n")
		return nil
	}
	w := p.table()
	fmt.Fprintln(w, "PATCH\tSTATE\tOBJECT\tFUNCTIONS")
	for _, s := range r.Patches {
		if len(s.Objects) == 0 {
			fmt.Fprintf(w, "%s\t%s\t\t\n", s.Name, s.State)
		}
		for _, o := range s.Objects {
			state := s.State
			if s.State == "enabled" && o.Patched != nil && !*o.Patched {
				state = "waits for module"
			}
			if s.State == "enabled" && s.Dispatch != "" {
				state += ", " + s.Dispatch
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, state, o.Name, strings.Join(o.Names(), " "))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range r.Patches {
		for i := range s.Tasks {
			t := &s.Tasks[i]
			p.Printf("%s waits: %s %s\n", s.Name, printable(t.Who()), printable(t.Why(s.Code())))
		}
		if more := s.Waiting - len(s.Tasks); more > 0 {
			p.Printf("%s waits: %d more\n", s.Name, more)
		}
	}
	return nil
}

// verifyRunningKernel is verify for a package and the running kernel.
func verifyRunningKernel(c *cli.Context, p *printer, pkg *pack.Package) error {
	policy, err := trustPolicy(c, "key")
	if err != nil {
		return err
	}
	v, facts, err := klp.Verify(pkg, klp.Options{Progress: p.Progress})
	if err != nil {
		return err
	}
	v.Refusals = append(policy.Judge(pkg.Signatures), v.Refusals...)
	if p.json {
		if err := p.JSON(kernelVerdict{v, check.Signers(pkg, policy)}); err != nil {
			return err
		}
	}
	for _, w := range v.Warnings {
		p.Warn("%s", printable(w))
	}
	if len(v.Refusals) > 0 {
		return v.Refusals.Err()
	}
	if v.Busy != "" {
		return p.kernelError(&klp.Error{Stage: "check", State: klp.Unchanged, Err: &klp.BusyError{Reason: v.Busy}})
	}
	if !p.json {
		p.Printf("%s fits kernel %s\n", pkg.Manifest.Name, facts.Release)
	}
	return nil
}

// kernelVerdict is what verify --running-kernel --json prints.
type kernelVerdict struct {
	*kstate.Verdict
	Signatures []check.Signer `json:"signatures"`
}

func printUnit(c *cli.Context, p *printer, pkg *pack.Package, path string) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	demand, err := demandArgs(c)
	if err != nil {
		return err
	}
	unit, err := klp.Unit(program, path, pkg.Manifest, demand)
	if err != nil {
		return err
	}
	p.Printf("%s", unit)
	p.Hint("save it as /etc/systemd/system/livepatch-%s.service and run: systemctl enable livepatch-%s", pkg.Manifest.Name, pkg.Manifest.Name)
	return nil
}
