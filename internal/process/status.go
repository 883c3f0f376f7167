//go:build linux && (amd64 || arm64)

package process

// Status reads what patches are in a process, retired ones included, in the
// order in which they were applied. It does not stop it.
func Status(pid int) (*Report, error) {
	p, err := open(pid)
	if err != nil {
		return nil, err
	}
	defer p.close()
	r := &Report{PID: pid, Patches: p.patches.Reports(alive), Handlers: len(p.traps)}
	if c := p.patches.Pending; c != nil {
		r.Change = c.Report(alive(c.Leader.Owner))
	}
	return r, nil
}
