package refusal

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRefusalError(t *testing.T) {
	for _, tc := range []struct {
		r    Refusal
		want string
	}{
		{New(NoRoom, "a.o: f+0x4", "%d bytes", 3), "a.o: f+0x4: 3 bytes [no-room]"},
		{New(Unsupported, "", "LTO"), "LTO [unsupported]"},
		{New(Unsupported, "a.o", "100%% odd"), "a.o: 100% odd [unsupported]"},
	} {
		if got := tc.r.Error(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestListErr(t *testing.T) {
	if err := (List{}).Err(); err != nil {
		t.Errorf("an empty list is an error: %v", err)
	}
	a, b, c := New(NoRoom, "b", "x"), New(NoRoom, "a", "x"), New(DataChanged, "b", "x")
	in := List{a, b, a, c}
	err := fmt.Errorf("create: %w", in.Err())
	var got List
	if !errors.As(err, &got) {
		t.Fatalf("%v holds no List", err)
	}
	if d := cmp.Diff(List{b, c, a}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if in[0] != a || in[1] != b {
		t.Error("Err changed its receiver")
	}
	if got.Error() != "a: x [no-room]\nb: x [data-changed]\nb: x [no-room]" {
		t.Errorf("text %q", got.Error())
	}
}

// Every constant of type Code has one row in Codes, in the same order, and the
// meaning is a sentence of the house style.
func TestCodesListsEveryConstant(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var constants, rows []string
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Code" {
			s, _ := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			constants = append(constants, s)
		}
		return true
	})
	for _, c := range Codes {
		rows = append(rows, string(c.Code))
		if c.Meaning == "" || strings.HasSuffix(c.Meaning, ".") || strings.ToLower(c.Meaning[:1]) != c.Meaning[:1] {
			t.Errorf("%s: meaning %q is not a lower-case sentence without full stop", c.Code, c.Meaning)
		}
	}
	if d := cmp.Diff(constants, rows); d != "" {
		t.Errorf("Codes differs from the constants (-constants +rows)\n%s", d)
	}
}
