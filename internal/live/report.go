package live

import (
	"encoding/hex"
	"fmt"
	"slices"
)

// A Report is a patch as `livepatch status --json` shows it.
type Report struct {
	Name      string           `json:"name"`
	State     string           `json:"state"`             // "preparing", "applied", "interrupted", "changing", "reverted"
	Writes    int              `json:"writes"`            // of the patch; of the whole change if interrupted or changing
	Written   int              `json:"written"`           // that are in memory
	Foreign   int              `json:"foreign,omitempty"` // places that somebody else has overwritten
	Hosts     bool             `json:"hosts,omitempty"`   // its redirects are in the text and lead through its records, by whatever is applied or to the old bodies
	Digest    string           `json:"digest"`
	Requires  []string         `json:"requires"` // digests of the packages that it builds on
	Sequence  uint64           `json:"sequence"` // patches of a process are applied in this order; images of one package have the same
	Target    string           `json:"target"`
	BuildID   string           `json:"build_id"`
	Base      uint64           `json:"base"`
	Size      uint64           `json:"size"`
	Functions []ReportFunction `json:"functions"`

	// Unwinding says whether the target's unwinder knows the functions of the
	// patch: "registered" or "unregistered"; empty where there is none.
	Unwinding string `json:"unwinding,omitempty"`

	// Retired is there if nothing leads to the patch and its memory stays mapped.
	Retired *Retired `json:"retired,omitempty"`
}

// Retired is memory of a patch that is not in force.
type Retired struct {
	Bytes  uint64 `json:"bytes"`
	Reason string `json:"reason"` // why it stays mapped
}

// ReportFunction is one replaced function; addresses are those of the process.
type ReportFunction struct {
	Name     string   `json:"name"`
	Old      uint64   `json:"old"`
	OldSize  uint64   `json:"old_size"`
	New      uint64   `json:"new"`
	NewSize  uint64   `json:"new_size"`
	Versions []string `json:"versions"` // names of the patches that have replaced it, the one that calls reach last
}

// A ChangeReport is a change that a loader has begun and not ended.
type ChangeReport struct {
	Kind      string   `json:"kind"`    // "apply", "retarget", "revert"
	Phase     string   `json:"phase"`   // "begun", "committed": all is written
	Patches   []string `json:"patches"` // that it is about
	Writes    int      `json:"writes"`
	Written   int      `json:"written"`
	Processes int      `json:"processes"` // that it is about
	Loader    uint32   `json:"loader"`    // process number
	Alive     bool     `json:"alive"`     // the loader still runs
}

// Reports returns what is told of the patches of a process. alive reports whether
// a loader still runs.
func (p *Patches) Reports(alive func(Owner) bool) []Report {
	list := []Report{}
	for _, r := range p.Records {
		out := r.report()
		for i := range out.Functions {
			out.Functions[i].Versions = names(p.Versions(r.Functions[i].Old))
		}
		switch {
		case p.Changes(r):
			out.State = "interrupted"
			if alive(p.Pending.Leader.Owner) {
				out.State = "changing"
			}
			out.Writes, out.Written = len(p.Pending.Places), p.Pending.Written()
		case r.State.hosts():
			out.Written = out.Writes
		}
		if out.Foreign = p.Foreign(r); r.State.hosts() && !p.Changes(r) {
			out.Written -= out.Foreign
		}
		list = append(list, out)
	}
	return list
}

func (r *Record) report() Report {
	out := Report{
		Name: r.Name, State: r.State.String(), Writes: len(r.Writes), Digest: hex.EncodeToString(r.Digest[:]), Requires: []string{},
		Sequence: r.Sequence, Target: r.Target, BuildID: hex.EncodeToString(r.BuildID), Base: r.Base, Size: r.Size(), Functions: []ReportFunction{},
	}
	if r.Hosts() {
		out.Writes++
		out.Hosts = r.State.hosts()
	}
	switch {
	case r.Registered():
		out.Unwinding = "registered"
	case len(r.Unwinders) > 0:
		out.Unwinding = "unregistered"
	}
	if r.State == Reverted || r.State == Unused {
		out.Retired = &Retired{r.Size(), r.Stays.String()}
		if r.State == Unused {
			out.Retired.Reason = "nobody holds an address in it any more; the loader was killed before it was unmapped"
		}
	}
	for _, d := range r.Requires {
		out.Requires = append(out.Requires, hex.EncodeToString(d[:]))
	}
	for _, f := range r.Functions {
		out.Functions = append(out.Functions, ReportFunction{f.Name, f.Old, f.OldSize, f.New, f.NewSize, []string{}})
	}
	return out
}

// Report returns what is told of the change.
func (c *Change) Report(alive bool) *ChangeReport {
	out := &ChangeReport{
		Kind: c.kind(), Phase: "begun", Patches: names(c.Subjects()), Writes: len(c.Places), Written: c.Written(),
		Processes: int(c.Leader.Processes), Loader: c.Leader.Owner.PID, Alive: alive,
	}
	if c.Leader.Phase == Committed {
		out.Phase = "committed"
	}
	return out
}

// Subjects are the patches that come or go. Others may lend them their records.
func (c *Change) Subjects() []*Record {
	return slices.DeleteFunc(slices.Clone(c.Members), func(r *Record) bool { return r.Next == r.Prior })
}

func (c *Change) kind() string {
	comes := slices.ContainsFunc(c.Members, func(r *Record) bool { return r.Next == Applied && r.Prior != Applied })
	goes := slices.ContainsFunc(c.Members, func(r *Record) bool { return r.Next != Applied && r.Prior == Applied })
	switch {
	case comes && goes:
		return "retarget"
	case comes:
		return "apply"
	}
	return "revert"
}

// names lists the names of patches, each once.
func names(list []*Record) []string {
	out := []string{}
	for _, r := range list {
		if !slices.Contains(out, r.Name) {
			out = append(out, r.Name)
		}
	}
	return out
}

// Condition is the state in words. An interrupted patch is one whose loader was
// killed between its first write and its last.
func (r *Report) Condition() string {
	text := r.State
	if text == "interrupted" || text == "changing" {
		text += fmt.Sprintf(" %d of %d", r.Written, r.Writes)
	}
	if r.Hosts && text == "reverted" {
		text += ", its sites stay"
	}
	if r.Foreign > 0 {
		text += fmt.Sprintf(", %d overwritten", r.Foreign)
	}
	return text
}
