//go:build linux && amd64

package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"livepatch/internal/process"
)

// nginxBody is what the server behind nginx sends, with a Content-Range of its
// own, as some servers do.
const nginxBody = "0123456789abcdefghijklmnopqrstuvwxyz"

const nginxConfig = `daemon off;
worker_processes 2;
error_log stderr;
pid %[1]s/pid;
%[4]s
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen unix:%[2]s;
		location / { proxy_pass %[3]s; proxy_force_ranges on; }
	}
}
`

// startNginx runs Debian's program before a server and returns its workers.
func startNginx(t *testing.T, program, socket, upstream string) []int {
	t.Helper()
	dir := t.TempDir()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the directory is ours
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, socket, upstream, user), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", config, "-e", "stderr")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = dieWithTest()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The master takes its workers along.
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if t.Failed() {
			t.Logf("nginx said:\n%s", out.Bytes())
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		var workers []int
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			workers = append(workers, pid)
		}
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			if len(workers) == 2 {
				return workers
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("nginx does not answer: %v, workers %v", err, workers)
		}
	}
}

// nginxLoad asks nginx all the time and checks every reply.
type nginxLoad struct {
	client  *http.Client
	allowed atomic.Int64 // how many Content-Range headers are right: 2, 1, or 0 for both
	seen    [3]atomic.Int64
	stop    atomic.Bool
	wait    sync.WaitGroup
	errors  chan error
}

func startNginxLoad(socket string, clients int) *nginxLoad {
	l := &nginxLoad{errors: make(chan error, clients)}
	l.client = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: clients,
		Dial:                func(string, string) (net.Conn, error) { return net.Dial("unix", socket) },
	}}
	l.allowed.Store(2)
	for i := range clients {
		l.wait.Add(1)
		go func() {
			defer l.wait.Done()
			for n := i; !l.stop.Load(); n++ {
				if err := l.ask(n % len(nginxAsked)); err != nil {
					l.errors <- err
					return
				}
			}
		}()
	}
	return l
}

// nginxAsked are ranges, and what has to come back.
var nginxAsked = []struct {
	ask    string
	status int
	ranges string // of nginx
	body   string
}{
	{"", 200, "", nginxBody},
	{"bytes=2-5", 206, "bytes 2-5/36", nginxBody[2:6]},
	{"bytes=-3", 206, "bytes 33-35/36", nginxBody[33:]},
	{"bytes=100-", 416, "bytes */36", ""},
}

func (l *nginxLoad) ask(n int) error {
	a := nginxAsked[n]
	req, err := http.NewRequest("GET", "http://nginx/file", nil)
	if err != nil {
		return err
	}
	if a.ask != "" {
		req.Header.Set("Range", a.ask)
	}
	before := l.allowed.Load()
	res, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	ranges := res.Header.Values("Content-Range")
	if res.StatusCode != a.status || a.status != 416 && string(body) != a.body {
		return fmt.Errorf("%q: status %d, body %q", a.ask, res.StatusCode, body)
	}
	if a.ask == "" {
		if len(ranges) != 1 || ranges[0] != "bytes 0-35/36" {
			return fmt.Errorf("without a range: Content-Range %q", ranges)
		}
		return nil
	}
	if len(ranges) < 1 || len(ranges) > 2 || ranges[len(ranges)-1] != a.ranges {
		return fmt.Errorf("%q: Content-Range %q", a.ask, ranges)
	}
	l.seen[len(ranges)].Add(1)
	if after := l.allowed.Load(); before == after && before != 0 && int64(len(ranges)) != before {
		return fmt.Errorf("%q: Content-Range %q while %d was right", a.ask, ranges, before)
	}
	return nil
}

// settle lets every kind of request be answered while so many headers are right.
func (l *nginxLoad) settle(t *testing.T, headers int64) {
	t.Helper()
	l.allowed.Store(headers)
	for n := range nginxAsked {
		if err := l.ask(n); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *nginxLoad) finish() error {
	l.stop.Store(true)
	l.wait.Wait()
	close(l.errors)
	var all []error
	for err := range l.errors {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// Debian's nginx, as packaged, from the source patch to its running workers: a fix
// of nginx 1.23.1, by which a reply to a range has one Content-Range. The
// replacement goes on with the chain of filters, which is in a static variable.
func TestNginxFromSourcePatch(t *testing.T) {
	dir := programFiles(t, "nginx")
	program := filepath.Join(dir, "program")
	pkg := buildPackage(t, "programs/nginx.patch", filepath.Join(dir, "build"), dir, program)
	if !shares(pkg, "ngx_http_next_header_filter") {
		t.Error("the package does not use the static variable ngx_http_next_header_filter")
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-35/36")
		w.Header().Set("Content-Length", "36")
		io.WriteString(w, nginxBody)
	}))
	defer upstream.Close()
	socket := filepath.Join(t.TempDir(), "nginx.sock")
	workers := startNginx(t, program, socket, upstream.URL)
	load := startNginxLoad(socket, 8)
	rounds := soak(t)
	if rounds < 1000 {
		rounds /= 3
	}
	next := renamed(pkg, "nginx-2")
	memory := uint64(0)
	load.settle(t, 2)
	pages := executablePages(t, workers[0])
	for i := range rounds {
		load.allowed.Store(0)
		if _, err := process.Apply(workers, pkg, process.Options{}); err != nil {
			t.Fatalf("round %d: apply: %v (%s)", i, err, process.StateOf(err))
		}
		load.settle(t, 1)
		if _, err := process.Retarget(workers, next, process.Options{}); err != nil { // no other reply is allowed
			t.Fatalf("round %d: retarget: %v (%s)", i, err, process.StateOf(err))
		}
		load.settle(t, 1)
		load.allowed.Store(0)
		for _, pid := range workers {
			if _, err := process.Revert(pid, "nginx-2", process.Options{}); err != nil {
				t.Fatalf("round %d: revert: %v (%s)", i, err, process.StateOf(err))
			}
		}
		load.settle(t, 2)
		comparePages(t, pages, executablePages(t, workers[0]))
		if i == 0 {
			memory = patchMemory(t, workers[0])
		}
	}
	if now := patchMemory(t, workers[0]); now != memory {
		t.Errorf("the patches hold %d bytes, %d after the first round", now, memory)
	}
	if err := load.finish(); err != nil {
		t.Error(err)
	}
	t.Logf("%d rounds; %d replies of the old kind, %d of the new", rounds, load.seen[2].Load(), load.seen[1].Load())
}
