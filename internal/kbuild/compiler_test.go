package kbuild

import (
	"errors"
	"testing"

	"livepatch/internal/refusal"
)

// A module of another compiler, or of another revision of it, is refused; one that
// is only partly of it, or says nothing, is left to the proof.
func TestModuleCompiler(t *testing.T) {
	c := &Compiler{Version: "x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"}
	const ours, older, clang = "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\x00", "\x00GCC: (Debian 12.2.0-14) 12.2.0\x00", "Debian clang version 14.0.6\x00"
	for comment, want := range map[string]string{
		"": "", "\x00": "", ours: "", "\x00" + ours + ours: "", older + ours: "",
		older + older: "x.ko: the module was built with (Debian 12.2.0-14) 12.2.0, this is x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0 [wrong-compiler]",
		older + clang: "x.ko: the module was built with (Debian 12.2.0-14) 12.2.0 and Debian clang version 14.0.6, this is x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0 [wrong-compiler]",
	} {
		err := c.CheckModule("x.ko", []byte(comment))
		var r refusal.Refusal
		if got := errors.As(err, &r); got != (want != "") || got && r.Error() != want {
			t.Errorf("%q: %v", comment, err)
		}
	}
}
