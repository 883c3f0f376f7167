package kstate

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Task is a thread that has not switched to what a transition leads to.
type Task struct {
	PID    int      `json:"pid"`
	TID    int      `json:"tid"`
	Name   string   `json:"name"`
	State  string   `json:"state"`           // letter as in /proc/PID/stat: R, S, D, …
	Kernel bool     `json:"kernel"`          // a kernel thread
	Stack  []string `json:"stack,omitempty"` // functions, innermost first; empty if it may not be read
}

// taskFlagKernel is PF_KTHREAD (include/linux/sched.h, 6.12).
const taskFlagKernel = 0x00200000

// MaxTasks is the most tasks that Holders returns with what they are; more are
// only counted.
const MaxTasks = 64

// Holders are the tasks that a transition waits for, and how many there are in
// all. enabling tells its direction: the tasks' patch_state is 1 in the new
// code, 0 in the old one and -1 outside of a transition
// (KLP_TRANSITION_* in include/linux/livepatch.h, 6.12). The idle tasks of the
// processors are in no directory of /proc and so not among them.
func Holders(fsys fs.FS, enabling bool) ([]Task, int, error) {
	waiting := "1"
	if enabling {
		waiting = "0"
	}
	procs, err := fs.ReadDir(fsys, "proc")
	if err != nil {
		return nil, 0, err
	}
	var list []Task
	n := 0
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := path.Join("proc", p.Name(), "task")
		threads, err := fs.ReadDir(fsys, dir)
		if err != nil {
			continue // it ended
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			at := path.Join(dir, t.Name())
			if err != nil || !is(fsys, path.Join(at, "patch_state"), waiting) {
				continue
			}
			if n++; n <= MaxTasks {
				list = append(list, readTask(fsys, at, pid, tid))
			}
		}
	}
	return list, n, nil
}

func readTask(fsys fs.FS, dir string, pid, tid int) Task {
	t := Task{PID: pid, TID: tid}
	if text, err := line(fsys, path.Join(dir, "stat")); err == nil {
		t.stat(text)
	}
	if b, err := file(fsys, path.Join(dir, "stack")); err == nil {
		t.Stack = ParseStack(b)
	}
	return t
}

// stat takes name, state and kind from /proc/PID/stat. The name is in
// parentheses and may hold any.
func (t *Task) stat(text string) {
	open, shut := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return
	}
	t.Name = text[open+1 : shut]
	f := strings.Fields(text[shut+1:])
	const state, flags = 0, 6
	if len(f) > state {
		t.State = f[state]
	}
	if len(f) > flags {
		n, err := strconv.ParseUint(f[flags], 10, 64)
		t.Kernel = err == nil && n&taskFlagKernel != 0
	}
}

// ParseStack reads /proc/PID/stack: lines such as "[<0>] do_wait+0x5f/0x230".
// Functions of modules are followed by the module in brackets.
func ParseStack(b []byte) []string {
	var frames []string
	for l := range lines(b) {
		_, at, ok := strings.Cut(l, "] ")
		if !ok {
			continue
		}
		if name := symbolOf(at); name != "" && len(frames) < 256 {
			frames = append(frames, name)
		}
	}
	return frames
}

// Code is what no task may be inside of for a transition to end: the functions
// that are replaced when a patch is enabled, all code of its module when it is
// disabled.
type Code struct {
	Functions []string // of the kernel and of other modules
	Module    string   // "" while enabling
}

// holds reports whether a frame of a stack is in the code.
func (c *Code) holds(frame string) bool {
	name, module, _ := strings.Cut(frame, " ")
	if c.Module != "" {
		return module == "["+c.Module+"]"
	}
	return slices.Contains(c.Functions, name)
}

// Inside returns the outermost frame of the task's stack that is in the code,
// "" without.
func (t *Task) Inside(code Code) string {
	for _, f := range slices.Backward(t.Stack) {
		if code.holds(f) {
			name, _, _ := strings.Cut(f, " ")
			return name
		}
	}
	return ""
}

// Who names the task: "process 81 (sh)", "thread 83 of process 81 (sh)",
// "kernel thread 12 (kworker/0:1)".
func (t *Task) Who() string {
	switch {
	case t.Kernel:
		return fmt.Sprintf("kernel thread %d (%s)", t.TID, t.Name)
	case t.PID != t.TID:
		return fmt.Sprintf("thread %d of process %d (%s)", t.TID, t.PID, t.Name)
	}
	return fmt.Sprintf("process %d (%s)", t.PID, t.Name)
}

// Why says what keeps the task from switching, from what it does and from its
// stack.
func (t *Task) Why(code Code) string {
	inside, innermost := t.Inside(code), ""
	if len(t.Stack) > 0 {
		innermost, _, _ = strings.Cut(t.Stack[0], " ")
	}
	switch {
	case inside != "" && innermost != inside:
		return fmt.Sprintf("waits in %s, called by %s", innermost, inside)
	case inside != "":
		return "is in " + inside
	case t.State == "R":
		return "runs and has not left the kernel since"
	case innermost == "":
		return "has a stack that cannot be read"
	case t.Kernel:
		return fmt.Sprintf("waits in %s and switches when it wakes up", innermost)
	}
	return fmt.Sprintf("waits in %s with a stack that the kernel does not trust", innermost)
}
