package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"livepatch/docs"
	"livepatch/internal/check"
	"livepatch/internal/klp"
	"livepatch/internal/kstate"
	"livepatch/internal/live"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// docs/json.md names every key that the commands print.
func TestJSONKeysAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[reflect.Type]bool{reflect.TypeFor[manifest.Manifest](): true} // has its own page
	for _, v := range []any{inspection{}, matchReport{}, packageDiff{}, signedPackage{}, madeKey{}, moduleInspection{}, check.Report{}, process.Result{}, process.Report{}, process.Repaired{}, busyReport{}, live.Report{},
		klp.Result{}, klp.Reverted{}, klp.Report{}, kstate.Verdict{}, kstate.Conflict{}, kstate.Record{}, docs.Diagnostic{}, refusal.Refusal{}} {
		checkKeys(t, string(b), reflect.TypeOf(v), seen)
	}
}

func checkKeys(t *testing.T, doc string, typ reflect.Type, seen map[reflect.Type]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || seen[typ] {
		return
	}
	seen[typ] = true
	for i := range typ.NumField() {
		f := typ.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case key == "":
			t.Errorf("%v.%s has no JSON key", typ, f.Name)
		case key != "-" && !strings.Contains(doc, "`"+key+"`"):
			t.Errorf("docs/json.md does not name %q of %v", key, typ)
		}
		checkKeys(t, doc, f.Type, seen)
	}
}
