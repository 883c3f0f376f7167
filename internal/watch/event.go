package watch

import (
	"time"

	"livepatch/internal/refusal"
)

// An Event is one thing that was done or met. Fields that do not apply are
// empty.
type Event struct {
	Time      time.Time     `json:"time"`
	Event     Kind          `json:"event"`
	PID       int           `json:"pid,omitempty"`
	Command   string        `json:"command,omitempty"` // of the process
	Package   string        `json:"package,omitempty"`
	File      string        `json:"file,omitempty"` // of the package
	Digest    string        `json:"digest,omitempty"`
	Targets   []string      `json:"targets,omitempty"`
	Functions int           `json:"functions,omitempty"`
	Pause     time.Duration `json:"pause_ns,omitempty"`
	After     time.Duration `json:"after_ns,omitempty"` // the start of the program
	Retry     time.Duration `json:"retry_ns,omitempty"` // until the next try
	Reason    string        `json:"reason,omitempty"`
	Codes     []string      `json:"codes,omitempty"` // of refusals
}

// A Kind is what an event is about.
type Kind string

// The kinds.
const (
	Watching Kind = "watching" // it has begun; Reason says why there is no connector
	Found    Kind = "package"  // a package is new or has changed
	Bad      Kind = "bad-package"
	Gone     Kind = "package-gone"
	Applied  Kind = "applied"
	Failed   Kind = "failed"
	Lost     Kind = "events-lost" // all processes are looked through instead
	Blind    Kind = "error"       // the directory or /proc cannot be read
)

func isApplied(err error) bool {
	codes := codesOf(err)
	return len(codes) == 1 && codes[0] == string(refusal.AlreadyApplied)
}

// codesOf returns the codes of the refusals in an error, each once.
func codesOf(err error) (codes []string) {
	seen := map[refusal.Code]bool{}
	for _, r := range refusal.Of(err) {
		if !seen[r.Code] {
			seen[r.Code] = true
			codes = append(codes, string(r.Code))
		}
	}
	return codes
}

// reasonOf returns the first reason; the codes name the others.
func reasonOf(err error) string {
	if list := refusal.Of(err); len(list) > 0 {
		return list[0].Error()
	}
	return err.Error()
}
