package main

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"livepatch/internal/testkit/vm"
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

// Command lines that no patch of a kernel can be made from.
func TestCreateForKernelUsage(t *testing.T) {
	kernel := vm.Script(t, "kernel", "--cached", "6.12")
	image := filepath.Join(kernel, "vmlinuz")
	bin := "../../testdata/binaries/x86_64-gcc/"
	pair := bin + "counter.O2.before.o=" + bin + "counter.O2.after.o"
	for _, tc := range []struct {
		words     string
		err, hint string
		code      int
	}{
		{"--target IMAGE", "no --target has a --pair after it", "livepatch help create", exitUsage},
		{"--target IMAGE --target IMAGE --pair PAIR", "IMAGE is a second kernel image", "", exitUsage},
		{"--target IMAGE --target " + bin + "prog --pair PAIR", "prog is neither a kernel nor a module of one, others are", "make one package for", exitUsage},
		{"--target IMAGE --debug x --pair PAIR", "IMAGE has its symbols in itself", "leave --debug out", exitUsage},
		{"--target IMAGE --pair PAIR --flavour ftrace", `--flavour "ftrace" is not known`, "known: auto, klp", exitUsage},
		{"--target IMAGE --pair PAIR --state x", `--state "x" is not ID or ID=VERSION`, "", exitUsage},
		{"--target IMAGE --pair PAIR --module-key key.pem", "--module-key and --module-cert go together", "a signature needs", exitUsage},
		{"--target IMAGE --pair PAIR --config nosuch", "read nosuch: no such file", "", exitError},
		{"--target IMAGE --pair PAIR --symvers " + bin + "prog", "read " + bin + "prog: ", "", exitError},
		{"--target IMAGE --pair PAIR --config ../../go.mod --objtool nosuch", "nosuch: no such file", "", exitError},
	} {
		words := strings.NewReplacer("IMAGE", image, "PAIR", pair).Replace(tc.words)
		out := filepath.Join(t.TempDir(), "x.lpatch")
		_, errs, code := livepatch(append([]string{"create", "-o", out}, strings.Fields(words)...)...)
		want := strings.ReplaceAll(tc.err, "IMAGE", image)
		if code != tc.code || !strings.Contains(errs, want) || !strings.Contains(errs, "hint: "+tc.hint) && tc.hint != "" {
			t.Errorf("%s: code %d\n%s", tc.words, code, errs)
		}
	}
}
