//go:build linux && amd64

package test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"livepatch/internal/process"
	"livepatch/internal/testkit"
)

// Debian's libcrypto, as packaged, in a program that never rests: two fixes of
// OpenSSL 3.0.22, from the source patch. The length of an object may end with
// the data; and the generators of random numbers, which the threads use, look at
// whether they could be kept.
func TestLibcryptoFromSourcePatch(t *testing.T) {
	dir := programFiles(t, "openssl")
	libs := filepath.Join(dir, "root/usr/lib/x86_64-linux-gnu")
	library := filepath.Join(libs, "libcrypto.so.3")
	pkg := buildPackage(t, "programs/openssl.patch", filepath.Join(dir, "source"), dir, library)
	if !shares(pkg, "rand_drbg_ossl_ctx_method") {
		t.Error("the package does not use the static variable rand_drbg_ossl_ctx_method")
	}
	// Others only say at which line they are.
	if n := len(pkg.Manifest.Targets[0].Functions); n != 3 {
		t.Errorf("the package replaces %d functions, want ASN1_get_object, RAND_get0_public, RAND_get0_private", n)
	}
	program := filepath.Join(t.TempDir(), "asn1")
	testkit.Run(t, testkit.Tool(t, "gcc"), "-O2", "-o", program, "programs/asn1.c", "-lcrypto", "-pthread")

	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs)
	cmd.SysProcAttr = dieWithTest()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	out := bufio.NewReader(pipe)
	ask := func(line string) string {
		t.Helper()
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return strings.TrimSpace(answer)
	}
	// count waits until the threads have gone on, and checks them.
	count := func() (rounds int) {
		t.Helper()
		first := -1
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			var wrong int
			if _, err := fmt.Sscanf(ask("count"), "%d rounds, %d wrong", &rounds, &wrong); err != nil || wrong != 0 {
				t.Fatalf("%d rounds, %d wrong, %v", rounds, wrong, err)
			}
			if first < 0 {
				first = rounds
			}
			if rounds > first+100 {
				return rounds
			}
			if time.Now().After(deadline) {
				t.Fatal("the threads do not go on")
			}
		}
	}
	check := func(when, empty string) {
		t.Helper()
		for der, want := range map[string]string{"048100": empty, "0400": "0", "0403616263": "3", "04": "bad", "0481": "bad", "04820003616263": "3"} {
			if got := ask(der); got != want {
				t.Errorf("%s: %s is %s, want %s", when, der, got, want)
			}
		}
		count()
	}
	check("before", "bad")
	pages := executablePages(t, cmd.Process.Pid)
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for i := range rounds {
		if _, err := process.Apply([]int{cmd.Process.Pid}, pkg, process.Options{}); err != nil {
			t.Fatalf("round %d: apply: %v (%s)", i, err, process.StateOf(err))
		}
		check("patched", "0")
		if _, err := process.Revert(cmd.Process.Pid, pkg.Manifest.Name, process.Options{}); err != nil {
			t.Fatalf("round %d: revert: %v (%s)", i, err, process.StateOf(err))
		}
		check("reverted", "bad")
		comparePages(t, pages, executablePages(t, cmd.Process.Pid))
	}
	t.Logf("%d rounds of the threads", count())
}
