package kstate

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// Traced is a function that something has attached to through ftrace: one
// entry of /sys/kernel/tracing/enabled_functions (t_show in
// kernel/trace/ftrace.c, 6.1 and 6.12).
type Traced struct {
	Function string   `json:"function"`
	Module   string   `json:"module,omitempty"`
	Count    int      `json:"count"` // how many have attached
	Flags    string   `json:"flags"` // of R I D O M
	Owners   []string `json:"owners,omitempty"`
	Direct   string   `json:"direct,omitempty"` // function that is called directly
}

// The flags of Traced.
const (
	flagIPModify = "I" // one of them decides where execution goes on
	flagDirect   = "D" // one is called without ftrace in between
)

// Has reports whether the entry has a flag.
func (t *Traced) Has(flag string) bool { return strings.Contains(t.Flags, flag) }

// ParseEnabledFunctions reads enabled_functions. Lines that it does not
// understand are left out: the format has grown and will.
func ParseEnabledFunctions(b []byte) []Traced {
	var all []Traced
	for l := range lines(b) {
		text := strings.TrimSpace(l)
		if to, ok := strings.CutPrefix(text, "direct-->"); ok {
			if n := len(all); n > 0 {
				all[n-1].Direct = symbolOf(to)
			}
			continue
		}
		if t, ok := parseTraced(text); ok {
			all = append(all, t)
		}
	}
	return all
}

// parseTraced reads "name [module] (2) R I D O M\ttramp: 0xaddr (func+0/9) ->other+0/7\tops: …".
// Newer kernels put the address before the name.
func parseTraced(text string) (Traced, bool) {
	var t Traced
	head, rest, ok := strings.Cut(text, " (")
	count, rest, ok2 := strings.Cut(rest, ")")
	n, err := strconv.Atoi(count)
	if !ok || !ok2 || err != nil || n < 0 {
		return t, false
	}
	t.Count = n
	words := strings.Fields(head)
	if len(words) > 1 && isHex(words[0]) && (len(words) == 3 || !strings.HasPrefix(words[1], "[")) {
		words = words[1:]
	}
	switch {
	case len(words) == 2 && strings.HasPrefix(words[1], "[") && strings.HasSuffix(words[1], "]"):
		t.Module = strings.Trim(words[1], "[]")
	case len(words) != 1:
		return t, false
	}
	t.Function = words[0]
	parts := strings.Split(rest, "\t")
	flags := parts[0]
	if i := strings.Index(flags, "->"); i >= 0 {
		t.owner(flags[i+2:])
		flags = flags[:i]
	}
	for _, w := range strings.Fields(flags) {
		if len(w) == 1 {
			t.Flags += w
		}
	}
	for _, p := range parts[1:] {
		t.owners(p)
	}
	return t, true
}

// owners reads "tramp: 0xaddr (func+0x0/0x9) ->other+0x0/0x7": the functions
// in parentheses and after the arrow.
func (t *Traced) owners(part string) {
	if i := strings.Index(part, "->"); i >= 0 {
		t.owner(part[i+2:])
		part = part[:i]
	}
	for {
		_, after, ok := strings.Cut(part, "(")
		if !ok {
			return
		}
		in, rest, ok := strings.Cut(after, ")")
		if !ok {
			return
		}
		t.owner(in)
		part = rest
	}
}

func (t *Traced) owner(symbol string) {
	name := symbolOf(symbol)
	if name == "" || strings.HasPrefix(name, "0x") { // an address without a symbol
		return
	}
	for _, o := range t.Owners {
		if o == name {
			return
		}
	}
	t.Owners = append(t.Owners, name)
}

// symbolOf is the name of a symbol as %pS prints it: without offset and size,
// with the module after it.
func symbolOf(text string) string {
	text = strings.TrimSpace(text)
	name, module, _ := strings.Cut(text, " ")
	name, _, _ = strings.Cut(name, "+0x")
	if module = strings.TrimSpace(module); strings.HasPrefix(module, "[") {
		name += " " + module
	}
	return name
}

// Kprobe is one line of /sys/kernel/debug/kprobes/list (report_probe in
// kernel/kprobes.c).
type Kprobe struct {
	Address  uint64 `json:"address,omitempty"` // 0 if the reader may not see it
	Return   bool   `json:"return"`            // a kretprobe
	Function string `json:"function"`
	Offset   uint64 `json:"offset"`
	Module   string `json:"module,omitempty"`
	Ftrace   bool   `json:"ftrace"`   // it is called by ftrace, at the patch site of the function
	Disabled bool   `json:"disabled"` // or its code is gone
}

// ParseKprobes reads the list of kprobes; lines that are none are left out.
func ParseKprobes(b []byte) []Kprobe {
	var all []Kprobe
	for l := range lines(b) {
		f := strings.Fields(l)
		if len(f) < 3 || f[1] != "k" && f[1] != "r" {
			continue
		}
		addr, err := strconv.ParseUint(strings.TrimPrefix(f[0], "0x"), 16, 64)
		if err != nil {
			continue
		}
		at := strings.LastIndex(f[2], "+0x")
		if at <= 0 {
			continue
		}
		off, _, _ := strings.Cut(f[2][at+3:], "/")
		n, err := strconv.ParseUint(off, 16, 64)
		if err != nil {
			continue
		}
		k := Kprobe{Address: addr, Return: f[1] == "r", Function: f[2][:at], Offset: n}
		for _, w := range f[3:] {
			k.mark(w)
		}
		all = append(all, k)
	}
	return all
}

// mark takes a word after the place: the module, with or without brackets, or
// marks without a space between them.
func (k *Kprobe) mark(word string) {
	for _, m := range []string{"[GONE]", "[DISABLED]", "[OPTIMIZED]", "[FTRACE]"} {
		if !strings.Contains(word, m) {
			continue
		}
		word = strings.ReplaceAll(word, m, "")
		k.Ftrace = k.Ftrace || m == "[FTRACE]"
		k.Disabled = k.Disabled || m == "[GONE]" || m == "[DISABLED]"
	}
	if word = strings.Trim(word, "[]"); word != "" && k.Module == "" {
		k.Module = word
	}
}

// ParseErrorInjection reads /sys/kernel/debug/error_injection/list: the
// functions whose result BPF and fault injection may replace.
func ParseErrorInjection(b []byte) map[string]bool {
	all := map[string]bool{}
	for l := range lines(b) {
		if f := strings.Fields(l); len(f) > 0 {
			all[f[0]] = true
		}
	}
	return all
}

// lines yields the lines of b; those longer than 64 KiB end it.
func lines(b []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		s := bufio.NewScanner(bytes.NewReader(b))
		for s.Scan() {
			if !yield(s.Text()) {
				return
			}
		}
	}
}

func isHex(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}
