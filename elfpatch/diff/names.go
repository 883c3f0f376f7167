package diff

import "strings"

// parentName is the name of the function that an outlined part was cut from:
// "f" for "f.cold" and "f.cold.3".
func parentName(name string) (string, bool) {
	i := strings.Index(name, ".cold")
	if i <= 0 || strings.Trim(name[i+len(".cold"):], ".0123456789") != "" {
		return "", false
	}
	return name[:i], true
}

// uniquePrefix starts names that a macro of the kernel makes unique with a
// counter at their end.
const uniquePrefix = "__UNIQUE_ID_"

// stem is a name without the numbers that compilers count up from one
// compilation to the next: "n" for "n.12", "f.constprop.isra" for
// "f.constprop.0.isra.3", "f.llvm" for "f.llvm.8172".
func stem(name string) string {
	if strings.HasPrefix(name, uniquePrefix) {
		first, rest, _ := strings.Cut(name, ".")
		name = strings.TrimRight(first, "0123456789")
		if rest != "" {
			name += "." + rest
		}
	}
	if strings.IndexByte(name, '.') <= 0 {
		return name
	}
	var b strings.Builder
	for i, part := range strings.Split(name, ".") {
		if i > 0 && isNumber(part) {
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(part)
	}
	return b.String()
}

// isNumbered reports a name that a compiler made unique with a number, such as
// that of a static variable of a function.
func isNumbered(name string) bool { return stem(name) != name }

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// splitFrom is the name of the function that a part was split from: "f" for
// "f.part.3".
func splitFrom(name string) (string, bool) {
	i := strings.Index(name, ".part.")
	if i <= 0 {
		return "", false
	}
	return name[:i], true
}
