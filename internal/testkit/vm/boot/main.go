// Command boot boots a kernel in QEMU, runs scripts in it and prints what they
// print. It is the program behind scripts/vm and serves the project's development.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"livepatch/internal/testkit/vm"
)

// A list is an option that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 1
	}
	os.Exit(code)
}

func run() (int, error) {
	var files, modules list
	flag.Var(&files, "file", "`HOST=GUEST`: have a file in the machine; repeatable")
	flag.Var(&modules, "module", "have this `MODULE` of the kernel in /lib/modules; repeatable")
	dir := flag.String("kernel", "", "`DIRECTORY` that scripts/kernel printed")
	more := flag.String("append", "", "more of the kernel's command line")
	timeout := flag.Duration("timeout", 2*time.Minute, "of the whole")
	log := flag.Bool("log", false, "print the kernel's messages too")
	flag.Parse()
	kernel, err := vm.Open(*dir)
	if err != nil {
		return 0, err
	}
	c := vm.Config{Kernel: kernel, Append: *more, Modules: modules, Timeout: *timeout, Limit: *timeout}
	for _, f := range files {
		from, name, ok := strings.Cut(f, "=")
		if !ok || !strings.HasPrefix(name, "/") {
			return 0, fmt.Errorf("-file %s: not HOST=/GUEST", f)
		}
		c.Files = append(c.Files, vm.File{Name: name, From: from})
	}
	for _, name := range flag.Args() {
		b, err := os.ReadFile(name)
		if err != nil {
			return 0, err
		}
		c.Steps = append(c.Steps, vm.Step{Name: filepath.Base(name), Script: string(b)})
	}
	r, err := vm.Run(context.Background(), c)
	if r == nil {
		return 0, err
	}
	code := 0
	if *log {
		printLog(r.Boot)
	}
	for _, s := range r.Steps {
		fmt.Print(s.Output)
		if !strings.HasSuffix(s.Output, "\n") {
			fmt.Println()
		}
		if *log {
			printLog(s.Log)
		}
		if s.Exit != 0 {
			code = 1
			fmt.Fprintf(os.Stderr, "vm: %s ended with %d\n", s.Name, s.Exit)
		}
	}
	fmt.Fprintf(os.Stderr, "vm: %s, %.1f s\n", kernel.Release, r.Elapsed.Seconds())
	return code, err
}

func printLog(lines []vm.Line) {
	for _, l := range lines {
		fmt.Printf("<%d> %s\n", l.Level, l.Text)
	}
}
