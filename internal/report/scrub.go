package report

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// multiline is text whose line breaks count.
type multiline string

// scrub replaces in every string that v leads to what is not shown as itself:
// control characters, those that turn the direction of text or take no room,
// and bytes that are no text. Names come from object files that anybody may
// have made.
func scrub(v any) { scrubValue(reflect.ValueOf(v)) }

func scrubValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			scrubValue(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			scrubValue(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			scrubValue(v.Index(i))
		}
	case reflect.String:
		lines := v.Type() == reflect.TypeFor[multiline]()
		if s := v.String(); !plain(s) {
			v.SetString(visible(s, lines))
		}
	}
}

// plain reports text that needs no second look.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// visible writes hidden characters as ⟨U+202E⟩ and stray bytes as ⟨0xff⟩.
func visible(s string, lines bool) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, "⟨0x%02x⟩", s[i])
		case lines && (r == '\n' || r == '\t'):
			b.WriteRune(r)
		case hidden(r):
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hidden reports characters that are not shown as a sign of their own.
func hidden(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Bidi_Control, unicode.Zl, unicode.Zp, unicode.Co, unicode.Variation_Selector) ||
		unicode.IsSpace(r) && r != ' '
}
