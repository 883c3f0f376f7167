package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
	"livepatch/internal/refusal"
)

// reclaim unmaps the memory of all patches that were reverted before.
func reclaim(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	pids, err := mustSelect(c)
	if err != nil {
		return err
	}
	opt, err := loaderOptions(c, p)
	if err != nil {
		return err
	}
	return reclaimOf(p, pids, "", opt)
}

func reclaimOf(p *printer, pids []int, name string, opt process.Options) error {
	res, err := process.Reclaim(pids, name, opt)
	if err != nil {
		return err
	}
	if p.json {
		if err := p.JSON(map[string]any{"reclaimed": res}); err != nil {
			return err
		}
	}
	printReclaimed(p, res)
	return nil
}

// isNotApplied reports whether a patch was to be reverted that is not applied.
func isNotApplied(err error) bool {
	list := refusal.Of(err)
	return len(list) > 0 && !slices.ContainsFunc(list, func(r refusal.Refusal) bool { return r.Code != refusal.NotApplied })
}

// printReclaimed shows what became of the memory of reverted patches.
func printReclaimed(p *printer, r *process.Reclaimed) {
	var unmapped, kept uint64
	for _, one := range r.Processes {
		for _, x := range one.Patches {
			if x.Unmapped {
				unmapped += x.Bytes
				continue
			}
			kept += x.Bytes
			if !p.json {
				p.Printf("process %d  %s  %s  %d bytes at %#x stay mapped: %s\n", one.PID, p.Paint(bold, x.Patch), x.Target, x.Bytes, x.Base, x.Reason)
			}
		}
	}
	if r.DryRun {
		p.Note("nothing was changed; %d bytes of reverted patches could be unmapped, %d stay, stopped for %s to find out", unmapped, kept, milliseconds(r.Pause))
		return
	}
	p.Note("unmapped %d bytes of reverted patches, %d stay, paused %s", unmapped, kept, milliseconds(r.Pause))
}
