package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func completions(words ...string) string {
	var out bytes.Buffer
	complete(newApp(&out, &out), words, &out)
	var list []string
	for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		word, _, _ := strings.Cut(line, "\t")
		list = append(list, word)
	}
	return strings.Join(list, " ")
}

func TestComplete(t *testing.T) {
	for _, tc := range []struct{ words, want string }{
		{"-", "--help --version"},
		{"--v", "--version"},
		{"ins", "inspect"},
		{"com", "completion"},
		{"zzz", ""},
		{"help ver", "verify version"},
		{"help verify ", ""},
		{"inspect --", "--json --report --demangle --help"},
		{"inspect --j", "--json"},
		{"inspect --f", ""},
		{"inspect pkg -", "--json --report --demangle -C --help"},
		{"inspect ", ""},
		{"inspect -- -", ""},
		{"verify --target ", ""},
		{"verify --target=x --j", "--json"},
		{"sites --verdict too", "too-short"},
		{"sites --kind x", ""},
		{"sites x --kind f", "fentry-call fentry-nop"},
		{"completion ", "bash fish zsh"},
		{"completion z", "zsh"},
		{"explain data", "data-changed data-resized data-added"},
		{"bogus --", ""},
		{"bogus ", ""},
	} {
		if got := completions(strings.Split(tc.words, " ")...); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.words, got, tc.want)
		}
	}
	if got := completions(); !strings.Contains(got, "inspect") || strings.Contains(got, completeWord) {
		t.Errorf("no words: %q", got)
	}
}

// Every prefix of every option of every command completes, to itself at least.
func TestCompleteEveryOption(t *testing.T) {
	for _, cmd := range commands() {
		for _, f := range cmd.Flags {
			for _, name := range f.Names() {
				word := dashed(name)
				for n := 1; n <= len(word); n++ {
					if got := strings.Fields(completions(cmd.Name, word[:n])); !contains(got, word) {
						t.Errorf("%s %s<TAB>: %q without %s", cmd.Name, word[:n], got, word)
					}
				}
			}
		}
	}
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// shells says how to run each completion script and ask it for the words that
// may follow those in "$@" (the last one is to be completed).
var shells = map[string]string{
	"bash": `source SCRIPT
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		_livepatch
		for w in "${COMPREPLY[@]}"; do echo "$w"; done | sort`,
	"zsh": `compdef() { : }
		_describe() { print -l -- "${(@)${(@P)2}%%:*}" }
		_files() { print -l -- "$words[CURRENT]"*(N) }
		words=("$@") CURRENT=$#
		source SCRIPT
		_livepatch`,
	"fish": `source SCRIPT
		complete -C "$argv" | string split -f1 \t | sort`,
}

// The scripts are run by their shells, with this program as livepatch.
func TestCompletionScripts(t *testing.T) {
	for shell, program := range shells {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("no %s on this machine", shell)
			}
			dir := completionDir(t, shell)
			script := filepath.Join(dir, ".script")
			if out, err := exec.Command(path, "-n", script).CombinedOutput(); err != nil {
				t.Fatalf("%s -n: %v\n%s", shell, err, out)
			}
			for _, tc := range []struct{ words, want string }{
				{"livepatch ins", "inspect"},
				{"livepatch inspect --j", "--json"},
				{"livepatch inspect --f", ""},
				{"livepatch inspect fix", "fix one.lpatch|fixture"},
				{"livepatch completion f", "fish"},
				{"livepatch verify --target fixt", "fixture"},
			} {
				args := []string{"-c", strings.ReplaceAll(program, "SCRIPT", script)}
				switch shell {
				case "fish":
					args = append(args, tc.words)
				default:
					args = append(append(args, shell), strings.Split(tc.words, " ")...)
				}
				cmd := exec.Command(path, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%q: %v\n%s", tc.words, err, out)
				}
				got := strings.ReplaceAll(strings.TrimSuffix(string(out), "\n"), "\n", "|")
				if strings.ReplaceAll(got, `\ `, " ") != tc.want {
					t.Errorf("%q: %q, want %q", tc.words, got, tc.want)
				}
			}
		})
	}
}

// completionDir makes a directory with the script, this program under its
// name, and two files.
func completionDir(t *testing.T, shell string) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "livepatch"))
	}
	for name, text := range map[string]string{".script": completionScripts[shell], "fix one.lpatch": "", "fixture": ""} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// docs/livepatch.1 is what livepatch man prints.
func TestManPage(t *testing.T) {
	page := manPage(newApp(new(bytes.Buffer), new(bytes.Buffer)))
	path := filepath.Join("..", "..", "docs", "livepatch.1")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != page {
		t.Errorf("%s is out of date; UPDATE_GOLDEN=1 go test ./cmd/livepatch -run TestManPage writes it", path)
	}
}
