package compile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// toolRun is a run of a compiler.
type toolRun struct {
	dir  string
	args []string
}

// maxSaid bounds what is kept of what a compiler says.
const maxSaid = 4 << 10

// run runs the compiler and returns what it wrote to standard output. It ends
// with the context.
func (r toolRun) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, r.args[0], r.args[1:]...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PWD="+r.dir)
	if os.Getenv("SOURCE_DATE_EPOCH") == "" {
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=0") // before and after have to agree
	}
	cmd.WaitDelay = 5 * time.Second
	ownGroup(cmd)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err == nil {
		return out.String(), nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "", fmt.Errorf("run %s: %w", r.args[0], err)
	}
	text := said.String()
	if len(text) > maxSaid {
		text = text[:maxSaid] + "…"
	}
	return "", fmt.Errorf("%s: %w\n%s", r.args[0], err, strings.TrimSpace(text))
}

// inParallel calls fn for 0 to n-1, as many at once as there are processors,
// and returns the first error; then and at the end of the context no more are
// begun.
func inParallel(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wait sync.WaitGroup
	for range min(n, runtime.NumCPU()) {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range next {
				if err := fn(ctx, i); err != nil {
					cancel(err)
				}
			}
		}()
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wait.Wait()
	return context.Cause(ctx)
}
