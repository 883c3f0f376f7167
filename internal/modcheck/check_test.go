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

// A site of a function without a symbol, behind the function, does not count
// when the function has its own at its address.
func TestSiteBehind(t *testing.T) {
	f := livepatch(t, elf.EM_X86_64, "static-x86.S", edit{".asciz \"twin\"", ".asciz \"shadowed\""}, edit{".quad .Ltwin, new_twin, 2", ".quad .Ltwin, new_twin, 0"})
	if r := Check(fileOf(t, f), x86Set(t)); r.Count(check.Refused) > 0 {
		t.Errorf("%s", reportText(r))
	}
}
