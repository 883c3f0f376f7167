package process

import (
	"fmt"
	"os"
	"strings"
)

// A BusyError says that the target was never in a state in which the patch
// could be applied, until the time was over.
type BusyError struct {
	PID, Thread int
	Holders     []Holder // of code that must not be in use; empty for other reasons
	Reason      string   // if there are none
	Advice      string   // what the user can do, empty without
	Attempts    int

	again bool // what was prepared is void: begin anew
}

// A Holder is a thread that is inside of code which must not be in use, or will
// return into it, or memory that holds an address of it.
type Holder struct {
	PID      int    `json:"pid"`
	Thread   int    `json:"thread,omitempty"` // 0 for memory
	Name     string `json:"name,omitempty"`   // of the thread
	Function string `json:"function"`         // or what else is in use
	Offset   uint64 `json:"offset"`           // of the place in it
	Found    Place  `json:"found"`
	Address  uint64 `json:"address,omitempty"` // of the word, on the stack or in memory
	Depth    int64  `json:"depth,omitempty"`   // of a word on the stack: bytes above the stack pointer, below it if negative
	Frame    int    `json:"frame,omitempty"`   // of a return address: number of the function's frame; the innermost is 0
	Doubt    string `json:"doubt,omitempty"`   // of a word: why it may be a return address although the stack was unwound, or why that failed
}

// Place is where an address was found that keeps code in use.
type Place string

// The places.
const (
	AtPC       Place = "program counter"
	InRegister Place = "register"
	InFrame    Place = "frame" // of a stack that could be unwound
	InStack    Place = "stack" // a word that may be a return address
	InMemory   Place = "memory"
)

// maxHolders bounds the threads that one error tells of.
const maxHolders = 8

func busyWith(h Holder) *BusyError {
	return &BusyError{PID: h.PID, Thread: h.Thread, Holders: []Holder{h}}
}

// Who names the thread, or the process for memory.
func (h *Holder) Who() string {
	switch {
	case h.Thread == 0:
		return fmt.Sprintf("process %d", h.PID)
	case h.Name == "":
		return fmt.Sprintf("thread %d of process %d", h.Thread, h.PID)
	}
	return fmt.Sprintf("thread %d (%s) of process %d", h.Thread, h.Name, h.PID)
}

// What says what the thread or the memory holds.
func (h *Holder) What() string {
	place := fmt.Sprintf("%s+%#x", h.Function, h.Offset)
	switch h.Found {
	case InRegister:
		return "holds an address in " + place + " in a register"
	case InFrame:
		return fmt.Sprintf("is in %s, frame %d of its stack,", place, h.Frame)
	case InStack:
		text := fmt.Sprintf("is in %s, by a word %d bytes above its stack pointer", place, h.Depth)
		if h.Depth < 0 { // of what a handler has interrupted
			text = fmt.Sprintf("is in %s, by a word %d bytes below its stack pointer", place, -h.Depth)
		}
		if h.Doubt != "" {
			text += " (" + h.Doubt + ")"
		}
		return text + ","
	case InMemory:
		return fmt.Sprintf("holds an address in %s in its memory at %#x", place, h.Address)
	}
	return "is in " + place
}

func (e *BusyError) Error() string {
	who := fmt.Sprintf("process %d", e.PID)
	if e.Thread != 0 {
		who = fmt.Sprintf("thread %d of process %d", e.Thread, e.PID)
	}
	what := e.Reason
	if len(e.Holders) > 0 {
		who, what = e.Holders[0].Who(), e.Holders[0].What()
	}
	tries := "1 try"
	if e.Attempts != 1 {
		tries = fmt.Sprintf("%d tries", e.Attempts)
	}
	text := fmt.Sprintf("%s %s after %s", who, what, tries)
	if e.Attempts == 0 { // it has not come to a try
		text = who + " " + what
	}
	if e.Advice != "" {
		text += "; " + e.Advice
	}
	return text
}

// name looks up the names of the threads.
func (e *BusyError) name() {
	for i := range e.Holders {
		h := &e.Holders[i]
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", h.PID, h.Thread))
		if err == nil {
			h.Name = strings.TrimSuffix(string(b), "\n")
		}
	}
}
