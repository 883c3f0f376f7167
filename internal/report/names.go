package report

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/ianlancetaylor/demangle"
)

// mangled finds C++ and Rust names in the text of an instruction.
var mangled = regexp.MustCompile(`_[ZR][0-9A-Za-z_.$]+`)

// maxName bounds the length of a demangled name: 2 to the power of it.
const maxName = 12

// readable shows the C++ and Rust names in a text as the source has them.
func readable(s string) string {
	if !strings.Contains(s, "_Z") && !strings.Contains(s, "_R") {
		return s
	}
	return mangled.ReplaceAllStringFunc(s, func(name string) string {
		return demangle.Filter(name, demangle.MaxLength(maxName))
	})
}

// other is the mangled name where it is not what is shown.
func other(name string) string {
	if readable(name) != name {
		return name
	}
	return ""
}

func hex(v uint64) string { return fmt.Sprintf("%#x", v) }

// count is "1 function", "2 functions".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// spaced groups hexadecimal digits in bytes: "e8 00 00".
func spaced(b []byte) string { return fmt.Sprintf("% x", b) }
