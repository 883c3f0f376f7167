// Package klp loads livepatch modules into the running kernel, watches the
// transition of its tasks, and takes patches out again. What is asked before,
// and what the kernel's files mean, is in package kstate; here is what touches
// the machine: finit_module, delete_module, the switches in
// /sys/kernel/livepatch and the kernel's log. docs/kernel-loader.md tells the
// whole story.
package klp

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"livepatch/internal/kstate"
)

// Options are the knobs of Apply and Revert.
type Options struct {
	Timeout time.Duration // how long a transition may take; 0 means DefaultTimeout
	DryRun  bool          // check everything, load nothing
	IfFits  bool          // a package for another kernel, or one that is applied, is no error
	Force   bool          // after the time-out, make the remaining tasks switch where they stand
	Unload  bool          // unload the modules of the patches that were replaced

	// Progress, if set, is told what is being done.
	Progress func(what string, done, total int)
}

// DefaultTimeout leaves room for the kernel to wake sleeping tasks, which it
// does after 15 seconds (SIGNALS_TIMEOUT in kernel/livepatch/transition.c, 6.12).
const DefaultTimeout = time.Minute

func (o *Options) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return DefaultTimeout
}

func (o *Options) progress(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...), 0, 0)
	}
}

// Result says what was done to the kernel.
type Result struct {
	Patch      string        `json:"patch"`  // name of the package
	Module     string        `json:"module"` // name of the module and of the livepatch
	Flavour    string        `json:"flavour"`
	Release    string        `json:"release"`
	Functions  []string      `json:"functions"` // "vmlinux: name"
	Later      []string      `json:"later"`     // modules that are patched when they are loaded
	Replaced   []Replaced    `json:"replaced"`  // livepatches whose place it took
	Transition time.Duration `json:"transition_ns"`
	Forced     bool          `json:"forced,omitempty"`
	DryRun     bool          `json:"dry_run,omitempty"`
	Skipped    string        `json:"skipped,omitempty"` // why nothing was to be done
	Warnings   []string      `json:"warnings"`
}

// Replaced is a livepatch that another one took the place of. Its module has
// no effect any more.
type Replaced struct {
	Name     string `json:"name"`
	Unloaded bool   `json:"unloaded"`
	Reason   string `json:"reason,omitempty"` // why it could not be unloaded
}

// Reverted says what became of one livepatch that was taken back.
type Reverted struct {
	Name       string        `json:"name"`
	Flavour    string        `json:"flavour,omitempty"` // "direct": the module is retired, it stays until the next boot
	Functions  []string      `json:"functions"`
	Transition time.Duration `json:"transition_ns"`
	Forced     bool          `json:"forced,omitempty"`
	Unloaded   bool          `json:"unloaded"`
	Reason     string        `json:"reason,omitempty"` // why its module could not be unloaded
}

// Outcome is what state a failed operation left the kernel in.
type Outcome string

// The outcomes.
const (
	Unchanged  Outcome = "nothing was changed"
	RolledBack Outcome = "rolled back"
	Unfinished Outcome = "not finished: the kernel goes on with the transition; see livepatch status --kernel"
	Partly     Outcome = "partly reverted; see livepatch status --kernel"
)

// An Error says at which stage an operation failed and what became of the
// kernel.
type Error struct {
	Stage string // "check", "load", "transition", "unload"
	State Outcome
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// StateOf returns what an operation that failed left behind; errors that say
// nothing come from before the kernel was touched.
func StateOf(err error) Outcome {
	var e *Error
	if errors.As(err, &e) {
		return e.State
	}
	return Unchanged
}

// A BusyError says that a transition did not end, or cannot begin now. The
// kernel is as it was before.
type BusyError struct {
	Reason string        // why, without the tasks
	Tasks  []kstate.Task // that had not switched, at most kstate.MaxTasks
	Total  int           // how many there were
	Code   kstate.Code   // what they must not be in
	Advice string        // what the user can do, empty without
}

// shownTasks is how many tasks the text of a BusyError names.
const shownTasks = 8

func (e *BusyError) Error() string {
	var b strings.Builder
	b.WriteString(e.Reason)
	for i := range e.Tasks[:min(len(e.Tasks), shownTasks)] {
		t := &e.Tasks[i]
		fmt.Fprintf(&b, "\n%s %s", t.Who(), t.Why(e.Code))
	}
	if more := e.Total - min(len(e.Tasks), shownTasks); more > 0 {
		fmt.Fprintf(&b, "\nand %d more", more)
	}
	return b.String()
}

// A LoadError says that the kernel did not take the module, or, without a
// livepatch core, did not put on one that it has.
type LoadError struct {
	Module  string
	Loaded  bool            // it was there
	Err     error           // of the system call
	Meaning string          // of that error
	Log     []kstate.Record // what the kernel's log says about it
}

func (e *LoadError) Error() string {
	var b strings.Builder
	doing := "load"
	if e.Loaded {
		doing = "enable"
	}
	fmt.Fprintf(&b, "%s module %s: %v", doing, e.Module, e.Err)
	if e.Meaning != "" {
		b.WriteString(": " + e.Meaning)
	}
	for _, r := range e.Log {
		fmt.Fprintf(&b, "\nkernel: %s", r.Text)
		if r.Meaning != "" {
			fmt.Fprintf(&b, "\n        %s", r.Meaning)
		}
	}
	return b.String()
}

func (e *LoadError) Unwrap() error { return e.Err }
