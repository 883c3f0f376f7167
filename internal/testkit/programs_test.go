package testkit

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A program that does not end is an error that says what its threads do, soon.
func TestAwait(t *testing.T) {
	cmd := exec.Command(Tool(t, "sleep"), "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := await(cmd, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "sleep, process") || time.Since(begin) > patience {
		t.Errorf("error %v after %v", err, time.Since(begin))
	}
	if runtime.GOOS == "linux" && !strings.Contains(err.Error(), "State: S") {
		t.Errorf("error %v does not say that it sleeps", err)
	}
	_ = cmd.Process.Kill()
}
