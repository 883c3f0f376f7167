package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/ianlancetaylor/demangle"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"livepatch/internal/build"
	"livepatch/internal/klp"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
)

// The exit codes of the program.
const (
	exitDone    = 0 // done
	exitError   = 1 // an error
	exitUsage   = 2 // the command line is wrong
	exitRefused = 3 // refused, or the answer is no
	exitNothing = 4 // there is nothing to patch
	exitBusy    = 5 // the target is busy and unchanged; try again
)

// exitCode is the one place that turns an error into an exit code.
func exitCode(err error) int {
	var (
		usage  *usageError
		status statusError
		start  *startError
		busy   *process.BusyError
		tasks  *klp.BusyError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &start):
		return start.exit
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, build.ErrNothingToPatch):
		return exitNothing
	case errors.As(err, &busy) && process.StateOf(err) == process.Unchanged:
		return exitBusy
	case errors.As(err, &tasks) && (klp.StateOf(err) == klp.Unchanged || klp.StateOf(err) == klp.RolledBack):
		return exitBusy // the kernel is as it was
	case refusal.Of(err) != nil:
		return exitRefused
	}
	return exitError
}

// A usageError is a wrong command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// A statusError ends the program with an exit code and no words; the command
// has said everything.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// A hintedError is an error with a line that helps.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

func hinted(err error, format string, args ...any) error {
	return &hintedError{err, fmt.Sprintf(format, args...)}
}

func hintHelp(err error, cmd *cli.Command) error {
	return hinted(err, "livepatch help %s", cmd.Name)
}

// reportError prints an error of a command and returns the exit code.
func reportError(app *cli.App, err error) int {
	code := exitCode(err)
	p, ok := app.Metadata[printerKey].(*printer)
	if !ok {
		p = &printer{out: app.Writer, err: app.ErrWriter, errColor: colored(app.ErrWriter)}
	}
	p.clear()
	var status statusError
	if err == nil || errors.As(err, &status) {
		return code
	}
	list := refusal.Of(err)
	if len(list) == 0 {
		p.errorLine(err.Error())
		p.busy(err)
	} else {
		p.refusals(err, list)
	}
	var h *hintedError
	if errors.As(err, &h) {
		p.Hint("%s", h.hint)
	}
	if code != exitUsage && p.command == "run" {
		p.Note("the program was not run")
	}
	if code != exitUsage && slices.Contains([]string{"apply", "retarget", "revert", "repair"}, p.command) {
		p.Note("%s", stateOf(err)) // always the last line
	}
	return code
}

// stateOf is what a failed operation left its target in.
func stateOf(err error) string {
	var kernel *klp.Error
	if errors.As(err, &kernel) {
		return string(kernel.State)
	}
	return string(process.StateOf(err))
}

// A printer writes what a command says: results to standard output as text or
// JSON, the conversation to standard error.
type printer struct {
	out, err io.Writer
	command  string
	json     bool
	wrote    bool // something went to standard output
	outColor bool
	errColor bool
	live     bool                // standard error shows progress
	shown    bool                // a progress line is shown
	names    func(string) string // how symbols are shown: as they are, or as in the source
}

const printerKey = "printer"

// newPrinter makes the printer of a command. A command that has jsonFlag gets
// its value.
func newPrinter(c *cli.Context) *printer {
	p := &printer{
		out: c.App.Writer, err: c.App.ErrWriter,
		json:     c.Bool("json"),
		outColor: colored(c.App.Writer), errColor: colored(c.App.ErrWriter),
		live:  terminal(c.App.ErrWriter),
		names: namer(c.Bool("demangle")),
	}
	if c.Command != nil {
		p.command = c.Command.Name
	}
	c.App.Metadata[printerKey] = p
	return p
}

// jsonFlag is the --json of every command that informs.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON", DisableDefaultText: true}
}

// demangleFlag is the --demangle of commands that print names of symbols.
func demangleFlag() cli.Flag {
	return &cli.BoolFlag{Name: "demangle", Aliases: []string{"C"}, Usage: "show C++ and Rust names as in the source", DisableDefaultText: true}
}

// namer returns how names, and places in functions, are shown. Demangled names are
// not unique, so they are for reading only.
func namer(demangled bool) func(string) string {
	if !demangled {
		return func(s string) string { return s }
	}
	return func(s string) string {
		name, offset, at := strings.Cut(s, "+0x")
		if name = demangle.Filter(name, demangle.NoClones, demangle.MaxLength(12)); at {
			name += "+0x" + offset
		}
		return name
	}
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colored follows https://no-color.org: a terminal, and NO_COLOR unset or empty.
func colored(w io.Writer) bool {
	return terminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// A style is an SGR parameter.
type style string

const (
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

func paint(on bool, s style, text string) string {
	if !on {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// Paint colours text that goes to standard output.
func (p *printer) Paint(s style, text string) string { return paint(p.outColor, s, text) }

// Printf writes a part of the result.
func (p *printer) Printf(format string, args ...any) {
	p.clear()
	p.wrote = true
	fmt.Fprintf(p.out, format, args...)
}

// table begins a part of the result with columns; Flush writes it.
func (p *printer) table() *tabwriter.Writer {
	p.clear()
	p.wrote = true
	return tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
}

// JSON writes the result as indented JSON.
func (p *printer) JSON(v any) error {
	p.clear()
	p.wrote = true
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// Warn writes a warning to standard error.
func (p *printer) Warn(format string, args ...any) {
	p.say(paint(p.errColor, yellow, "warning:")+" "+format, args...)
}

// Hint writes a hint to standard error.
func (p *printer) Hint(format string, args ...any) {
	p.say(paint(p.errColor, cyan, "hint:")+" "+format, args...)
}

// Note writes a plain line to standard error, such as the state of the target
// at the end: "livepatch: nothing was changed".
func (p *printer) Note(format string, args ...any) { p.say(format, args...) }

func (p *printer) say(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.err, "livepatch: "+format+"\n", args...)
}

// errorLine writes an error; only its first line carries the prefix.
func (p *printer) errorLine(text string) {
	p.say("%s %s", paint(p.errColor, red, "error:"), printable(strings.TrimRight(text, "\n")))
}

// printable replaces the control characters that a name of a hostile file may
// hold, so that they do not reach the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// refusals writes every reason on a line of its own, and how to learn more.
// With --json, and unless the command has printed its own result, the list
// goes to standard output too.
func (p *printer) refusals(err error, list refusal.List) {
	if p.json && !p.wrote {
		_ = p.JSON(map[string]any{"refusals": list})
	}
	p.errorLine(p.headline(len(list)))
	for _, r := range list {
		line := printable(r.Error())
		if tag := "[" + string(r.Code) + "]"; strings.HasSuffix(line, tag) {
			line = strings.TrimSuffix(line, tag) + paint(p.errColor, yellow, tag)
		}
		fmt.Fprintln(p.err, line)
	}
	var h *hintedError
	if !errors.As(err, &h) && len(list) > 0 {
		p.Hint("livepatch explain %s", list[0].Code)
	}
}

func (p *printer) headline(n int) string {
	switch p.command {
	case "create", "build", "diff", "demo":
		return plural(n, "change cannot be patched", "changes cannot be patched")
	case "merge":
		return plural(n, "reason not to merge the packages", "reasons not to merge the packages")
	case "apply", "retarget", "run":
		return plural(n, "reason not to apply the patch", "reasons not to apply the patch")
	case "revert":
		return plural(n, "reason not to revert the patch", "reasons not to revert the patch")
	case "repair":
		return plural(n, "reason not to repair the process", "reasons not to repair the process")
	case "verify":
		return plural(n, "check failed", "checks failed")
	}
	return plural(n, "refusal", "refusals")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Progress shows what is being done on one line of standard error, when that
// is a terminal. total may be 0 when it is not known.
func (p *printer) Progress(what string, done, total int) {
	if !p.live || p.json {
		return
	}
	p.shown = true
	if total > 0 {
		what = fmt.Sprintf("%s %d/%d", what, done, total)
	}
	fmt.Fprintf(p.err, "\r\x1b[K%s", paint(p.errColor, dim, what))
}

func (p *printer) clear() {
	if p.shown {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.shown = false
	}
}
