package main

import (
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const appHelp = `{{.Name}} - {{.Usage}}

Usage:
  livepatch COMMAND [OPTIONS] [ARGUMENTS]

{{range .VisibleCategories}}{{slice .Name 3}}:
{{range .VisibleCommands}}  {{printf "%-11s" .Name}} {{.Usage}}
{{end}}
{{end}}Options:
  -h, --help   show help; also: livepatch help COMMAND
  --version    print the version

Exit codes:
  0 done   1 error   2 wrong usage   3 refused   4 nothing to patch   5 target busy

Try it: livepatch demo
`

const commandHelp = `livepatch {{.Name}} - {{.Usage}}

Usage:
  livepatch {{.Name}}{{if .VisibleFlags}} [OPTIONS]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{if .Description}}
{{.Description}}
{{end}}{{if .VisibleFlags}}
Options:
{{range .VisibleFlags}}  {{.}}
{{end}}{{end}}`

// Categories of the commands, in the order of the help.
const (
	groupLook  = "1. Look"
	groupBuild = "2. Build"
	groupRun   = "3. Patch"
	groupOther = "4. More"
)

// commands are all commands, in the order of the help.
func commands() []*cli.Command {
	return []*cli.Command{
		sitesCommand(),
		diffCommand(),
		matchCommand(),
		inspectCommand(),
		verifyCommand(),
		createCommand(),
		buildCommand(),
		ccCommand(),
		stubCommand(),
		mergeCommand(),
		keygenCommand(),
		signCommand(),
		applyCommand(),
		retargetCommand(),
		revertCommand(),
		runCommand(),
		scanCommand(),
		watchCommand(),
		statusCommand(),
		symbolsCommand(),
		repairCommand(),
		conflictsCommand(),
		demoCommand(),
		explainCommand(),
		completionCommand(),
		manCommand(),
		headersCommand(),
		versionCommand(),
	}
}

// newApp makes the program. The library's own version flag (which claims -v),
// completion (which panics on "--f<TAB>"), suggestions and exits are not used;
// arrange, complete and report stand in for them.
func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                      "livepatch",
		Usage:                     "patch running programs and kernels, and look at what would be patched",
		Writer:                    stdout,
		ErrWriter:                 stderr,
		HideVersion:               true,
		HideHelpCommand:           true,
		CustomAppHelpTemplate:     appHelp,
		DisableSliceFlagSeparator: true, // a comma is part of a file name
		Metadata:                  map[string]any{},
		ExitErrHandler:            func(*cli.Context, error) {},
		Commands:                  append(commands(), helpCommand()),
	}
	for _, cmd := range app.Commands {
		cmd.OnUsageError = func(_ *cli.Context, err error, _ bool) error {
			return hintHelp(badValue(err), cmd)
		}
		cmd.HideHelpCommand = true // "livepatch inspect help" inspects a file of that name
		if cmd.CustomHelpTemplate == "" {
			cmd.CustomHelpTemplate = commandHelp
		}
		cmd.Description = strings.Trim(cmd.Description, "\n")
	}
	return app
}

func helpCommand() *cli.Command {
	return &cli.Command{
		Name: "help", Usage: "show help for a command", ArgsUsage: "[COMMAND]", Category: groupOther,
		Action: func(c *cli.Context) error {
			args, err := takeArgs(c, 0, 1)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return cli.ShowAppHelp(c)
			}
			if c.App.Command(args[0]) == nil {
				return unknownCommand(c.App, args[0])
			}
			return cli.ShowCommandHelp(c, args[0])
		},
	}
}

func unknownCommand(app *cli.App, name string) error {
	var known []string
	for _, cmd := range app.Commands {
		if !cmd.Hidden {
			known = append(known, cmd.Names()...)
		}
	}
	err := usageErrorf("unknown command %q", name)
	if near := nearest(name, known); near != "" {
		return hinted(err, "did you mean %q? livepatch help lists the commands", near)
	}
	return hinted(err, "livepatch help lists the commands")
}

// nearest returns the word that is at most a third of its length in edits away.
func nearest(word string, known []string) string {
	best, least := "", len(word)/3+2
	for _, k := range slices.Sorted(slices.Values(known)) {
		if len(word) > 1 && strings.HasPrefix(k, word) {
			return k
		}
		if d := distance(word, k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of insertions, deletions and substitutions between
// two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
