package klp

import (
	"fmt"
	"slices"
	"strings"

	"livepatch/internal/kstate"
)

// Report is what status tells of the running kernel.
type Report struct {
	Release   string   `json:"release"`
	BuildID   string   `json:"build_id"`
	Livepatch bool     `json:"livepatch"` // the kernel has a livepatch core
	Patches   []Status `json:"patches"`
}

// Status is one livepatch, or a module of one that is loaded without effect.
type Status struct {
	Name       string               `json:"name"`               // of the module and of the livepatch
	Flavour    string               `json:"flavour,omitempty"`  // "direct" for patches of direct calls
	Dispatch   string               `json:"dispatch,omitempty"` // of those, "shared" for one handler
	State      string               `json:"state"`              // "enabled", "enabling", "disabling", "disabled", "no effect", "retired"
	Replace    *bool                `json:"replace,omitempty"`
	StackOrder *int                 `json:"stack_order,omitempty"`
	Objects    []kstate.PatchObject `json:"objects"`
	BuildID    string               `json:"build_id,omitempty"` // of the module
	Srcversion string               `json:"srcversion,omitempty"`
	Version    string               `json:"version,omitempty"` // of the module, as its author wrote it
	Refs       int                  `json:"refs"`
	Tasks      []kstate.Task        `json:"tasks"`   // that a transition waits for
	Waiting    int                  `json:"waiting"` // how many those are in all
}

// Code is what the tasks that a transition waits for must leave.
func (s *Status) Code() kstate.Code {
	if s.State == "disabling" {
		return kstate.Code{Module: s.Name}
	}
	var c kstate.Code
	for _, o := range s.Objects {
		for _, f := range o.Functions {
			c.Functions = append(c.Functions, f.Name)
		}
	}
	return c
}

// Facts reads what the running kernel tells about itself.
func Facts() (*kstate.Facts, error) {
	l, err := newLoader(Options{})
	if err != nil {
		return nil, err
	}
	return l.read()
}

// read collects the facts of the system, those from outside its files included.
func (l *loader) read() (*kstate.Facts, error) {
	l.opt.progress("reading the state of the kernel")
	facts, err := kstate.Read(l.Files())
	if err != nil {
		return nil, fmt.Errorf("read the state of the kernel: %w", err)
	}
	for i := range facts.Traced {
		if facts.Traced[i].Direct == "" {
			continue
		}
		if facts.BPF, err = l.BPF(); err != nil {
			facts.Unknown = append(facts.Unknown, kstate.Unknown{What: "the kinds of BPF programs", Why: err.Error()})
		}
		break
	}
	return facts, nil
}

// ReadStatus reports the livepatches of the running kernel. It changes nothing.
func ReadStatus() (*Report, error) {
	l, err := newLoader(Options{})
	if err != nil {
		return nil, err
	}
	return l.status()
}

func (l *loader) status() (*Report, error) {
	facts, err := l.read()
	if err != nil {
		return nil, err
	}
	r := &Report{Release: facts.Release, BuildID: facts.BuildID, Livepatch: facts.Livepatch, Patches: []Status{}}
	for i := range facts.Patches {
		p := &facts.Patches[i]
		s := Status{Name: p.Name, Flavour: p.Flavour, Dispatch: p.Dispatch, State: p.Condition(), Replace: p.Replace, StackOrder: p.StackOrder, Objects: []kstate.PatchObject{}, Tasks: []kstate.Task{}}
		s.Objects = append(s.Objects, p.Objects...)
		if p.Transition {
			if s.Tasks, s.Waiting, err = kstate.Holders(l.Files(), p.Enabled); err != nil {
				return nil, fmt.Errorf("list the tasks: %w", err)
			}
		}
		r.Patches = append(r.Patches, s)
	}
	for _, m := range facts.Modules {
		i := slices.IndexFunc(r.Patches, func(s Status) bool { return s.Name == m.Name })
		switch {
		case i < 0 && !strings.Contains(m.Taint, "K"):
			continue
		case i < 0:
			i = len(r.Patches)
			r.Patches = append(r.Patches, Status{Name: m.Name, State: "no effect", Objects: []kstate.PatchObject{}, Tasks: []kstate.Task{}})
		}
		s := &r.Patches[i]
		s.BuildID, s.Srcversion, s.Version, s.Refs = m.BuildID, m.Srcversion, m.Version, m.Refs
	}
	return r, nil
}
