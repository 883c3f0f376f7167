package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// Pairs and debug files belong to the target before them, in the order of the
// command line.
func TestInputOrder(t *testing.T) {
	for _, tc := range []struct {
		words string // option=value …
		want  []targetPaths
		err   string
	}{
		{"target=a pair=x=y", []targetPaths{{file: "a", pairs: [][2]string{{"x", "y"}}}}, ""},
		{"target=a pair=x=y pair=p=q target=b debug=d pair=m=n", []targetPaths{
			{file: "a", pairs: [][2]string{{"x", "y"}, {"p", "q"}}},
			{file: "b", debug: "d", pairs: [][2]string{{"m", "n"}}},
		}, ""},
		{"", nil, "create needs --target"},
		{"pair=x=y target=a", nil, "--pair x=y comes before the --target"},
		{"debug=d target=a pair=x=y", nil, "--debug d comes before the --target"},
		{"target=a target=b pair=x=y", []targetPaths{{file: "a"}, {file: "b", pairs: [][2]string{{"x", "y"}}}}, ""}, // a may be a kernel image
		{"target=a pair=xy", nil, `--pair "xy" is not ORIG.o=PATCHED.o`},
		{"target=a pair==y", nil, `--pair "=y" is not ORIG.o=PATCHED.o`},
		{"target=a pair=x=", nil, `--pair "x=" is not ORIG.o=PATCHED.o`},
		{"target=a pair=x=y=z", nil, `--pair "x=y=z" is not ORIG.o=PATCHED.o`},
		{"target=a debug=d debug=e pair=x=y", nil, "--target a has two debug files"},
	} {
		order := new(inputOrder)
		for _, w := range strings.Fields(tc.words) {
			option, value, _ := strings.Cut(w, "=")
			if err := order.flag(option).Set(value); err != nil {
				t.Fatal(err)
			}
		}
		got, err := order.group()
		if tc.err != "" {
			var usage *usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want %q", tc.words, err, tc.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %+v, error %v", tc.words, got, err)
		}
	}
}
