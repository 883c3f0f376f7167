package main

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A package for a kernel without the signature that is demanded is refused
// before the kernel is looked at: nothing is said of which kernel it is.
func TestKernelRequiresKey(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("kernels are patched on Linux only")
	}
	pkg, dir := kernelPackageFile(t), t.TempDir()
	key, other := filepath.Join(dir, "key"), filepath.Join(dir, "other")
	for _, path := range []string{key, other} {
		if _, errs, code := livepatch("keygen", "-o", path); code != exitDone {
			t.Fatalf("keygen: %q, %d", errs, code)
		}
	}
	refused := func(reason string, args ...string) {
		t.Helper()
		_, errs, code := livepatch(args...)
		if code != exitRefused || strings.Count(errs, reason) != 2 || strings.Contains(errs, "wrong-target") {
			t.Errorf("%v: %q, %d, want %s", args, errs, code, reason) // once as reason, once in the hint
		}
		if args[0] == "apply" && !strings.HasSuffix(errs, "livepatch: nothing was changed\n") {
			t.Errorf("the last line of %q does not state the kernel", errs)
		}
	}
	refused("signature-missing", "apply", pkg, "--kernel", "--require-key", key+".pub")
	refused("signature-missing", "apply", pkg, "--kernel", "--if-fits", "--trust-dir", dir)
	refused("signature-missing", "apply", pkg, "--kernel", "--print-unit", "--trust-dir", dir)
	if _, errs, code := livepatch("sign", "--key", key, pkg); code != exitDone {
		t.Fatalf("sign: %q, %d", errs, code)
	}
	refused("signature-untrusted", "apply", pkg, "--kernel", "--require-key", other+".pub")
	_, errs, code := livepatch("verify", pkg, "--running-kernel", "--key", other+".pub")
	if code != exitRefused || !strings.Contains(errs, "[signature-untrusted]") || !strings.Contains(errs, "[wrong-target]") {
		t.Errorf("verify: %q, %d, want both reasons", errs, code)
	}
	// With the signature it is judged like any other.
	_, errs, code = livepatch("apply", pkg, "--kernel", "--require-key", key+".pub", "--trust-dir", dir)
	if code != exitRefused || !strings.Contains(errs, "[wrong-target]") || strings.Contains(errs, "signature") {
		t.Errorf("signed: %q, %d", errs, code)
	}
	out, _, code := livepatch("apply", pkg, "--kernel", "--print-unit", "--require-key", key+".pub", "--trust-dir", dir)
	if want := `--if-fits "--require-key" "` + key + `.pub" "--trust-dir" "` + dir + `" "` + pkg + `"`; code != exitDone || !strings.Contains(out, want) {
		t.Errorf("unit: %q, %d, want %q", out, code, want)
	}
}
