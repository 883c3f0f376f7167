package report

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"livepatch/internal/testkit"
)

// browser is a headless Chromium, driven by the W3C WebDriver protocol.
type browser struct {
	t       testing.TB
	base    string // of the session
	session string
}

// startBrowser starts Chromium; it ends with the test.
func startBrowser(t testing.TB) *browser {
	t.Helper()
	driver, chromium := testkit.Tool(t, "chromedriver"), testkit.Tool(t, "chromium")
	cmd := exec.Command(driver, "--port=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	port := make(chan string, 1)
	go func() {
		// "ChromeDriver was started successfully on port 41234."
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, rest, ok := strings.Cut(lines.Text(), "successfully on port "); ok {
				port <- strings.TrimRight(rest, ".")
			}
		}
	}()
	b := &browser{t: t}
	select {
	case p := <-port:
		b.base = "http://127.0.0.1:" + p
	case <-time.After(2 * time.Minute):
		t.Fatal("chromedriver does not say its port")
	}
	var made struct {
		SessionID string `json:"sessionId"`
	}
	b.call("POST", "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:chromeOptions": map[string]any{"binary": chromium, "args": []string{
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir(), "--window-size=1440,1000"}},
		"goog:loggingPrefs": map[string]string{"browser": "ALL", "performance": "ALL"},
	}}}, &made)
	b.session = "/session/" + made.SessionID
	t.Cleanup(func() { b.call("DELETE", b.session, nil, nil) })
	return b
}

// call sends one command; anything but success ends the test.
func (b *browser) call(method, path string, body, result any) {
	b.t.Helper()
	var send io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		send = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, b.base+path, send)
	if err != nil {
		b.t.Fatal(err)
	}
	client := http.Client{Timeout: 3 * time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %v %s %.2000s", path, err, resp.Status, text)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(text, &struct{ Value any }{result}); err != nil {
		b.t.Fatalf("%s: %v: %.500s", path, err, text)
	}
}

func (b *browser) open(file string) {
	b.t.Helper()
	b.call("POST", b.session+"/url", map[string]string{"url": "file://" + file}, nil)
}

// eval runs the body of a function in the page and stores what it returns.
func (b *browser) eval(script string, result any) {
	b.t.Helper()
	b.call("POST", b.session+"/execute/sync", map[string]any{"script": script, "args": []any{}}, result)
}

func (b *browser) text(script string) string {
	b.t.Helper()
	var v any
	b.eval("return "+script, &v)
	return fmt.Sprint(v)
}

// key presses keys, one while those before it are held, and releases them.
func (b *browser) key(names ...string) {
	b.t.Helper()
	var acts []any
	for _, n := range names {
		acts = append(acts, map[string]string{"type": "keyDown", "value": n})
	}
	for _, n := range slices.Backward(names) {
		acts = append(acts, map[string]string{"type": "keyUp", "value": n})
	}
	b.call("POST", b.session+"/actions", map[string]any{"actions": []any{map[string]any{"type": "key", "id": "keyboard", "actions": acts}}}, nil)
}

// Keys by their code points in WebDriver.
const (
	tabKey   = "\ue004"
	enterKey = "\ue007"
	shiftKey = "\ue008"
)

// devtools sends a command of the Chrome DevTools protocol.
func (b *browser) devtools(cmd string, params map[string]any) {
	b.t.Helper()
	b.call("POST", b.session+"/goog/cdp/execute", map[string]any{"cmd": cmd, "params": params}, nil)
}

func (b *browser) colours(scheme string) {
	b.t.Helper()
	b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}})
}

func (b *browser) size(width, height int) {
	b.t.Helper()
	b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
}

// log returns the entries of a log since it was last read.
func (b *browser) log(kind string) (out []string) {
	b.t.Helper()
	var entries []struct{ Message string }
	b.call("POST", b.session+"/se/log", map[string]string{"type": kind}, &entries)
	for _, e := range entries {
		out = append(out, e.Message)
	}
	return out
}

func (b *browser) screenshot() []byte {
	b.t.Helper()
	var text string
	b.call("GET", b.session+"/screenshot", nil, &text)
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}
