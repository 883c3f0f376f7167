// Package process applies patches to running processes and takes them back
// (Linux on x86-64 and arm64). Everything that can be computed is computed before a
// thread is stopped: images are found, symbols resolved, the payload is laid
// out and relocated, memory is mapped and filled. While all threads are stopped
// it checks the expected bytes, looks through every stack, writes a few bytes
// and verifies them. docs/loader.md tells the whole story.
package process

import (
	"errors"
	"time"

	"livepatch/internal/live"
)

// Options are the knobs of Apply and Revert.
type Options struct {
	MaxPause   time.Duration // longest stop; 0 means DefaultMaxPause
	Timeout    time.Duration // how long a busy target is retried; 0 means DefaultTimeout
	DryRun     bool          // do everything but map memory and write
	ScanMemory bool          // look through all writable memory instead of refusing coroutines

	Switch       Switch // how code is changed; "" means SwitchStop
	Sync         Sync   // how SwitchInt3 synchronises threads; "" means SyncInterrupt
	Guard        bool   // SwitchInt3 traces all threads meanwhile: one that blocks SIGTRAP survives a breakpoint
	ChainSigtrap bool   // SwitchInt3 may give other signals to the target's own handler of SIGTRAP

	// Belongs, if set, chooses the processes in place of their numbers: it
	// reports whether one is to be changed. It is asked again while those stand
	// that were found first, so that none that they start is missed.
	Belongs func(pid int) bool

	// Progress, if set, is told what is being done. It is never called while
	// the target is stopped.
	Progress func(what string, done, total int)

	// hook, if set, is called at named steps; tests die there. fault, if set,
	// makes the write at an address fail after its first byte; refuse makes a
	// system call fail that a thread is to make; poke makes all writes go through
	// ptrace.
	hook   func(step string)
	fault  func(addr uint64) bool
	refuse func(nr uint64) bool
	poke   bool

	// attend, if set, is to be called often: it lets threads go on that are traced
	// though nobody looks at them.
	attend func()

	// held, if set, is the thread of a process that has not started yet, which
	// is traced and stands still; fresh says that no code of it has run.
	held  *thread
	fresh bool
}

// Switch is a way to change code that threads may be executing. docs/switching.md
// compares them.
type Switch string

// The ways.
const (
	SwitchStop Switch = "stop" // all threads stand still
	SwitchInt3 Switch = "int3" // they run; a breakpoint keeps them away from what is half written
)

// Sync is a way to make sure that no processor goes on with what it fetched
// before a write.
type Sync string

// The ways.
const (
	SyncInterrupt  Sync = "interrupt"  // stop the threads one after another
	SyncMembarrier Sync = "membarrier" // let one of them make the system call of this name
)

// The defaults of Options.
const (
	DefaultMaxPause = time.Second
	DefaultTimeout  = 10 * time.Second
)

func (o *Options) maxPause() time.Duration {
	if o.MaxPause > 0 {
		return o.MaxPause
	}
	return DefaultMaxPause
}

func (o *Options) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return DefaultTimeout
}

func (o *Options) progress(what string, done, total int) {
	if o.Progress != nil {
		o.Progress(what, done, total)
	}
}

func (o *Options) at(step string) {
	switch {
	case o.hook == nil:
		return
	case o.attend == nil:
		o.hook(step)
		return
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		o.hook(step)
	}()
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Millisecond / 10):
			o.attend()
		}
	}
}

// Result says what was done.
type Result struct {
	Applied   []string  `json:"applied"`   // names of the patches that came
	Reverted  []string  `json:"reverted"`  // and of those that went
	Unpatched []string  `json:"unpatched"` // functions of the first process that are the originals again
	Processes []Patched `json:"processes"`
	Functions int       `json:"functions"` // of each process
	Attempts  int       `json:"attempts"`  // stops that were needed
	DryRun    bool      `json:"dry_run,omitempty"`
	Pause     Pause     `json:"pause"`

	Switch Switch        `json:"switch"`
	Sync   Sync          `json:"sync,omitempty"`    // of SwitchInt3, as are the following
	Took   time.Duration `json:"took_ns,omitempty"` // until all was written and the handler was gone
	Forked []int         `json:"forked,omitempty"`  // processes that were forked half-way and need Repair
	Notes  []string      `json:"notes,omitempty"`   // of what is left behind in the target

	Reclaimed *Reclaimed `json:"reclaimed,omitempty"` // if that was asked for
}

// Patched is one process.
type Patched struct {
	PID     int     `json:"pid"`
	Threads int     `json:"threads"`
	Images  []Image `json:"images"`
}

// Image is one patch of one file of a process.
type Image struct {
	Patch   string    `json:"patch"`
	State   string    `json:"state"` // afterwards: "applied", "reverted"
	Target  string    `json:"target"`
	BuildID string    `json:"build_id"`
	Bias    uint64    `json:"bias"`
	Base    uint64    `json:"base"` // of the patch's memory, 0 in a dry run
	Size    uint64    `json:"size"`
	Journal []Written `json:"journal"`
}

// Written is one write that was made, in order.
type Written struct {
	Function string `json:"function"`
	Address  uint64 `json:"address"`
	Length   int    `json:"length"`
	Old      string `json:"old"` // hexadecimal
	New      string `json:"new"`
}

// A Conflict is a function of a package that a patch of a process has replaced.
type Conflict struct {
	Target   string // base name of the file
	Function string
	Owner    string // name of the patch
}

// A Removal says which of the applied patches of a process are taken back: one,
// all after one, or all.
type Removal struct {
	Name, To   string
	All        bool
	ClearSites bool // also redirects that lead through records (dispatch slot), which otherwise stay
}

// Reclaimed says what became of the memory of reverted patches.
type Reclaimed struct {
	Processes []ReclaimedProcess `json:"processes"`
	DryRun    bool               `json:"dry_run,omitempty"`
	Pause     time.Duration      `json:"pause_ns"` // the longest stop
}

// ReclaimedProcess is one process.
type ReclaimedProcess struct {
	PID     int              `json:"pid"`
	Patches []ReclaimedPatch `json:"patches"`
}

// ReclaimedPatch is one patch of one file that nothing leads to.
type ReclaimedPatch struct {
	Patch    string `json:"patch"`
	Target   string `json:"target"`
	Base     uint64 `json:"base"`
	Bytes    uint64 `json:"bytes"`
	Unmapped bool   `json:"unmapped"`         // in a dry run: it could be
	Reason   string `json:"reason,omitempty"` // why it was not
}

// A Remedy is what is done about a change that a loader has not ended.
type Remedy int

// The remedies.
const (
	Finish   Remedy = 1
	RollBack Remedy = 2
)

// Repaired says what Repair did.
type Repaired struct {
	Processes []RepairedProcess `json:"processes"`
	Others    []int             `json:"others,omitempty"` // processes that the same changes were about, and that still need repair
	DryRun    bool              `json:"dry_run,omitempty"`
	Pause     Pause             `json:"pause"`
	Notes     []string          `json:"notes,omitempty"` // of what is left behind in the targets
}

// RepairedProcess is what was done in one process.
type RepairedProcess struct {
	PID     int      `json:"pid"`
	Did     string   `json:"did"`            // one of the words below
	Kind    string   `json:"kind,omitempty"` // of the change: "apply", "retarget", "revert"
	Patches []string `json:"patches"`
	Writes  int      `json:"writes"` // that it took

	Handlers int `json:"handlers,omitempty"` // of breakpoints that were taken out
}

// What is done in a process.
const (
	DidNothing  = "nothing"     // it needed no repair
	DidFinish   = "finished"    // the change
	DidRollBack = "rolled back" // the change
	DidRetire   = "retired"     // unused memory of a patch
)

// A Report is what is told of the patches of one process.
type Report struct {
	PID     int                `json:"pid"`
	Patches []live.Report      `json:"patches"`
	Change  *live.ChangeReport `json:"change,omitempty"` // that a loader has begun and not ended

	Handlers int `json:"handlers,omitempty"` // of breakpoints
}

// A SymbolFile is what debuggers and profilers need of a patch of one file.
type SymbolFile struct {
	Patch     string     `json:"patch"`
	Target    string     `json:"target"`
	State     string     `json:"state"`
	Text      uint64     `json:"text"` // address of its code
	Functions []Function `json:"functions"`
	Data      []byte     `json:"-"` // an ELF file
}

// Function is code of a patch.
type Function struct {
	Name    string `json:"name"`
	Address uint64 `json:"address"`
	Size    uint64 `json:"size"`
}

// Pause is how long the last stop took, in nanoseconds. Total is from the
// first request to stop to the last thread's release, so that no thread was
// held longer. With SwitchInt3 it is the longest time for which one thread was
// held, and there are no parts.
type Pause struct {
	Total time.Duration `json:"total_ns"`
	Stop  time.Duration `json:"stop_ns"`  // until every thread stood still
	Check time.Duration `json:"check_ns"` // expected bytes and stacks
	Write time.Duration `json:"write_ns"` // writing and verifying
}

// Outcome is what state a failed operation left the target in.
type Outcome string

// The outcomes.
const (
	Unchanged   Outcome = "nothing was changed"
	RolledBack  Outcome = "rolled back"
	Interrupted Outcome = "interrupted"
)

// An ApplyError says at which stage an operation failed and what became of the
// target.
type ApplyError struct {
	Stage string // "prepare", "map", "stop", "check", "write"
	State Outcome
	Err   error
}

func (e *ApplyError) Error() string { return e.Err.Error() }
func (e *ApplyError) Unwrap() error { return e.Err }

// StateOf returns what an operation that failed left behind; errors that say
// nothing come from before the target was touched.
func StateOf(err error) Outcome {
	var a *ApplyError
	if errors.As(err, &a) {
		return a.State
	}
	return Unchanged
}
