package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestArrange(t *testing.T) {
	app := newApp(new(bytes.Buffer), new(bytes.Buffer))
	app.Commands = append(app.Commands, &cli.Command{Name: "try", Flags: []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}},
		&cli.StringSliceFlag{Name: "pair"},
		&cli.BoolFlag{Name: "json"},
	}}, &cli.Command{Name: "must", Flags: []cli.Flag{&cli.StringFlag{Name: "target", Required: true}}})
	for _, tc := range []struct{ in, want string }{
		{"try", "try --"},
		{"try a b", "try -- a b"},
		{"try a --json b", "try --json -- a b"},
		{"try a --json=false", "try --json=false -- a"},
		{"try a -o x b", "try -o x -- a b"},
		{"try a --output=x", "try --output=x -- a"},
		{"try a -o=x", "try -o=x -- a"},
		{"try -o - a", "try -o - -- a"},
		{"try a --pair 1 b --pair 2", "try --pair 1 --pair 2 -- a b"},
		{"try - a", "try -- - a"},
		{"try -- --json -o", "try -- --json -o"},
		{"try a -- -x", "try -- a -x"},
		{"try a -h", "try --help"},
		{"--help", "help --"},
		{"-h try", "help -- try"},
		{"--version", "version --"},
		{"must a --target x", "must --target x -- a"},

		{"", "error: no command"},
		{"bogus", `error: unknown command "bogus"`},
		{"tri", `error: unknown command "tri"`},
		{"--json try", `error: unknown option "--json"`},
		{"try a -h --bogus", `error: try has no option "--bogus"`},
		{"try a --jsn", `error: try has no option "--jsn"`},
		{"try -x=1", `error: try has no option "-x"`},
		{"try a -o", "error: option -o needs a value"},
		{"try --output --json", "error: option --output needs a value"},
		{"try -o a --output b", "error: option --output is given twice"},
		{"try --json --json", "error: option --json is given twice"},
		{"must a", "error: must needs the option --target"},
	} {
		t.Run(tc.in, func(t *testing.T) {
			out, err := arrange(app, append([]string{"livepatch"}, strings.Fields(tc.in)...))
			got := ""
			if err != nil {
				got = "error: " + err.Error()
				if exitCode(err) != exitUsage {
					t.Errorf("exit code %d", exitCode(err))
				}
			} else {
				got = strings.Join(out[1:], " ")
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// invocation makes a command line of a command with all that it requires and
// n arguments.
func invocation(cmd *cli.Command, n int) []string {
	args := []string{"livepatch", cmd.Name}
	for _, f := range cmd.Flags {
		if r, ok := f.(cli.RequiredFlag); ok && r.IsRequired() {
			args = append(args, dashed(f.Names()[0]), "1")
		}
	}
	for range n {
		args = append(args, "/nonexistent")
	}
	return args
}

// For every command: an option after the arguments counts, an unknown one is
// refused wherever it stands, and so is -v.
func TestEveryCommandHonoursOptionsAnywhere(t *testing.T) {
	for _, cmd := range commands() {
		for _, f := range cmd.Flags {
			name := f.Names()[0]
			option := []string{dashed(name)}
			if takesValue(f) {
				option = append(option, "value")
			}
			var base []string
			for i, w := range invocation(cmd, 1) {
				if w != dashed(name) && (i == 0 || invocation(cmd, 1)[i-1] != dashed(name)) {
					base = append(base, w)
				}
			}
			out, err := arrange(newApp(new(bytes.Buffer), new(bytes.Buffer)), append(base, option...))
			if err != nil {
				t.Errorf("%s %s after an argument: %v", cmd.Name, option, err)
				continue
			}
			if slices.Index(out, option[0]) > slices.Index(out, "--") {
				t.Errorf("%s: %s stays an argument: %q", cmd.Name, option, out)
			}
		}
		for _, bad := range []string{"--no-such-option", "-v", "--no-such-option=1"} {
			for _, args := range [][]string{append(invocation(cmd, 1), bad), slices.Insert(invocation(cmd, 1), 2, bad)} {
				var stderr bytes.Buffer
				if got := run(args, new(bytes.Buffer), &stderr); got != exitUsage || !strings.Contains(stderr.String(), "has no option") {
					t.Errorf("%q: exit code %d, %s", args, got, stderr.String())
				}
			}
		}
	}
}

// For every command but those that take any number, too many arguments are a
// usage error, never ignored.
func TestEveryCommandRefusesSurplusArguments(t *testing.T) {
	for _, cmd := range commands() {
		if strings.HasSuffix(cmd.ArgsUsage, "…") || strings.HasSuffix(cmd.ArgsUsage, "...") {
			continue
		}
		var stderr bytes.Buffer
		if got := run(invocation(cmd, 9), new(bytes.Buffer), &stderr); got != exitUsage {
			t.Errorf("%s with nine arguments: exit code %d, %s", cmd.Name, got, stderr.String())
		}
	}
}

// Help says what a command is for, with an example where there is something to
// show, and goes to standard output.
func TestEveryCommandHasHelp(t *testing.T) {
	for _, cmd := range commands() {
		var stdout, stderr bytes.Buffer
		if got := run([]string{"livepatch", "help", cmd.Name}, &stdout, &stderr); got != exitDone || stderr.Len() > 0 {
			t.Errorf("help %s: exit code %d, %s", cmd.Name, got, stderr.String())
		}
		text := stdout.String()
		if !strings.Contains(text, cmd.Usage) || !strings.Contains(text, "Usage:\n  livepatch "+cmd.Name) {
			t.Errorf("help %s:\n%s", cmd.Name, text)
		}
		if strings.HasSuffix(cmd.Usage, ".") || strings.ToLower(cmd.Usage[:1]) != cmd.Usage[:1] {
			t.Errorf("%s: usage %q is not in lower case without full stop", cmd.Name, cmd.Usage)
		}
		if cmd.Category != groupOther && !strings.Contains(cmd.Description, "xample") {
			t.Errorf("%s: its help has no example", cmd.Name)
		}
		for _, f := range cmd.Flags {
			if d, ok := f.(cli.DocGenerationFlag); !ok || d.GetUsage() == "" {
				t.Errorf("%s: option %s has no description", cmd.Name, f.Names()[0])
			}
		}
		var again bytes.Buffer
		run([]string{"livepatch", cmd.Name, "x", "--help"}, &again, new(bytes.Buffer))
		if again.String() != text {
			t.Errorf("%s --help differs from help %s", cmd.Name, cmd.Name)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"apply", "create", "inspect", "revert", "status"}
	for word, want := range map[string]string{
		"aply": "apply", "creat": "create", "crate": "create", "insp": "inspect", "statsu": "status",
		"revret": "revert", "zzzzzz": "", "x": "", "": "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
