package kimage

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// ParseKallsyms reads System.map or the text of /proc/kallsyms, in the order of
// the file: that of kallsyms. Lines are "address type name", with the module
// in brackets where there is one. A table whose addresses are all 0, as
// /proc/kallsyms shows them to users without the right to see them, is an error.
func ParseKallsyms(text []byte) ([]Symbol, error) {
	var out []Symbol
	seen := false
	for n := 1; len(text) > 0; n++ {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		s, err := parseLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("kallsyms: line %d: %w", n, err)
		}
		seen = seen || s.Addr != 0
		out = append(out, s)
	}
	if !seen {
		return nil, fmt.Errorf("kallsyms: none of the %d symbols has an address", len(out))
	}
	nextHigher(out)
	return out, nil
}

func parseLine(line string) (Symbol, error) {
	cols := strings.Fields(line)
	if len(cols) != 3 && len(cols) != 4 {
		return Symbol{}, fmt.Errorf("%d columns, not 3 or 4", len(cols))
	}
	addr, err := strconv.ParseUint(cols[0], 16, 64)
	if err != nil {
		return Symbol{}, fmt.Errorf("the address is %q", cols[0])
	}
	if len(cols[1]) != 1 || !isSymbolType(cols[1][0]) {
		return Symbol{}, fmt.Errorf("the type is %q", cols[1])
	}
	s := Symbol{Addr: addr, Type: cols[1][0], Name: cols[2]}
	if len(cols) == 4 {
		m := cols[3]
		if len(m) < 3 || m[0] != '[' || m[len(m)-1] != ']' {
			return Symbol{}, fmt.Errorf("the module is %q", m)
		}
		s.Module = m[1 : len(m)-1]
	}
	return s, nil
}

// nextHigher gives each symbol the distance to the next higher address, in
// lists that are sorted for the most part only: modules follow the kernel.
func nextHigher(syms []Symbol) {
	x := newIndex(syms)
	for i := len(x.byAddr) - 2; i >= 0; i-- {
		s, next := &syms[x.byAddr[i]], &syms[x.byAddr[i+1]]
		if s.Size = next.Size; s.Addr != next.Addr {
			s.Size = next.Addr - s.Addr
		}
	}
}
