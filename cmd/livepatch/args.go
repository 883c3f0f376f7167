package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// arrange puts the options of a command line before its arguments, because the
// cli library treats everything after the first argument as arguments and
// would drop such options without a word. It refuses what would be dropped
// otherwise: unknown options, options without their value, an option given
// twice of which only one would count, and a required one that is missing.
// Everything after "--" is an argument.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) < 2 {
		return nil, hinted(usageErrorf("no command"), "livepatch help lists the commands")
	}
	first := args[1]
	switch first {
	case "-h", "-help", "--help":
		first = "help"
	case "-version", "--version":
		first = "version"
	}
	if strings.HasPrefix(first, "-") {
		return nil, hinted(usageErrorf("unknown option %q", first), "options follow the command: livepatch COMMAND [OPTIONS]")
	}
	cmd := app.Command(first)
	if cmd == nil {
		return nil, unknownCommand(app, first)
	}
	l := line{cmd: cmd, seen: map[cli.Flag]bool{}, dashes: -1}
	if err := l.split(args[2:]); err != nil {
		return nil, err
	}
	if l.help {
		return []string{args[0], first, "--help"}, nil
	}
	for _, f := range cmd.Flags {
		if r, ok := f.(cli.RequiredFlag); ok && r.IsRequired() && !l.seen[f] {
			return nil, hintHelp(usageErrorf("%s needs the option %s", cmd.Name, dashed(f.Names()[0])), cmd)
		}
	}
	app.Metadata[dashesKey] = l.dashes
	return slices.Concat([]string{args[0], first}, l.options, []string{"--"}, l.arguments), nil
}

// dashesKey is where the number of the arguments before "--" is kept.
const dashesKey = "dashes"

// splitArgs returns the arguments before and after "--"; ok is false without it.
func splitArgs(c *cli.Context) (before, after []string, ok bool) {
	args := c.Args().Slice()
	n, _ := c.App.Metadata[dashesKey].(int)
	if n < 0 {
		return args, nil, false
	}
	return args[:n], args[n:], true
}

// A line is the command line of one command, taken apart.
type line struct {
	cmd                *cli.Command
	options, arguments []string
	dashes             int // arguments before "--", -1 without it
	seen               map[cli.Flag]bool
	help               bool
}

func (l *line) split(words []string) error {
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "--" {
			l.dashes = len(l.arguments)
			l.arguments = append(l.arguments, words[i+1:]...)
			return nil
		}
		if len(word) < 2 || word[0] != '-' {
			l.arguments = append(l.arguments, word)
			continue
		}
		name, _, valued := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if name == "h" || name == "help" {
			l.help = true
			continue
		}
		f := findFlag(l.cmd, name)
		if f == nil {
			return unknownOption(l.cmd, word)
		}
		if l.seen[f] && !repeatable(f) {
			return hintHelp(usageErrorf("option %s is given twice", dashed(name)), l.cmd)
		}
		l.seen[f] = true
		l.options = append(l.options, word)
		if valued || !takesValue(f) {
			continue
		}
		i++
		if i == len(words) || len(words[i]) > 1 && words[i][0] == '-' && !negative(words[i]) {
			return hintHelp(usageErrorf("option %s needs a value", dashed(name)), l.cmd)
		}
		l.options = append(l.options, words[i])
	}
	return nil
}

// negative reports a word that is a value although it begins like an option: -1,
// -EPERM. No option of this program is of digits or of several capitals.
func negative(word string) bool {
	return len(word) > 1 && (word[1] >= '0' && word[1] <= '9' || len(word) > 2 && strings.ToUpper(word) == word)
}

func findFlag(cmd *cli.Command, name string) cli.Flag {
	for _, f := range cmd.Flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func repeatable(f cli.Flag) bool {
	switch f.(type) {
	case *cli.StringSliceFlag, *cli.IntSliceFlag, *cli.GenericFlag:
		return true
	}
	return false
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func unknownOption(cmd *cli.Command, word string) error {
	name, _, _ := strings.Cut(word, "=")
	var known []string
	for _, f := range cmd.Flags {
		for _, n := range f.Names() {
			known = append(known, dashed(n))
		}
	}
	err := usageErrorf("%s has no option %q", cmd.Name, name)
	if near := nearest(name, known); near != "" {
		return hinted(err, "did you mean %s? livepatch help %s lists the options", near, cmd.Name)
	}
	return hintHelp(err, cmd)
}

// valueError is how package flag words a value that it cannot parse.
var valueError = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-([^:]+): (.*)$`)

// badValue is the error of package flag in this program's words. Which values
// are good is in the help, so the parser's own words are left out, but those of
// options that explain themselves are kept.
func badValue(err error) error {
	m := valueError.FindStringSubmatch(err.Error())
	if m == nil {
		return usageErrorf("%v", err)
	}
	if strings.Contains(m[3], "parse error") || strings.Contains(m[3], "strconv.") || strings.HasPrefix(m[3], "time: ") {
		return usageErrorf("option %s does not take %s", dashed(m[2]), m[1])
	}
	return usageErrorf("option %s %s: %s", dashed(m[2]), m[1], m[3])
}

// takeArgs returns the arguments of a command, which must be least to most in
// number; most < 0 is any number.
func takeArgs(c *cli.Context, least, most int) ([]string, error) {
	args := c.Args().Slice()
	switch n := len(args); {
	case n < least:
		return nil, hintHelp(usageErrorf("%s needs %s", c.Command.Name, c.Command.ArgsUsage), c.Command)
	case most == 0 && n > 0:
		return nil, hintHelp(usageErrorf("%s takes no arguments, not %q", c.Command.Name, args[0]), c.Command)
	case most >= 0 && n > most:
		return nil, hintHelp(usageErrorf("%s takes %s, not also %q", c.Command.Name, c.Command.ArgsUsage, args[most]), c.Command)
	}
	return args, nil
}
