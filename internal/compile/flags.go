package compile

import (
	"path/filepath"
	"slices"
	"strings"
)

// dropped are options of a build that write further files or change how
// diagnostics look, and change no code. Files of the user must not be written,
// which a link in the mirror leads to.
var dropped = []string{"-save-temps", "--save-temps", "-gsplit-dwarf", "-fdump-", "-fstack-usage", "-fcallgraph-info", "-aux-info", "--serialize-diagnostics",
	"-serialize-diagnostics", "-dumpbase", "-dumpdir", "-ftime-trace", "-fsave-optimization-record", "-foptimization-record-file", "-fopt-info",
	"-fdiagnostics-add-output", "-fcrash-diagnostics", "-index-store-path", "-Wa,-a", "-MMD", "-frecord-gcc-switches", "-grecord-gcc-switches",
	"-fprofile-note", "-ftest-coverage", "--coverage", "-fdiagnostics-color"}

// usable returns the flags without those that are dropped.
func usable(flags []string) (out []string) {
	for i := 0; i < len(flags); i++ {
		drop := slices.ContainsFunc(dropped, func(d string) bool { return strings.HasPrefix(flags[i], d) })
		if !drop {
			out = append(out, flags[i])
		}
		if withValue[flags[i]] && i+1 < len(flags) {
			if i++; !drop {
				out = append(out, flags[i])
			}
		}
	}
	return out
}

// linkTime reports whether the flags ask for optimization at link time: the
// object then holds no machine code, or other than what is linked.
func linkTime(flags []string) (on bool) {
	for _, f := range flags {
		switch {
		case f == "-fno-lto":
			on = false
		case f == "-flto" || strings.HasPrefix(f, "-flto=") || f == "-fwhole-program":
			on = true
		}
	}
	return on
}

// profiled reports whether the flags ask for optimization by a profile.
func profiled(flags []string) (on bool) {
	for _, f := range flags {
		for _, option := range []string{"profile-use", "profile-instr-use", "auto-profile", "profile-sample-use"} {
			if f == "-fno-"+option {
				on = false
			} else if f == "-f"+option || strings.HasPrefix(f, "-f"+option+"=") {
				on = true
			}
		}
	}
	return on
}

// hasDebug reports whether the flags ask for debug information.
func hasDebug(flags []string) (on bool) {
	for _, f := range flags {
		switch {
		case f == "-g0":
			on = false
		case strings.HasPrefix(f, "-g"):
			on = true
		}
	}
	return on
}

// pathOptions are options whose value is a file or directory that is read.
var pathOptions = []string{"-include", "-imacros", "-isystem", "-iquote", "-idirafter", "-iprefix", "-iwithprefixbefore", "-iwithprefix", "-isysroot",
	"--sysroot=", "--sysroot", "-include-pch", "-ivfsoverlay", "-fprofile-use=", "-fprofile-instr-use=", "-fauto-profile=", "-fprofile-sample-use=",
	"-specs=", "-fplugin=", "-B", "-I"}

// pathValue splits a flag with a path: the option, and the path, which for
// some is the next flag.
func pathValue(flag string) (option, path string, ok bool) {
	for _, o := range pathOptions {
		if rest, found := strings.CutPrefix(flag, o); found {
			return o, rest, true
		}
	}
	return "", "", false
}

// anchored makes relative paths absolute that lead out of the mirrored
// directories: in the mirror they would lead nowhere.
func (m *mirror) anchored(dir string, flags []string) []string {
	out := slices.Clone(flags)
	for i := range out {
		option, path, ok := pathValue(out[i])
		at := i
		if ok && path == "" && i+1 < len(out) {
			option, path, at = "", out[i+1], i+1
		}
		if !ok || path == "" || filepath.IsAbs(path) || path[0] == '-' || path[0] == '=' || path[0] == '$' {
			continue
		}
		if full := filepath.Join(dir, path); !m.covers(full) || !m.covers(dir) {
			out[at] = option + full
		}
	}
	return out
}

// recorded are flags as the manifest shows them: without the directories of
// the build. Paths in the source tree begin with it as ".", others that are
// absolute are left out with their option.
func recorded(source string, flags []string) (out []string) {
	for i := 0; i < len(flags); i++ {
		group := flags[i : i+1]
		if withValue[flags[i]] && i+1 < len(flags) {
			i++
			group = flags[i-1 : i+1]
		}
		var clean []string
		foreign := false
		for k, f := range group {
			f = replacePaths(f, source, ".")
			_, path, ok := pathValue(f)
			if k == 1 {
				path = f
			}
			foreign = foreign || (ok || k == 1) && filepath.IsAbs(path) || strings.Contains(f, "-prefix-map=/")
			clean = append(clean, f)
		}
		if !foreign {
			out = append(out, clean...)
		}
	}
	return out
}
