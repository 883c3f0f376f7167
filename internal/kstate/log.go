package kstate

import (
	"strconv"
	"strings"
)

// Record is one record of the kernel's log.
type Record struct {
	Level    int    `json:"level"`    // 0 emergency … 7 debug
	Sequence uint64 `json:"sequence"` // counts up by one
	Micros   uint64 `json:"micros"`   // since boot
	Text     string `json:"text"`
	Meaning  string `json:"meaning,omitempty"` // in this context, "" if there is nothing to add
}

// ParseRecord reads what one read of /dev/kmsg returns:
// "LEVEL,SEQUENCE,MICROSECONDS,FLAGS[,…];TEXT\n KEY=VALUE\n…"
// (Documentation/ABI/testing/dev-kmsg).
func ParseRecord(b []byte) (Record, bool) {
	head, text, ok := strings.Cut(string(b), ";")
	f := strings.Split(head, ",")
	if !ok || len(f) < 4 {
		return Record{}, false
	}
	prefix, err1 := strconv.ParseUint(f[0], 10, 32)
	seq, err2 := strconv.ParseUint(f[1], 10, 64)
	micros, err3 := strconv.ParseUint(f[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return Record{}, false
	}
	text, _, _ = strings.Cut(text, "\n")
	return Record{Level: int(prefix & 7), Sequence: seq, Micros: micros, Text: unescape(text)}, true
}

// unescape undoes \xHH, as which the kernel shows unprintable characters.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if n, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// Relevant keeps the records that have to do with a module: those that the
// livepatch core or the module loader wrote about it, and those that tell of
// trouble. Each gets its meaning.
func Relevant(all []Record, module string) []Record {
	var out []Record
	for _, r := range all {
		row := messageOf(r.Text)
		about := strings.HasPrefix(r.Text, "livepatch: ") || module != "" && strings.Contains(r.Text, module)
		if row == nil && !about {
			continue
		}
		if row != nil {
			r.Meaning = row.Meaning
		}
		out = append(out, r)
	}
	return out
}

// Trouble reports whether a record tells of a fault in the kernel.
func (r *Record) Trouble() bool {
	row := messageOf(r.Text)
	return row != nil && row.fault
}

func messageOf(text string) *message {
	for i := range messages {
		if messages[i].matches(text) {
			return &messages[i]
		}
	}
	return nil
}

// matches reports whether all parts of the pattern are in the text, in order.
func (m *message) matches(text string) bool {
	for _, part := range strings.Split(m.Pattern, "…") {
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = after
	}
	return true
}
