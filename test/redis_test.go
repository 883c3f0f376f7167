//go:build linux && amd64

package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/testkit"
	"livepatch/internal/testkit/vm"
)

// redisFiles returns the directory that scripts/redis-objects made.
func redisFiles(t *testing.T) string {
	t.Helper()
	args := []string{"--cached"}
	if os.Getenv("CI") != "" {
		args = nil
	}
	return vm.Script(t, "redis-objects", args...)
}

// startRedis runs Debian's program on a socket of its own and returns its pid.
// The first of the words is the file to run, the others, of which the last is the
// program's name, come before its options.
func startRedis(t *testing.T, socket, file string, words ...string) int {
	t.Helper()
	cmd := exec.Command(file)
	cmd.Args = append(words, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no",
		"--dir", filepath.Dir(socket))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = dieWithTest()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Nobody may wait for the process while it is traced from here: who waits
	// takes the stops that the tracer is waiting for.
	t.Cleanup(func() {
		testkit.End(t, cmd)
		if t.Failed() {
			t.Logf("redis said:\n%s", out.Bytes())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return cmd.Process.Pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("redis does not answer: %v", err)
		}
	}
}

// startBenchmark lets redis-benchmark load the server until stop is called,
// which checks that no reply was an error.
func startBenchmark(t *testing.T, socket string) (stop func()) {
	t.Helper()
	path, err := exec.LookPath("redis-benchmark")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	// It ends at the first error reply; -l goes on until it is ended here.
	cmd := exec.Command(path, "-s", socket, "-t", "ping,set,get,incr,lpush,rpop,hset,mset", "-c", "20", "-P", "4",
		"-n", "20000", "-l", "-q")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = dieWithTest()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
	})
	return func() {
		t.Helper()
		select {
		case err := <-ended:
			t.Errorf("redis-benchmark ended by itself: %v\n%s", err, out.Bytes())
		default:
			cmd.Process.Kill()
			<-ended
			if strings.Contains(strings.ToLower(out.String()), "err") {
				t.Errorf("redis-benchmark saw errors:\n%s", out.Bytes())
			}
		}
	}
}

// dieWithTest ends a child when the test binary ends, by a time-out for example.
func dieWithTest() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// redisPhase is how the running server must behave.
type redisPhase struct {
	factor int64  // what INCR and the like multiply by
	misses int64  // what one miss adds to keyspace_misses
	error  string // of an overflow
}

var (
	redisOld = redisPhase{1, 1, "-ERR increment or decrement would overflow"}
	redisNew = redisPhase{2, 10, "-ERR increment or decrement would overflow twice"}
)

// check sends commands of every kind and compares every reply.
func (p redisPhase) check(c *respClient) error {
	for _, s := range []struct{ command, want string }{
		{"PING", "+PONG"},
		{"SET own 5", "+OK"},
		{"INCR own", fmt.Sprintf(":%d", 5+p.factor)},
		{"DECR own", ":5"},
		{"INCRBY own 100", fmt.Sprintf(":%d", 5+100*p.factor)},
		{"DECRBY own 100", ":5"},
		{"INCRBYFLOAT own 1.5", fmt.Sprintf("$%g", 5+1.5*float64(p.factor))},
		{"SET own 9223372036854775807", "+OK"},
		{"INCR own", p.error},
		{"SET own text", "+OK"},
		{"INCR own", "-ERR value is not an integer or out of range"},
		{"GET own", "$text"},
		{"LPUSH mine a b c", ":3"},
		{"INCR mine", "-WRONGTYPE Operation against a key holding the wrong kind of value"},
		{"LRANGE mine 0 -1", "[$c $b $a]"},
		{"DEL own mine", ":2"},
	} {
		got, err := c.do(strings.Fields(s.command)...)
		if err != nil {
			return fmt.Errorf("%s: %w", s.command, err)
		}
		if got != s.want {
			return fmt.Errorf("%s: %q, want %q", s.command, got, s.want)
		}
	}
	return p.checkMisses(c)
}

// checkMisses checks the helper that counts misses in the global variable
// server. The benchmark misses too, before its first SET; so the key is looked up often.
func (p redisPhase) checkMisses(c *respClient) error {
	before, err := c.stat("keyspace_misses")
	if err != nil {
		return err
	}
	const lookups = 20
	for range lookups {
		if got, err := c.do("GET", "no such key"); err != nil || got != "$nil" {
			return fmt.Errorf("GET of a missing key: %q, %v", got, err)
		}
	}
	after, err := c.stat("keyspace_misses")
	if err != nil {
		return err
	}
	if d := after - before; d != lookups*p.misses {
		return fmt.Errorf("%d misses were counted as %d, want %d (from %d to %d)", lookups, d, lookups*p.misses, before, after)
	}
	return nil
}

// watch increments a key without a pause and checks that each step is one that the
// server may take at that time.
type watch struct {
	allowed atomic.Int64 // 1, 2, or 0 for both
	steps   [3]atomic.Int64
	stop    atomic.Bool
	done    chan error
}

func startWatch(c *respClient) *watch {
	w := &watch{done: make(chan error, 1)}
	w.allowed.Store(1)
	go func() { w.done <- w.run(c) }()
	return w
}

func (w *watch) run(c *respClient) error {
	var last int64
	for !w.stop.Load() {
		before := w.allowed.Load()
		n, err := c.integer("INCR", "watched")
		if err != nil {
			return err
		}
		step := n - last
		last = n
		if step != 1 && step != 2 {
			return fmt.Errorf("INCR stepped by %d to %d", step, n)
		}
		w.steps[step].Add(1)
		// What was allowed all the time is what must have happened.
		if after := w.allowed.Load(); before == after && before != 0 && step != before {
			return fmt.Errorf("INCR stepped by %d to %d while only %d was right", step, n, before)
		}
	}
	return nil
}

func (w *watch) finish() error {
	w.stop.Store(true)
	return <-w.done
}

// Debian's redis, as packaged: a command's implementation and a helper that uses the
// global variable server are replaced, replaced by another patch, and put back,
// many times under load. Every reply is looked at; while one patch takes the
// place of the other none may be that of the original.
func TestRedisUnderLoad(t *testing.T) {
	dir := redisFiles(t)
	rounds := soak(t)
	program := filepath.Join(dir, "program")
	pkg := createPackage(t, "redis-fix", program, objectPair(dir, "t_string"), objectPair(dir, "db"))
	next := renamed(pkg, "redis-fix-2")
	if n := len(pkg.Manifest.Targets[0].Functions); n != 3 {
		t.Fatalf("the package replaces %d functions, want incrDecrCommand, incrbyfloatCommand, lookupKey", n)
	}

	socket := filepath.Join(t.TempDir(), "redis.sock")
	pid := startRedis(t, socket, program, "redis-server")
	stopBenchmark := startBenchmark(t, socket)
	c := dialRedis(t, socket)
	awaitHits(t, c)
	w := startWatch(dialRedis(t, socket))
	if err := redisOld.check(c); err != nil {
		t.Fatalf("before: %v", err)
	}
	pages := executablePages(t, pid)
	var pauses []time.Duration
	memory := uint64(0)
	for i := range rounds {
		w.allowed.Store(0)
		res, err := process.Apply([]int{pid}, pkg, process.Options{})
		if err != nil {
			t.Fatalf("round %d: apply: %v (%s)", i, err, process.StateOf(err))
		}
		w.allowed.Store(2)
		pauses = append(pauses, res.Pause.Total)
		if err := redisNew.check(c); err != nil {
			t.Fatalf("round %d: while patched: %v", i, err)
		}
		if executablePages(t, pid)[program] == pages[program] {
			t.Fatalf("round %d: the code is as before while patched", i)
		}
		res, err = process.Retarget([]int{pid}, next, process.Options{})
		if err != nil {
			t.Fatalf("round %d: retarget: %v (%s)", i, err, process.StateOf(err))
		}
		pauses = append(pauses, res.Pause.Total)
		if err := redisNew.check(c); err != nil {
			t.Fatalf("round %d: retargeted: %v", i, err)
		}
		w.allowed.Store(0)
		res, err = process.Revert(pid, "redis-fix-2", process.Options{})
		if err != nil {
			t.Fatalf("round %d: revert: %v (%s)", i, err, process.StateOf(err))
		}
		w.allowed.Store(1)
		pauses = append(pauses, res.Pause.Total)
		if err := redisOld.check(c); err != nil {
			t.Fatalf("round %d: reverted: %v", i, err)
		}
		comparePages(t, pages, executablePages(t, pid))
		if i == 0 {
			memory = patchMemory(t, pid)
		}
	}
	if now := patchMemory(t, pid); now != memory {
		t.Errorf("the patches hold %d bytes, %d after the first round", now, memory)
	}
	if err := w.finish(); err != nil {
		t.Error(err)
	}
	stopBenchmark()
	slices.Sort(pauses)
	t.Logf("%d rounds; pauses: median %v, longest %v; %d old and %d new steps watched",
		rounds, pauses[len(pauses)/2], pauses[len(pauses)-1], w.steps[1].Load(), w.steps[2].Load())
}

// awaitHits waits until the benchmark has set the key that it gets: from then on
// no lookup of it misses.
func awaitHits(t *testing.T, c *respClient) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n, err := c.integer("EXISTS", "key:__rand_int__")
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("redis-benchmark does not set its keys")
		}
	}
}

// Debian's redis, from the source patch: a fix of redis 7.2.8, by which RANDOMKEY
// ends when clients are paused and all keys have expired; and one that was proposed
// for redis (its pull request 10600), by which what FLUSHDB leaves to a thread
// counts the expiry times too. The counts are static variables.
func TestRedisFromSourcePatch(t *testing.T) {
	dir := programFiles(t, "redis")
	program := filepath.Join(dir, "program")
	pkg := buildPackage(t, "programs/redis.patch", filepath.Join(dir, "source"), dir, program)
	for _, name := range []string{"server", "lazyfree_objects", "lazyfreed_objects"} {
		if !shares(pkg, name) {
			t.Errorf("the package does not use the variable %s", name)
		}
	}
	socket := filepath.Join(t.TempDir(), "redis.sock")
	pid := startRedis(t, socket, program, "redis-server")
	stopBenchmark := startBenchmark(t, socket)
	c := dialRedis(t, socket)
	awaitHits(t, c)
	do := func(want string, words ...string) {
		t.Helper()
		if got, err := c.do(words...); err != nil || got != want {
			t.Fatalf("%s: %q, %v; want %q", strings.Join(words, " "), got, err, want)
		}
	}
	do("+OK", "SELECT", "5")
	// flush empties the database of three keys, two of which expire, and looks at
	// how many objects the thread says that it freed.
	flush := func(want int64) {
		t.Helper()
		do("+OK", "FLUSHDB", "SYNC")
		do("+OK", "SET", "lasting", "1")
		do("+OK", "SET", "first", "1", "EX", "1000")
		do("+OK", "SET", "second", "1", "EX", "1000")
		before := counts(t, c)
		do("+OK", "FLUSHDB", "ASYNC")
		if freed := counts(t, c) - before; freed != want {
			t.Fatalf("FLUSHDB freed %d objects, want %d", freed, want)
		}
	}
	flush(3)
	pages := executablePages(t, pid)
	for i := range 3 {
		do("$nil", "RANDOMKEY")
		if _, err := process.Apply([]int{pid}, pkg, process.Options{}); err != nil {
			t.Fatalf("round %d: apply: %v (%s)", i, err, process.StateOf(err))
		}
		// Without the fix the last of these never ends.
		do("+OK", "SET", "short", "lived", "PX", "50")
		do("+OK", "CLIENT", "PAUSE", "10000", "WRITE")
		time.Sleep(100 * time.Millisecond)
		do("$short", "RANDOMKEY")
		do("+OK", "CLIENT", "UNPAUSE")
		flush(5)
		if _, err := process.Revert(pid, pkg.Manifest.Name, process.Options{}); err != nil {
			t.Fatalf("round %d: revert: %v (%s)", i, err, process.StateOf(err))
		}
		comparePages(t, pages, executablePages(t, pid))
		do("$nil", "GET", "short")
		flush(3)
	}
	stopBenchmark()

	// What it was like before, in the same process, which does not survive it.
	do("+OK", "SET", "short", "lived", "PX", "50")
	do("+OK", "CLIENT", "PAUSE", "60000", "WRITE")
	time.Sleep(100 * time.Millisecond)
	ended := make(chan string, 1)
	go func() {
		got, err := c.do("RANDOMKEY")
		ended <- fmt.Sprint(got, err)
	}()
	select {
	case got := <-ended:
		t.Errorf("reverted, RANDOMKEY still ends: %s", got)
	case <-time.After(2 * time.Second):
	}
}

// counts waits until nothing is left to be freed, and returns how many objects were.
func counts(t *testing.T, c *respClient) int64 {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		pending, err := c.stat("lazyfree_pending_objects")
		if err != nil {
			t.Fatal(err)
		}
		if pending == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d objects are left to be freed", pending)
		}
	}
	freed, err := c.stat("lazyfreed_objects")
	if err != nil {
		t.Fatal(err)
	}
	return freed
}

// Debian's redis is patched before it answers its first command.
func TestRedisStartedPatched(t *testing.T) {
	dir := redisFiles(t)
	program := filepath.Join(dir, "program")
	pkg := createPackage(t, "redis-fix", program, objectPair(dir, "t_string"), objectPair(dir, "db"))
	b, err := pack.Write(pkg)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "fix.lpatch")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	livepatch, err := livepatchOnce()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "redis.sock")
	pid := startRedis(t, socket, livepatch, "livepatch", "run", file, "--", program)
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || exe != program {
		t.Errorf("process %d runs %s, %v", pid, exe, err)
	}
	if err := redisNew.check(dialRedis(t, socket)); err != nil {
		t.Errorf("started patched: %v", err)
	}
	if _, err := process.Revert(pid, "redis-fix", process.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := redisOld.check(dialRedis(t, socket)); err != nil {
		t.Errorf("reverted: %v", err)
	}
}
