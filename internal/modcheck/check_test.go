package modcheck

import (
	"debug/elf"
	"fmt"
	"strings"
	"testing"

	"livepatch/internal/check"
)

func reportText(r *check.Report) string {
	var b strings.Builder
	for _, x := range r.Results {
		fmt.Fprintf(&b, "%s %s", x.Status, x.What)
		if x.Where != "" {
			fmt.Fprintf(&b, " %s", x.Where)
		}
		fmt.Fprintf(&b, ": %s", x.Text)
		if x.Code != "" {
			fmt.Fprintf(&b, " [%s]", x.Code)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

var x86Flavours = []string{"static-x86.S", "kpatch-x86.S", "intree-x86.S"}

// Modules of all layouts are accepted, and every question is answered.
func TestValidModules(t *testing.T) {
	set := x86Set(t)
	for _, name := range x86Flavours {
		t.Run(name, func(t *testing.T) {
			r := Check(fileOf(t, livepatch(t, elf.EM_X86_64, name)), set)
			if r.Count(check.Refused)+r.Count(check.Later) > 0 {
				t.Errorf("%s", reportText(r))
			}
			golden(t, strings.TrimSuffix(name, ".S")+".verify", reportText(r))
		})
	}
}
