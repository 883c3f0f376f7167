package vm

import (
	"regexp"
	"strconv"
	"strings"
)

// logLine is a message as the system call syslog gives it: level, time, text. Lines
// of a message after its first have neither.
var logLine = regexp.MustCompile(`^<(\d+)>(?:\[ *\d+\.\d+\] )?(.*)$`)

// parse takes the console apart along the lines that the first process wrote.
func parse(console []byte, mark string, steps []Step) *Result {
	r := &Result{Console: console}
	text := strings.ReplaceAll(string(console), "\r", "")
	var open *StepResult
	for part := range strings.SplitSeq(text, "\n"+mark+" ") {
		head, body, _ := strings.Cut(part, "\n")
		word := strings.Fields(head)
		switch {
		case len(word) == 2 && word[0] == "log":
			r.Boot = lines(body)
		case len(word) == 2 && word[0] == "begin":
			n, err := strconv.Atoi(word[1])
			if err == nil && n < len(steps) {
				open = &StepResult{Name: steps[n].Name, Output: body}
			}
		case len(word) == 3 && word[0] == "end" && open != nil:
			open.Exit, _ = strconv.Atoi(word[2])
			open.Log = lines(body)
			r.Steps = append(r.Steps, *open)
			open = nil
		}
	}
	return r
}

func lines(text string) []Line {
	var out []Line
	for s := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if m := logLine.FindStringSubmatch(s); m != nil {
			n, _ := strconv.Atoi(m[1])
			out = append(out, Line{n & 7, m[2]})
		} else if s != "" && len(out) > 0 {
			out = append(out, Line{out[len(out)-1].Level, s})
		}
	}
	return out
}
