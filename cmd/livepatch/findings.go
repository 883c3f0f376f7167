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

// Codes that only one way to make a package can meet.
var (
	ofSources = []refusal.Code{refusal.BuildFiles, refusal.UnitNotInTarget, refusal.UnitDoubtful} // build, for programs
	ofStubs   = []refusal.Code{refusal.StubReturn, refusal.StubLock}
)

// allowed checks the codes of --allow. Those that the command never refuses for are
// not taken.
func allowed(codes []string, never ...refusal.Code) (out []refusal.Code, err error) {
	may := slices.DeleteFunc(refusal.Allowable(), func(c refusal.Code) bool { return slices.Contains(never, c) })
	for _, code := range codes {
		switch {
		case !refusal.Known(refusal.Code(code)):
			return nil, usageErrorf("--allow %q is not a code", code)
		case slices.Contains(never, refusal.Code(code)):
			return nil, usageErrorf("--allow %s: nothing here is refused for that; these can be allowed: %s", code, join(may))
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
