package policy

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// Names that make a file vanish on other hosts: "_linux.go", "_amd64.go". The
// machine comes first instead: x86.go, arm64_reloc.go.
var hostSuffix = regexp.MustCompile(`_(amd64|arm64|s390x|386|arm|linux|darwin|windows|freebsd)\.go$`)

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		allowed, ok := imports[s.dir]
		if !ok {
			t.Errorf("%s: package %s has no line in the policy", s.name, s.dir)
			continue
		}
		for _, spec := range s.file.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			local, mine := strings.CutPrefix(imp, module+"/")
			first, _, _ := strings.Cut(imp, "/")
			switch {
			case mine || strings.Contains(first, "."):
				if !slices.Contains(allowed, local) {
					t.Errorf("%s: %s may not import %s", s.name, s.dir, local)
				}
			case slices.Contains(impure, imp) && !slices.Contains(machine, s.dir):
				t.Errorf("%s: %s must stay pure, it imports %s", s.name, s.dir, imp)
			}
		}
	}
}

func TestImportTableIsMinimal(t *testing.T) {
	used := map[string]map[string]bool{}
	for _, s := range sources(t) {
		if used[s.dir] == nil {
			used[s.dir] = map[string]bool{}
		}
		for _, spec := range s.file.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			used[s.dir][strings.TrimPrefix(imp, module+"/")] = true
		}
	}
	for dir, allowed := range imports {
		if used[dir] == nil {
			t.Errorf("the policy has a line for %s, which does not exist", dir)
			continue
		}
		for _, imp := range allowed {
			if !used[dir][imp] {
				t.Errorf("the policy allows %s to import %s, which it does not", dir, imp)
			}
		}
	}
}

func TestFileNames(t *testing.T) {
	for _, s := range sources(t) {
		if hostSuffix.MatchString(s.name) && !slices.Contains(machine, s.dir) {
			t.Errorf("%s: the suffix is a build constraint; put the machine first", s.name)
		}
		for _, g := range s.file.Comments {
			for _, c := range g.List {
				if strings.HasPrefix(c.Text, "//go:build") && !slices.Contains(machine, s.dir) {
					t.Errorf("%s: a pure package builds the same everywhere, it has %s", s.name, c.Text)
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	used := map[string]bool{}
	excused := func(key string) bool {
		_, ok := long[key]
		used[key] = used[key] || ok
		return ok
	}
	for _, s := range sources(t) {
		if s.lines > maxFile && !excused(s.name) {
			t.Errorf("%s: %d lines, more than %d", s.name, s.lines, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			key := s.name + ": " + f.Name.Name
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if n > maxFunc && !excused(key) {
				t.Errorf("%s has %d lines, more than %d", key, n, maxFunc)
			}
			if n := params(f.Type); n > maxParams && !excused(key) {
				t.Errorf("%s has %d parameters, more than %d", key, n, maxParams)
			}
		}
	}
	for key := range long {
		if !used[key] {
			t.Errorf("%s needs no exception any more", key)
		}
	}
}

// params counts parameters; those of a format string count as one with it.
func params(f *ast.FuncType) int {
	n := f.Params.NumFields()
	if n > 0 {
		if _, variadic := f.Params.List[len(f.Params.List)-1].Type.(*ast.Ellipsis); variadic {
			n--
		}
	}
	return n
}

func TestPackageComments(t *testing.T) {
	doc, program := map[string]string{}, map[string]bool{}
	for _, s := range sources(t) {
		program[s.dir] = s.file.Name.Name == "main"
		if text := s.file.Doc.Text(); text != "" || doc[s.dir] == "" {
			doc[s.dir] = text
		}
	}
	for dir, text := range doc {
		want := "Package " + path.Base(dir) + " "
		if program[dir] {
			want = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(text, want) {
			t.Errorf("%s: its comment must begin %q", dir, want)
		}
	}
}

// No package keeps state: its variables are tables and error values, made once
// and only read. None has an init function.
func TestState(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: no init functions", s.name)
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					embedded := isEmbed(d.Doc) || isEmbed(v.Doc)
					key := s.dir + ": " + v.Names[0].Name
					if len(v.Values) == 0 && !embedded && v.Names[0].Name != "_" && state[key] == "" {
						t.Errorf("%s: package variable %s has no value, so it is state", s.name, v.Names[0].Name)
					}
				}
			}
		}
	}
}

func isEmbed(doc *ast.CommentGroup) bool {
	return doc != nil && strings.HasPrefix(doc.List[len(doc.List)-1].Text, "//go:embed")
}

var (
	vague = regexp.MustCompile(`(?i)^(failed|unable|could not|couldn't|cannot|can't|error|errors)\b`)
	exits = []string{"os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "syscall.Exit", "runtime.Goexit"}
)

// Errors say what was being done to what, in lower case, without a full stop
// at the end. Only cmd ends the process, and only the impossible panics.
func TestErrors(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			pos := s.fset.Position(call.Pos())
			name := callee(call)
			switch {
			case slices.Contains(exits, name) && s.file.Name.Name != "main":
				t.Errorf("%v: only programs end the process", pos)
			case name == "panic" && !raisedAgain(call.Args[0]) && !strings.HasPrefix(text(call.Args[0]), "BUG: "):
				t.Errorf("%v: a panic is for the impossible and begins with BUG:", pos)
			case name == "fmt.Errorf" || name == "errors.New":
				if msg := text(call.Args[0]); msg != "" {
					if problem := badError(msg); problem != "" {
						t.Errorf("%v: %q: %s", pos, msg, problem)
					}
				}
			}
			return true
		})
	}
}

// raisedAgain reports whether a panic's value is a variable: one recovered
// that somebody else must see.
func raisedAgain(e ast.Expr) bool {
	_, ok := e.(*ast.Ident)
	return ok
}

func badError(msg string) string {
	first, _, _ := strings.Cut(msg, " ")
	r := []rune(first)
	switch {
	case vague.MatchString(msg):
		return "name the action and its object, not the failure"
	case strings.HasSuffix(msg, ".") || strings.HasSuffix(msg, "\n"):
		return "no full stop or newline at the end"
	case len(r) > 1 && unicode.IsUpper(r[0]) && unicode.IsLower(r[1]):
		return "begin in lower case"
	}
	return ""
}

func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return fmt.Sprint(f.X) + "." + f.Sel.Name
	}
	return ""
}

// text is the string that an expression begins with: a literal, a sum, or the
// format of a call.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, _ := strconv.Unquote(e.Value)
			return s
		}
	case *ast.BinaryExpr:
		return text(e.X)
	case *ast.CallExpr:
		if len(e.Args) > 0 {
			return text(e.Args[0])
		}
	}
	return ""
}
