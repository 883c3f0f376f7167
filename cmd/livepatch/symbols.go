package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"

	"livepatch/internal/process"
)

func symbolsCommand() *cli.Command {
	return &cli.Command{
		Name: "symbols", Usage: "write what gdb and perf need of the patches in a process", ArgsUsage: "", Category: groupRun,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "pid", Required: true, Usage: "process `N`"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "`DIRECTORY` to write to"},
			jsonFlag(),
		},
		Description: `
The code of a patch lies in memory that belongs to no file, so that debuggers
and profilers find no names in it, and gdb cannot unwind it. This reads the
patches out of the process, which is not stopped, and writes into DIRECTORY

  livepatch-PID-N.elf  for each patch: its code, names and unwind tables
  livepatch-PID.gdb    commands for gdb that load them
  perf-PID.map         names and addresses, for perf, which looks in /tmp

If a change by breakpoints was left half done, their handler has such a file, too.

Examples:
  livepatch symbols --pid 4182 -o /tmp
  gdb -p 4182 -x /tmp/livepatch-4182.gdb`,
		Action: writeSymbols,
	}
}

// symbolFiles is what symbols --json prints.
type symbolFiles struct {
	Patches []writtenSymbols `json:"patches"`
	GDB     string           `json:"gdb"`
	Perf    string           `json:"perf"`
}

type writtenSymbols struct {
	process.SymbolFile
	File string `json:"file"`
}

func writeSymbols(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p, pid := newPrinter(c), c.Int("pid")
	dir, err := filepath.Abs(c.String("output"))
	if err != nil {
		return err
	}
	list, err := process.Symbols(pid)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return bare(err)
	}
	out := symbolFiles{
		Patches: []writtenSymbols{},
		GDB:     filepath.Join(dir, fmt.Sprintf("livepatch-%d.gdb", pid)), Perf: filepath.Join(dir, fmt.Sprintf("perf-%d.map", pid)),
	}
	var gdb, perf strings.Builder
	gdb.WriteString("set confirm off\n")
	for i, f := range list {
		path := filepath.Join(dir, fmt.Sprintf("livepatch-%d-%d.elf", pid, i))
		if err := writeFile(path, f.Data); err != nil {
			return err
		}
		out.Patches = append(out.Patches, writtenSymbols{f, path})
		fmt.Fprintf(&gdb, "add-symbol-file '%s' %#x\n", path, f.Text)
		for _, fn := range f.Functions {
			name := strings.Map(func(r rune) rune {
				if unicode.IsPrint(r) {
					return r
				}
				return '?' // a line is a name
			}, fn.Name)
			fmt.Fprintf(&perf, "%x %x %s\n", fn.Address, fn.Size, name)
		}
	}
	if err := writeFile(out.GDB, []byte(gdb.String())); err != nil {
		return err
	}
	if err := writeFile(out.Perf, []byte(perf.String())); err != nil {
		return err
	}
	if p.json {
		return p.JSON(out)
	}
	for _, f := range out.Patches {
		if f.Patch == "" {
			p.Printf("%s  handler of breakpoints of a change that is being made\n", f.File)
			continue
		}
		p.Printf("%s  patch %s of %s, %s, %s\n", f.File, f.Patch, f.Target, f.State, plural(len(f.Functions), "function", "functions"))
	}
	p.Printf("%s\n%s\n", out.GDB, out.Perf)
	return nil
}
