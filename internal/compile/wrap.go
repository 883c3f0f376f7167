package compile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// RunRecorded notes in a database what a compiler is about to compile and then
// runs it in the place of this process, so that input, output, signals and exit
// code are the compiler's own. It returns only if that fails: nothing was
// compiled then. self is the command line that would record, up to "--", for
// programs that run the compiler themselves.
func RunRecorded(database string, args, self []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	// Relative paths with ".." go by where the directory is, not by a link to it.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	if database, err = filepath.Abs(database); err != nil {
		return err
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("run %s: %w", args[0], errors.Unwrap(err))
	}
	if inner := behindLibtool(args, self); inner != nil {
		return runFailed(args[0], replaceProcess(path, inner))
	}
	expanded, err := ExpandResponse(dir, args)
	if err != nil {
		return err
	}
	// A command line that cannot be taken apart is the compiler's to complain about.
	if c, err := ParseCommand(expanded); err == nil {
		if err := Record(database, c.Entries(dir)); err != nil {
			return err
		}
	}
	return runFailed(args[0], replaceProcess(path, args))
}

func runFailed(name string, err error) error { return fmt.Errorf("run %s: %w", name, err) }

// behindLibtool returns the command line in which libtool, which compiles a
// source twice with options of its own, runs the recording compiler; nil if it
// is not libtool that compiles.
func behindLibtool(args, self []string) []string {
	at := 0
	if base := filepath.Base(args[0]); (base == "sh" || base == "bash") && len(args) > 1 {
		at = 1
	}
	if base := filepath.Base(args[at]); base != "libtool" && !strings.HasSuffix(base, "-libtool") {
		return nil
	}
	compiler, tagged, compiles := at+1, false, false
	for compiler < len(args) && strings.HasPrefix(args[compiler], "-") {
		tagged = tagged || strings.HasPrefix(args[compiler], "--tag")
		compiles = compiles || args[compiler] == "--mode=compile"
		compiler++
	}
	if !compiles || compiler == len(args) {
		return nil
	}
	out := slices.Clone(args[:compiler])
	if !tagged { // it knows only the compiler that it was made for
		tag := "--tag=CC"
		if strings.HasSuffix(strings.TrimRight(filepath.Base(args[compiler]), "-.0123456789"), "++") {
			tag = "--tag=CXX"
		}
		out = append(out, tag)
	}
	return slices.Concat(out, self, args[compiler:])
}
