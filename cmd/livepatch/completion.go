package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/fentry"
)

// completeWord is the hidden command that the completion scripts call, with
// the words of the command line after the program's name; the last one is the
// word to complete, possibly empty.
const completeWord = "__complete"

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a shell completion script", ArgsUsage: "bash|zsh|fish", Category: groupOther,
		Description: `
The script asks livepatch itself for commands and options, so that it never
goes out of date. To use it:

  bash   livepatch completion bash > /etc/bash_completion.d/livepatch
         or in ~/.bashrc: source <(livepatch completion bash)
  zsh    livepatch completion zsh > "${fpath[1]}/_livepatch"
  fish   livepatch completion fish > ~/.config/fish/completions/livepatch.fish`,
		Action: func(c *cli.Context) error {
			args, err := takeArgs(c, 1, 1)
			if err != nil {
				return err
			}
			script, ok := completionScripts[args[0]]
			if !ok {
				return hintHelp(usageErrorf("no completion for shell %q; there is bash, zsh and fish", args[0]), c.Command)
			}
			newPrinter(c).Printf("%s", script)
			return nil
		},
	}
}

var completionScripts = map[string]string{
	"bash": `# bash completion for livepatch
_livepatch() {
	local IFS=$'\n' cur=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=($(livepatch ` + completeWord + ` "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
	if [ ${#COMPREPLY[@]} -eq 0 ] && [[ $cur != -* ]]; then
		COMPREPLY=($(compgen -f -- "$cur"))
		compopt -o filenames 2>/dev/null
	fi
	return 0
}
complete -F _livepatch livepatch
`,
	"zsh": `#compdef livepatch
# zsh completion for livepatch
_livepatch() {
	local line
	local -a described
	for line in "${(@f)$(livepatch ` + completeWord + ` "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		[[ -n $line ]] && described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	if (( ${#described} )); then
		_describe livepatch described
	else
		_files
	fi
}
if [ "$funcstack[1]" = "_livepatch" ]; then
	_livepatch "$@"
else
	compdef _livepatch livepatch
fi
`,
	"fish": `# fish completion for livepatch
function __livepatch_complete
	set -l words (commandline -opc) (commandline -ct)
	livepatch ` + completeWord + ` $words[2..-1] 2>/dev/null
end
complete -c livepatch -f -n 'test -n "$(__livepatch_complete)"' -a '(__livepatch_complete)'
complete -c livepatch -F -n 'test -z "$(__livepatch_complete)"'
`,
}

// complete prints the words that may stand in place of the last one, each
// with its description after a tab. It prints nothing where a file name or a
// free value belongs; the shell then offers files.
func complete(app *cli.App, words []string, w io.Writer) {
	if len(words) == 0 {
		words = []string{""}
	}
	before, last := words[:len(words)-1], words[len(words)-1]
	offer := func(word, usage string) {
		if strings.HasPrefix(word, last) {
			fmt.Fprintf(w, "%s\t%s\n", word, usage)
		}
	}
	if len(before) == 0 && strings.HasPrefix(last, "-") {
		offer("--help", "show help")
		offer("--version", "print the version")
		return
	}
	if len(before) == 0 || before[0] == "help" {
		for _, cmd := range app.Commands {
			if !cmd.Hidden && len(before) < 2 {
				offer(cmd.Name, cmd.Usage)
			}
		}
		return
	}
	cmd := app.Command(before[0])
	if cmd == nil {
		return
	}
	for _, word := range before {
		if word == "--" {
			return
		}
	}
	if prev := before[len(before)-1]; len(before) > 1 && strings.HasPrefix(prev, "-") && !strings.Contains(prev, "=") {
		if f := findFlag(cmd, strings.TrimLeft(prev, "-")); f != nil && takesValue(f) {
			for _, word := range valueWords(f) {
				offer(word, "")
			}
			return
		}
	}
	if strings.HasPrefix(last, "-") {
		for _, f := range cmd.Flags {
			usage := ""
			if d, ok := f.(cli.DocGenerationFlag); ok {
				usage = d.GetUsage()
			}
			for _, name := range f.Names() {
				offer(dashed(name), strings.ReplaceAll(usage, "`", ""))
			}
		}
		offer("--help", "show help")
		return
	}
	for _, word := range argumentWords(cmd) {
		offer(word, "")
	}
}

// valueWords are the words that an option's value is chosen from, if it is.
func valueWords(f cli.Flag) []string {
	var list []string
	switch f.Names()[0] {
	case "kind":
		for _, k := range fentry.Kinds {
			list = append(list, string(k))
		}
	case "verdict":
		for _, v := range fentry.Verdicts {
			list = append(list, string(v))
		}
	}
	return list
}

// argumentWords are the words that a command's argument is chosen from, if it
// is chosen from words.
func argumentWords(cmd *cli.Command) []string {
	switch cmd.Name {
	case "completion":
		return []string{"bash", "fish", "zsh"}
	case "explain":
		return explainWords()
	}
	return nil
}
