package main

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"livepatch/internal/build"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
)

var twoRefusals = refusal.List{
	refusal.New("static-key-module", "meminfo.o: meminfo_proc_show+0x1a4", `static key "memory_tiers_enabled" belongs to a module`),
	refusal.New(refusal.DataChanged, "meminfo.o: mem_total", "initial value changed; the running copy keeps the old one"),
}

func TestExitCode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{fmt.Errorf("a: %w", usageErrorf("x")), 2},
		{hinted(usageErrorf("x"), "y"), 2},
		{twoRefusals, 3},
		{fmt.Errorf("create: %w", twoRefusals), 3},
		{twoRefusals[0], 3},
		{statusError(exitNothing), 4},
		{fmt.Errorf("create: %w", build.ErrNothingToPatch), 4},
		{&process.ApplyError{Stage: "check", State: process.Unchanged, Err: &process.BusyError{}}, 5},
		{&process.ApplyError{Stage: "write", State: process.RolledBack, Err: &process.BusyError{}}, 1},
		{&process.ApplyError{Stage: "prepare", State: process.Unchanged, Err: twoRefusals}, 3},
		{&process.ApplyError{Stage: "write", State: process.Interrupted, Err: errors.New("x")}, 1},
		{statusError(exitBusy), 5},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("exit code of %v is %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestReport(t *testing.T) {
	for _, tc := range []struct {
		name    string
		printer printer
		err     error
		out     string
		errs    string
	}{
		{"nothing", printer{}, nil, "", ""},
		{"error", printer{}, errors.New("read x: no such file"), "", "livepatch: error: read x: no such file\n"},
		{"silent", printer{}, statusError(3), "", ""},
		{"hint", printer{}, hinted(usageErrorf("no command"), "livepatch help"), "",
			"livepatch: error: no command\nlivepatch: hint: livepatch help\n"},
		{"refusals", printer{command: "create"}, fmt.Errorf("create: %w", twoRefusals), "", `livepatch: error: 2 changes cannot be patched
meminfo.o: meminfo_proc_show+0x1a4: static key "memory_tiers_enabled" belongs to a module [static-key-module]
meminfo.o: mem_total: initial value changed; the running copy keeps the old one [data-changed]
livepatch: hint: livepatch explain static-key-module
`},
		{"one refusal", printer{command: "apply"}, twoRefusals[1], "", `livepatch: error: 1 reason not to apply the patch
meminfo.o: mem_total: initial value changed; the running copy keeps the old one [data-changed]
livepatch: hint: livepatch explain data-changed
livepatch: nothing was changed
`},
		{"busy", printer{command: "apply"},
			&process.ApplyError{Stage: "check", State: process.Unchanged, Err: &process.BusyError{PID: 4, Reason: "is busy", Attempts: 50}}, "",
			"livepatch: error: process 4 is busy after 50 tries\nlivepatch: nothing was changed\n"},
		{"rolled back", printer{command: "revert"},
			&process.ApplyError{Stage: "write", State: process.RolledBack, Err: errors.New("write x")}, "",
			"livepatch: error: write x\nlivepatch: rolled back\n"},
		{"usage", printer{command: "apply"}, usageErrorf("x"), "", "livepatch: error: x\n"},
		{"json", printer{json: true}, twoRefusals[1:],
			`{
  "refusals": [
    {
      "code": "data-changed",
      "where": "meminfo.o: mem_total",
      "text": "initial value changed; the running copy keeps the old one"
    }
  ]
}
`, `livepatch: error: 1 refusal
meminfo.o: mem_total: initial value changed; the running copy keeps the old one [data-changed]
livepatch: hint: livepatch explain data-changed
`},
		{"json already printed", printer{json: true, wrote: true}, twoRefusals[1:], "", `livepatch: error: 1 refusal
meminfo.o: mem_total: initial value changed; the running copy keeps the old one [data-changed]
livepatch: hint: livepatch explain data-changed
`},
		{"colour", printer{errColor: true}, errors.New("x"), "", "livepatch: \x1b[31merror:\x1b[0m x\n"},
		{"control characters", printer{}, errors.New("a\x1b[2Jb\u202ec\nd"), "", "livepatch: error: a\ufffd[2Jb\ufffdc\nd\n"},
		{"progress is removed", printer{shown: true}, errors.New("x"), "", "\r\x1b[Klivepatch: error: x\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			app := newApp(&out, &errs)
			p := tc.printer
			p.out, p.err = &out, &errs
			app.Metadata[printerKey] = &p
			if code := reportError(app, tc.err); code != exitCode(tc.err) {
				t.Errorf("returns %d, not %d", code, exitCode(tc.err))
			}
			if out.String() != tc.out {
				t.Errorf("standard output %q, want %q", out.String(), tc.out)
			}
			if errs.String() != tc.errs {
				t.Errorf("standard error %q, want %q", errs.String(), tc.errs)
			}
		})
	}
}

func TestProgressOnlyOnTerminals(t *testing.T) {
	var errs bytes.Buffer
	(&printer{err: &errs}).Progress("reading", 1, 2)
	if errs.Len() > 0 {
		t.Errorf("progress without a terminal: %q", errs.String())
	}
	p := &printer{err: &errs, out: new(bytes.Buffer), live: true}
	p.Progress("reading", 1, 2)
	p.Progress("writing", 0, 0)
	p.Printf("x")
	if want := "\r\x1b[Kreading 1/2\r\x1b[Kwriting\r\x1b[K"; errs.String() != want {
		t.Errorf("progress %q, want %q", errs.String(), want)
	}
}
