// Command livepatch patches running programs and looks at machine code: it
// compares objects, finds patch sites, builds patch packages, and applies and
// reverts them.
//
// Each command is in a file of its own and holds flags and words only; what it
// does is in the packages. Exit codes are in output.go.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is main with its surroundings given. It returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	if len(args) > 1 && args[1] == completeWord {
		complete(app, args[2:], stdout)
		return exitDone
	}
	if len(args) > 1 && args[1] == assistWord {
		return assist(app, args)
	}
	arranged, err := arrange(app, args)
	if err == nil {
		ctx, stop := interruptible(arranged[1], stderr)
		defer stop()
		err = app.RunContext(ctx, arranged)
	}
	return reportError(app, err)
}

// interruptible returns the context of a command. Those that change a process
// are not ended by the first interrupt: the demo ends its server, build ends
// the compilers and takes its scratch directory away, watch applies what it has begun, and the others come to an end soon, with the target in a state that they can name.
// The second one ends them.
func interruptible(command string, stderr io.Writer) (context.Context, func()) {
	switch command {
	case "build", "watch":
		return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	case "apply", "revert", "demo":
	default:
		return context.Background(), func() {}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	done := context.AfterFunc(ctx, func() {
		stop()
		if command != "demo" {
			fmt.Fprintln(stderr, "livepatch: hint: about to finish; interrupt again to end at once")
		}
	})
	return ctx, func() {
		done()
		stop()
	}
}
