package kbuild

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSavedCommand(t *testing.T) {
	const text = `savedcmd_fs/a.o := gcc -Wp,-MMD,fs/.a.o.d -I/s/include -DKBUILD_MODNAME='"proc"' -DX=\"y\" -D'A B'=1 -D"C D" -DH=$(pound)'$$' -c -o fs/a.o /s/fs/a.c   ; ./tools/objtool/objtool --orc fs/a.o

source_fs/a.o := /s/fs/a.c

deps_fs/a.o := \
  /s/include/linux/x.h \
    $(wildcard include/config/FOO) \
  include/generated/y.h \

fs/a.o: $(deps_fs/a.o)

$(deps_fs/a.o):
`
	programs, deps, err := savedCommand(text)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"gcc", "-Wp,-MMD,fs/.a.o.d", "-I/s/include", `-DKBUILD_MODNAME="proc"`, `-DX="y"`, "-DA B=1", "-DC D", "-DH=#$", "-c", "-o", "fs/a.o", "/s/fs/a.c"},
		{"./tools/objtool/objtool", "--orc", "fs/a.o"},
	}
	if d := cmp.Diff(want, programs); d != "" {
		t.Errorf("programs (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"/s/fs/a.c", "/s/include/linux/x.h", "include/generated/y.h"}, deps); d != "" {
		t.Errorf("dependencies (-want +got)\n%s", d)
	}
}

func TestSplitCommandErrors(t *testing.T) {
	for line, want := range map[string]string{
		"": "is empty", " ; ": "is empty", "gcc 'a": "not closed", `gcc "a`: "not understood", `gcc "$x"`: "not understood",
		"gcc a | sh": "for a shell", "gcc `x`": "for a shell", "gcc $(x)": "for a shell", "gcc a > b": "for a shell", "gcc a && b": "for a shell", "gcc *.c": "for a shell",
	} {
		if got, err := splitCommand(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want %q", line, got, err, want)
		}
	}
	if _, _, err := savedCommand("x := y\n"); err == nil {
		t.Error("a file without a command is taken")
	}
}

func FuzzSavedCommand(f *testing.F) {
	f.Add("cmd_a.o := gcc -c 'a b' \"c\" \\d ; objtool a.o\n\ndeps_a.o := \\\n  x.h \\\n")
	f.Fuzz(func(t *testing.T, text string) {
		programs, _, err := savedCommand(text)
		if err == nil && (len(programs) == 0 || len(programs[0]) == 0) {
			t.Error("no command and no error")
		}
	})
}

func TestBannerCompiler(t *testing.T) {
	for banner, want := range map[string]string{
		"Linux version 6.12.117+deb12-cloud-amd64 (debian-kernel@lists.debian.org) (x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP": "x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0",
		"Linux version 6.1.0 (a@b) (clang version 17.0.6, LLD 17.0.6) #1":                                        "clang version 17.0.6",
		"Linux version 7.2.13 (a@b) (Debian clang version 19.1.7 (3~deb12u1), Debian LLD 19.1.7) #1 SMP PREEMPT": "Debian clang version 19.1.7 (3~deb12u1)",
		"Linux version 6.1.0 (a@b) #1": "",
	} {
		if got := bannerCompiler(banner); got != want {
			t.Errorf("%s: got %q, want %q", banner, got, want)
		}
	}
	if revision("gcc-12 (Debian 12.2.0-14) 12.2.0") == revision("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0") {
		t.Error("two revisions of a package count as one")
	}
	if revision("gcc-12 (Debian 12.2.0-14) 12.2.0") != revision("x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14) 12.2.0") {
		t.Error("the name of the program counts")
	}
	if revision("Debian clang version 19.1.7 (3~deb12u1)") == revision("Ubuntu clang version 19.1.7 (3~deb12u1)") {
		t.Error("two builds of clang count as one")
	}
}
