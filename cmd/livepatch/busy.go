package main

import (
	"errors"
	"fmt"

	"livepatch/internal/process"
)

// busyReport is what --json tells of a process that was busy until the time was
// over.
type busyReport struct {
	State    string           `json:"state"`  // the last line of the text
	Reason   string           `json:"reason"` // the error
	Attempts int              `json:"attempts"`
	Holders  []process.Holder `json:"holders"`
}

// busy tells who keeps a process busy, besides the one that the error names, and
// what can be done about it.
func (p *printer) busy(err error) {
	var b *process.BusyError
	if !errors.As(err, &b) {
		return
	}
	if p.json && !p.wrote {
		_ = p.JSON(busyReport{State: stateOf(err), Reason: err.Error(), Attempts: b.Attempts, Holders: append([]process.Holder{}, b.Holders...)})
	}
	if len(b.Holders) == 0 {
		return
	}
	for _, h := range b.Holders[1:] {
		fmt.Fprintln(p.err, printable(h.Who()+" "+h.What()))
	}
	switch p.command {
	case "apply", "retarget":
		p.Hint("a function that is always in use can be changed by --switch int3, or with a package made by --dispatch gated: calls that are under way finish in the old code")
	case "revert":
		p.Hint("a replacement that is always in use can be taken back by --switch int3: calls that are under way finish in it")
	}
}
