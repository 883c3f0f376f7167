package report

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"livepatch/docs"
	"livepatch/internal/build"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/testkit"
	"livepatch/manifest"
)

const (
	before = "counter.O2.before.o"
	patch1 = `From: A. U. Thor
Subject: count twice

The counter was too slow.
---
diff --git a/src/counter.c b/src/counter.c
--- a/src/counter.c
+++ b/src/counter.c
@@ -10,3 +10,3 @@ long counter_tick(int i)
 	ticks++;
-	return n + total;
+	return 2 * (n + total);
 }
`
)

// inputs are those of a package for a program in testdata.
func inputs(t testing.TB, orig, after string) build.Inputs {
	t.Helper()
	dir := filepath.Join(testkit.Root(t), "testdata/binaries/x86_64-gcc")
	file := func(name string) string { return filepath.Join(dir, name) }
	return build.Inputs{
		Name: "fix", Version: "test",
		Record: &manifest.Build{
			Description: "counts <twice>", Version: "1.2", CVE: []string{"CVE-2024-1234"}, Compiler: "gcc 12.2",
			Inputs:   []manifest.Input{{Role: "before", Name: orig, SHA256: bytes.Repeat([]byte{7}, 32)}},
			Units:    []manifest.Unit{{Source: "src/counter.c", Object: orig, Flags: []string{"-O2", "-DX=\"<y>\""}}},
			Findings: []manifest.Finding{{Code: string(refusal.DataChanged), Where: orig + ": ticks", Text: "initial value changed", Allowed: true}},
		},
		Targets: []build.Target{{
			Name: "prog.stripped", File: testkit.ELF(t, file("prog.stripped")),
			Pairs: []build.Pair{{OrigName: orig, PatchedName: after, Orig: testkit.ELF(t, file(orig)), Patched: testkit.ELF(t, file(after))}},
		}},
	}
}

func remedies(code string) string {
	for _, d := range docs.Diagnostics() {
		if d.Code == code {
			return d.Text
		}
	}
	return ""
}

// built is the input of the page of a package.
func built(t testing.TB) Input {
	t.Helper()
	in := inputs(t, before, "counter.O2.after.o")
	r, err := build.Run(in)
	if err != nil {
		t.Fatal(err)
	}
	data, err := pack.Write(r.Package)
	if err != nil {
		t.Fatal(err)
	}
	return Input{Name: "fix", Version: "test", Result: r, File: data, Remedy: remedies, Patches: []Patch{{"0001-count.patch", []byte(patch1)}}}
}

func html(t testing.TB, in Input) string {
	t.Helper()
	out, err := HTML(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var (
	styleOrScript = regexp.MustCompile(`(?s)<(style|script)>.*?</(style|script)>`)
	digests       = regexp.MustCompile(`[0-9a-f]{40,64}|sha256-[^"]*`)
	manifestText  = regexp.MustCompile(`(?s)(<pre class="manifest"[^>]*>).*?</pre>`)
)

// The page of a package for a program, but for style, script, digests and the
// text of the manifest.
func TestGolden(t *testing.T) {
	page := html(t, built(t))
	page = styleOrScript.ReplaceAllString(page, "<$1>…</$1>")
	page = manifestText.ReplaceAllString(page, "$1…</pre>")
	page = digests.ReplaceAllString(page, "…")
	golden := "testdata/page.golden.html"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := string(testkit.Read(t, golden))
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(page, "\n")); diff != "" {
		t.Errorf("UPDATE_GOLDEN=1 writes it anew (-want +got)\n%s", diff)
	}
}

// Two pages of the same inputs are the same bytes.
func TestDeterministic(t *testing.T) {
	a, b := html(t, built(t)), html(t, built(t))
	if a != b {
		t.Error("two pages of the same inputs differ")
	}
}

var outside = regexp.MustCompile(`(?i)(src|href|srcset|action|poster|data|formaction|background|cite)\s*=\s*["']?[^#"'\s>]|url\(|@import|http-equiv="refresh"`)

// Nothing on the page leads out of it, and every link in it leads somewhere.
func TestSelfContained(t *testing.T) {
	page := html(t, built(t))
	if m := outside.FindString(page); m != "" {
		t.Errorf("the page has %q", m)
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]] {
			t.Errorf("two elements have the id %s", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !ids[m[1]] {
			t.Errorf("a link leads to %q, which is not there", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`aria-labelledby="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !ids[m[1]] {
			t.Errorf("a label is %q, which is not there", m[1])
		}
	}
}

// hostile are names and texts that pretend to be something else.
var hostile = []struct{ text, shown string }{
	{`</script><script>alert(1)</script>`, `&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;`},
	{`"><img src=x onerror=alert(1)>`, `&#34;&gt;&lt;img src=x onerror=alert(1)&gt;`},
	{"safe\u202egnp.exe", "safe⟨U+202E⟩gnp.exe"},
	{"a\x1b[31mb\x00c\nd", "a⟨U+001B⟩[31mb⟨U+0000⟩c⟨U+000A⟩d"},
	{"in\u200bvisible\u2066\ufeff\u00ad", "in⟨U+200B⟩visible⟨U+2066⟩⟨U+FEFF⟩⟨U+00AD⟩"},
	{"bad\xff\xfebytes", "bad⟨0xff⟩⟨0xfe⟩bytes"},
	{"-->]]><!--", "--&gt;]]&gt;&lt;!--"},
	{`{{.Style}}`, `{{.Style}}`},
	{"größe_文", "größe_文"},
}

func TestHostileNames(t *testing.T) {
	for _, tc := range hostile {
		in := built(t)
		b := in.Result.Package.Manifest.Build
		b.Inputs[0].Name = "x"
		list := refusal.List{{Code: refusal.DataChanged, Where: tc.text, Text: tc.text}}
		page := html(t, Input{
			Name: tc.text, Version: tc.text, Refusals: list, Result: &build.Result{Parts: in.Result.Parts},
			Patches: []Patch{{tc.text, []byte(strings.ReplaceAll(patch1, "ticks", strings.ReplaceAll(tc.text, "\n", " ")))}},
			Record: &manifest.Build{
				Description: tc.text, Version: tc.text, Compiler: tc.text, CVE: []string{tc.text},
				Inputs:   []manifest.Input{{Role: tc.text, Name: tc.text}},
				Units:    []manifest.Unit{{Source: tc.text, Object: tc.text, Flags: []string{tc.text}}},
				Proofs:   []manifest.Proof{{Object: tc.text, Function: tc.text, Masked: []manifest.Masked{{Kind: tc.text, Count: 1}}}},
				Findings: []manifest.Finding{{Code: tc.text, Where: tc.text, Text: tc.text}},
			},
		})
		page = strings.ReplaceAll(styleOrScript.ReplaceAllString(page, ""), "&#43;", "+")
		for _, bad := range []string{"<script>alert", "<img", "\u202e", "\x1b", "\x00", "\u200b", "\u2066", "\ufeff", "\xff"} {
			if strings.Contains(page, bad) {
				t.Errorf("the page of %q has %q", tc.text, bad)
			}
		}
		if n := strings.Count(page, tc.shown); n < 12 {
			t.Errorf("%q is shown as %q in %d places", tc.text, tc.shown, n)
		}
	}
}

// A refused patch has a page too, with the reasons, what to do, and the code.
func TestRefused(t *testing.T) {
	in := inputs(t, "busy.O2.before.o", "busy.O2.after.o")
	in.Targets[0].Name = "except"
	in.Targets[0].File = testkit.ELF(t, filepath.Join(testkit.Root(t), "testdata/binaries/x86_64-gcc/except"))
	r, err := build.Run(in)
	var list refusal.List
	if !errors.As(err, &list) {
		t.Fatal(err)
	}
	page := html(t, Input{Name: "fix", Version: "test", Result: r, Refusals: list, Record: in.Record, Remedy: remedies})
	for _, want := range []string{
		`<p class="verdict bad"><strong>Refused</strong> No package was written: 1 reason against the patch.</p>`,
		`<code class="tag">not-the-running-code</code>`, `<strong>Remedy.</strong>`, `id="f1-name"`, `<td>≠<td>`, "busy_linger",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, no := range []string{`id="manifest"`, `id="sites"`} {
		if strings.Contains(page, no) {
			t.Errorf("the page of a refused patch has %s", no)
		}
	}
}

// Of a package alone the page has the new code.
func TestPackageAlone(t *testing.T) {
	in := built(t)
	page := html(t, Input{Result: &build.Result{Package: in.Result.Package}, File: in.File, Remedy: remedies})
	for _, want := range []string{`<h1>fix <span class="version">1.2</span></h1>`, "<span>new code</span>", "lea (%rsi,%rsi,4),%rdx", `id="sites"`, `id="manifest"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if n := strings.Count(page, `<article class="function"`); n != 3 {
		t.Errorf("%d functions", n)
	}
}
