package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/internal/refusal"
	"livepatch/internal/safety"
)

// allowFlag is the --allow of the commands that make packages.
func allowFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "allow", Usage: "`CODE` of a finding to record instead of refusing; repeatable"}
}

// ofSources are the codes about which sources of a program are linked into
// which target: only build looks at that.
var ofSources = []refusal.Code{refusal.BuildFiles, refusal.UnitNotInTarget, refusal.UnitDoubtful}

// allowed checks the codes of --allow. Those about sources are for packages of
// programs that are made from sources.
func allowed(codes []string, fromSources bool) (out []refusal.Code, err error) {
	may := refusal.Allowable()
	if !fromSources {
		may = slices.DeleteFunc(may, func(c refusal.Code) bool { return slices.Contains(ofSources, c) })
	}
	for _, code := range codes {
		switch {
		case !refusal.Known(refusal.Code(code)):
			return nil, usageErrorf("--allow %q is not a code", code)
		case !fromSources && slices.Contains(ofSources, refusal.Code(code)):
			return nil, usageErrorf("--allow %s: it is about sources of programs, which only build --src has; here these can be allowed: %s", code, join(may))
		case !slices.Contains(may, refusal.Code(code)):
			return nil, usageErrorf("--allow %s: that cannot be allowed; these can: %s", code, join(may))
		}
		out = append(out, refusal.Code(code))
	}
	return out, nil
}

func join(codes []refusal.Code) string {
	words := make([]string, len(codes))
	for i, c := range codes {
		words[i] = string(c)
	}
	return strings.Join(words, ", ")
}

func findingText(f build.Finding) string {
	return printable(fmt.Sprintf("%s: %s [%s]", f.Where, f.Text, f.Code))
}

// printFindings says what a reviewer has to know: warnings to who makes the package,
// notes as part of the result.
func printFindings(p *printer, findings []build.Finding) {
	for _, f := range findings {
		text := findingText(f)
		switch {
		case f.Allowed:
			p.Warn("allowed: %s", text)
		case f.Level == safety.Note:
			if !p.json {
				p.Printf("  note     %s\n", text)
			}
		default:
			p.Warn("%s", text)
		}
	}
}
