package live

import (
	"encoding/hex"
	"fmt"
)

const interrupted = "interrupted"

// A Report is a patch as `livepatch status --json` shows it.
type Report struct {
	Name      string           `json:"name"`
	State     string           `json:"state"`             // "preparing", "applied", "interrupted", "reverted"
	Writes    int              `json:"writes"`            // of the patch
	Written   int              `json:"written"`           // that are in memory
	Foreign   int              `json:"foreign,omitempty"` // places that somebody else has overwritten
	Digest    string           `json:"digest"`
	Target    string           `json:"target"`
	BuildID   string           `json:"build_id"`
	Base      uint64           `json:"base"`
	Size      uint64           `json:"size"`
	Functions []ReportFunction `json:"functions"`
}

// ReportFunction is one replaced function; addresses are those of the process.
type ReportFunction struct {
	Name    string `json:"name"`
	Old     uint64 `json:"old"`
	OldSize uint64 `json:"old_size"`
	New     uint64 `json:"new"`
	NewSize uint64 `json:"new_size"`
}

// Report returns what is told of a patch.
func (f *Found) Report() Report {
	out := f.Record.Report()
	out.Written, out.Foreign = f.Written(), f.Foreign()
	if f.Interrupted() {
		out.State = interrupted
	}
	return out
}

// Report returns what the record alone tells.
func (r *Record) Report() Report {
	out := Report{
		Name: r.Name, State: r.State.String(), Writes: len(r.Writes), Digest: hex.EncodeToString(r.Digest[:]), Target: r.Target,
		BuildID: hex.EncodeToString(r.BuildID), Base: r.Base, Size: r.Size(), Functions: []ReportFunction{},
	}
	for _, f := range r.Functions {
		out.Functions = append(out.Functions, ReportFunction(f))
	}
	return out
}

// Condition is the state in words. An interrupted patch is one whose loader was
// killed between two writes.
func (r Report) Condition() string {
	text := r.State
	if text == interrupted {
		text += fmt.Sprintf(" %d of %d", r.Written, r.Writes)
	}
	if r.Foreign > 0 {
		text += fmt.Sprintf(", %d overwritten", r.Foreign)
	}
	return text
}
