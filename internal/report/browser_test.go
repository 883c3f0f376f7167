package report

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/internal/refusal"
)

// pageFile is the page of a package in a file; it says that it was refused too.
func pageFile(t *testing.T) string {
	t.Helper()
	in := built(t)
	in.Refusals = refusal.List{{Code: refusal.DataChanged, Where: "counter.O2.before.o: ticks", Text: "initial value changed"}}
	in.Result.Package.Manifest.Build.Description = hostile[0].text + hostile[1].text
	path := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(path, []byte(html(t, in)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBrowser(t *testing.T) {
	b := startBrowser(t)
	page := pageFile(t)
	b.open(page)
	t.Run("loads nothing", func(t *testing.T) { b.loadsNothing(t, page) })
	t.Run("structure", func(t *testing.T) { b.structure(t) })
	t.Run("tab order", func(t *testing.T) { b.tabOrder(t) })
	b.open(page) // Tab begins at the top again
	t.Run("keyboard", func(t *testing.T) { b.keyboard(t) })
	t.Run("colours", func(t *testing.T) { b.contrast(t) })
	t.Run("narrow", func(t *testing.T) { b.narrow(t) })
	t.Run("no errors", func(t *testing.T) {
		for _, line := range b.log("browser") {
			t.Errorf("the browser says: %s", line)
		}
	})
}

// loadsNothing looks through everything that the browser did on the network.
func (b *browser) loadsNothing(t *testing.T, page string) {
	requests := 0
	for _, entry := range b.log("performance") {
		if !strings.Contains(entry, `"Network.requestWillBeSent"`) || strings.Contains(entry, `"documentURL":"chrome://`) {
			continue // the second: of the page that the browser starts with
		}
		requests++
		if !strings.Contains(entry, `"url":"file://`+page+`"`) {
			t.Errorf("a request: %.400s", entry)
		}
	}
	if requests != 1 {
		t.Errorf("%d requests, not only that of the page", requests)
	}
	if n := b.text(`performance.getEntriesByType('resource').length`); n != "0" {
		t.Errorf("%s resources", n)
	}
}

func (b *browser) structure(t *testing.T) {
	for what, want := range map[string]string{
		`document.title`: "fix: Refused · livepatch review",
		`[...document.querySelectorAll('main > section')].map(s => s.id).join(' ')`:                      "refusals source changes functions findings proof sites variables imports inputs package manifest",
		`[...document.querySelectorAll('main > section')].every(s => s.querySelector('h2').textContent)`: "true",
		`document.querySelectorAll('header, nav, main, footer').length`:                                  "4",
		`document.querySelectorAll('h1').length`:                                                         "1",
		`document.querySelectorAll('article.function').length`:                                           "3",
		`[...document.querySelectorAll('article.function .code tr')].every(r => r.cells.length == 5)`:    "true",
		// Before and after stand beside each other.
		`[...document.querySelectorAll('article.function')].every(f => { const r = f.querySelector('tr.c').cells, a = r[1].getBoundingClientRect(), b = r[4].getBoundingClientRect(); return a.top == b.top && a.right < b.left && a.width > 300 })`: "true",
		`document.querySelector('tr.c td:nth-child(5) b').textContent`:               "lea (%rsi,%rsi,4),%rdx",
		`document.querySelectorAll('img, iframe, link, object, embed, form').length`: "0",
		`document.querySelector('.lead').textContent`:                                hostile[0].text + hostile[1].text,
		`document.documentElement.scrollWidth <= innerWidth`:                         "true",
		`document.getElementById('tools').hidden`:                                    "false", // the script ran: its digest is that of the policy
	} {
		if got := b.text(what); got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
}

// stopScript is one stop of the keyboard: where it is among all that can be used, whether
// it is after the one before it, and whether who tabs there sees it.
const stopScript = `
const e = document.activeElement, was = window.was, r = e.getBoundingClientRect(), s = getComputedStyle(e);
window.was = e;
return {
	what: e.tagName + ' ' + e.textContent.trim().slice(0, 40), n: window.stops.indexOf(e),
	after: !was || !!(was.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING),
	seen: r.width > 0 && r.bottom > 0 && r.top < innerHeight && r.right > 0 && s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0,
}`

// tabOrder goes through the whole page with Tab, and back: by everything that can be
// used, in the order in which it is read, with the focus in sight.
func (b *browser) tabOrder(t *testing.T) {
	total := 0
	b.eval(`window.was = null; window.stops = [...document.querySelectorAll('a[href], button, input, summary')].filter(e => e.checkVisibility() && !e.disabled); return stops.length`, &total)
	if total < 30 {
		t.Fatalf("only %d stops", total)
	}
	var stop struct {
		What        string
		N           int
		After, Seen bool
	}
	for want := 0; want < total; {
		b.key(tabKey)
		b.eval(stopScript, &stop)
		if !stop.After || !stop.Seen || stop.N >= 0 && stop.N != want {
			t.Fatalf("stop %d of %d: %+v", want, total, stop)
		}
		if stop.N >= 0 { // others are areas to be scrolled
			want++
		}
	}
	b.key(shiftKey, tabKey)
	b.eval(stopScript, &stop)
	if stop.After || stop.N > total-2 {
		t.Errorf("Shift-Tab at the end leads to %+v", stop)
	}
	if n := b.text(`document.querySelectorAll('[tabindex]:not([tabindex="0"]):not([tabindex="-1"])').length`); n != "0" {
		t.Errorf("%s elements have an order of their own", n)
	}
}

// keyboard uses the page without a pointer.
func (b *browser) keyboard(t *testing.T) {
	focus := func() string {
		return b.text(`(e => e.tagName + ' ' + e.textContent.trim().slice(0, 40))(document.activeElement)`)
	}
	b.eval(`document.activeElement.blur(); window.scrollTo(0, 0)`, nil)
	b.key(tabKey)
	if got := focus(); got != "A Skip to the review" {
		t.Errorf("the first stop is %q", got)
	}
	if left := b.text(`document.activeElement.getBoundingClientRect().left >= 0 && getComputedStyle(document.activeElement).outlineStyle`); left != "solid" {
		t.Errorf("the focused link is not to be seen: %s", left)
	}
	b.key(enterKey)
	if got := b.text(`document.activeElement.id`); got != "main" {
		t.Errorf("the link leads to %q", got)
	}
	seen := map[string]bool{}
	for range 60 {
		b.key(tabKey)
		seen[focus()] = true
	}
	for _, want := range []string{"SUMMARY 6 unchanged instructions, from +0x0", "SUMMARY What this means, and what to do", "A counter_tick"} {
		if !seen[want] {
			t.Errorf("Tab does not come by %q, but by %v", want, seen)
		}
	}
	fold := func() string { return b.text(`document.querySelector('details.fold').open`) }
	b.eval(`document.querySelector('details.fold summary').focus()`, nil)
	for _, want := range []string{"true", "false"} {
		b.key(enterKey)
		if got := fold(); got != want {
			t.Errorf("open is %s after Enter, want %s", got, want)
		}
	}
	b.key("o")
	if fold() != "true" {
		t.Error("o does not unfold")
	}
	b.key("f")
	if fold() != "false" {
		t.Error("f does not fold")
	}
	hunks := b.text(`document.querySelectorAll('tr.h').length`)
	for i := 1; i <= 2; i++ {
		b.key("n")
		if got, want := b.text(`document.getElementById('where').textContent`), fmt.Sprintf("Difference %d of %s", i, hunks); got != want {
			t.Errorf("n: %q, want %q", got, want)
		}
		if got := b.text(`document.activeElement.matches('tr.h') && (r => r.top >= 0 && r.bottom <= innerHeight)(document.activeElement.getBoundingClientRect())`); got != "true" {
			t.Error("the difference is not in sight")
		}
	}
	b.key("]")
	if got := b.text(`document.activeElement.id`); got != "f3-name" {
		t.Errorf("the function after that of the second difference is %s", got)
	}
	b.eval(`document.getElementById('keys').click()`, nil)
	b.key("o")
	if fold() != "false" {
		t.Error("o unfolds although single keys are off")
	}
}

// contrastScript returns the texts whose colours are too alike: WCAG 2.1, 1.4.3.
const contrastScript = `
function parse(c) { const m = c.match(/[\d.]+/g).map(Number); return m.length > 3 ? m : m.concat(1) }
function lum(c) {
	const l = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4) });
	return .2126 * l[0] + .7152 * l[1] + .0722 * l[2];
}
function behind(e) { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c } return [255, 255, 255, 1] }
const bad = {}; let checked = 0;
document.querySelectorAll('details').forEach(d => { d.open = true });
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let n; n = walk.nextNode();) {
	const e = n.parentElement;
	if (!n.data.trim() || /^(SCRIPT|STYLE)$/.test(e.tagName)) continue;
	const a = lum(parse(getComputedStyle(e).color)), b = lum(behind(e));
	const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
	checked++;
	if (ratio < 4.5) bad[e.tagName + '.' + e.className + ' in ' + e.parentElement.className + ': ' + ratio.toFixed(2)] = n.data.slice(0, 30);
}
return {bad, checked, paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color};`

func (b *browser) contrast(t *testing.T) {
	var seen [2]struct {
		Bad        map[string]string
		Checked    int
		Paper, Ink string
	}
	for i, scheme := range []string{"light", "dark"} {
		b.colours(scheme)
		b.eval(contrastScript, &seen[i])
		if seen[i].Checked < 200 {
			t.Errorf("only %d texts", seen[i].Checked)
		}
		for what, text := range seen[i].Bad {
			t.Errorf("%s: %s (%q)", scheme, what, text)
		}
	}
	if seen[0].Paper == seen[1].Paper || seen[0].Ink == seen[1].Ink {
		t.Errorf("light and dark are the same: %+v", seen)
	}
}

// narrow: on a telephone nothing has to be scrolled sideways but tables.
func (b *browser) narrow(t *testing.T) {
	shots := map[string][]byte{}
	for _, scheme := range []string{"light", "dark"} {
		b.colours(scheme)
		for _, width := range []int{390, 1440} {
			b.size(width, 900)
			if got := b.text(`document.documentElement.scrollWidth <= innerWidth`); got != "true" {
				t.Errorf("at %d pixels the page is %s wide", width, b.text(`document.documentElement.scrollWidth`))
			}
			name := fmt.Sprintf("%s-%d", scheme, width)
			shots[name] = b.screenshot()
			img, err := png.Decode(bytes.NewReader(shots[name]))
			if err != nil || img.Bounds().Dx() != width {
				t.Errorf("the screenshot %s: %v, %v", name, err, img.Bounds())
			}
			if dir := os.Getenv("LIVEPATCH_SCREENSHOTS"); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, name+".png"), shots[name], 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if bytes.Equal(shots["light-390"], shots["dark-390"]) {
		t.Error("the screenshots of light and dark are equal")
	}
	b.size(390, 900)
	if got := b.text(`(r => { const a = r[1].getBoundingClientRect(), b = r[4].getBoundingClientRect(); return a.bottom <= b.top && a.left == b.left })(document.querySelector('tr.c').cells)`); got != "true" {
		t.Error("at 390 pixels before does not stand above after")
	}
}
