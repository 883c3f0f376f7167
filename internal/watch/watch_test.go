package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/process"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// machine is one that is made up. Its packages are text files: the name of the
// package, a space, the letter that is the build-id of its target.
type machine struct {
	sync.Mutex
	t         *testing.T
	processes map[int]*made
	applying  int            // at this time
	most      int            // that were applied at a time
	applied   map[string]int // "pid package": how often
	tries     map[string]int
	looks     int
	meanwhile func(pid int)                    // called while a package is applied
	refuse    func(pid int, name string) error // nil: none
	slow      time.Duration
	starting  bool // looks find processes ended
}

type made struct {
	life    byte
	images  string // build-ids
	patches []live.Report
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, processes: map[int]*made{}, applied: map[string]int{}, tries: map[string]int{}}
}

// run gives a process a program, a new one each time.
func (m *machine) run(pid int, images string) {
	m.Lock()
	defer m.Unlock()
	life := byte(1)
	if p := m.processes[pid]; p != nil {
		life = p.life + 1
	}
	m.processes[pid] = &made{life: life, images: images}
}

func (m *machine) Processes() (pids []int, err error) {
	m.Lock()
	defer m.Unlock()
	for pid := range m.processes {
		pids = append(pids, pid)
	}
	return pids, nil
}

var errNone = errors.New("no such process")

func (m *machine) Identify(pid int) (l process.Life, err error) {
	m.Lock()
	defer m.Unlock()
	p := m.processes[pid]
	if p == nil {
		return l, errNone
	}
	return process.Life{Started: uint64(p.life)}, nil
}

// Program returns a file for each set of images.
func (m *machine) Program(pid int) (f process.File, err error) {
	m.Lock()
	defer m.Unlock()
	p := m.processes[pid]
	if p == nil {
		return f, errNone
	}
	for _, c := range p.images {
		f.Inode = f.Inode<<8 | uint64(c)
	}
	return f, nil
}

func (m *machine) Look(pid int, look func(*process.Seen)) error {
	life, err := m.Identify(pid)
	if err != nil {
		return err
	}
	program, err := m.Program(pid)
	if err != nil {
		return err
	}
	if m.starting {
		return process.ErrEnded
	}
	m.Lock()
	defer m.Unlock()
	m.looks++
	s := &process.Seen{PID: pid, Life: life, Command: "made", Program: program, Patches: m.processes[pid].patches}
	for _, id := range m.processes[pid].images {
		s.Images = append(s.Images, process.SeenImage{Name: string(id), BuildID: []byte{byte(id)}})
	}
	look(s)
	return nil
}

func (m *machine) Apply(pid int, pkg *pack.Package) (*process.Result, error) {
	name := pkg.Manifest.Name
	key := fmt.Sprintf("%d %s", pid, name)
	m.Lock()
	m.applying++
	m.most = max(m.most, m.applying)
	m.tries[key]++
	m.Unlock()
	time.Sleep(m.slow)
	if m.meanwhile != nil {
		m.meanwhile(pid)
	}
	m.Lock()
	defer m.Unlock()
	m.applying--
	if m.refuse != nil {
		if err := m.refuse(pid, name); err != nil {
			return nil, err
		}
	}
	p := m.processes[pid]
	for i := range p.patches {
		if f := &p.patches[i]; f.Name == name && f.State == "applied" {
			return nil, refusal.New(refusal.AlreadyApplied, "made", "%s is applied", name)
		}
	}
	digest, err := manifest.Digest(pkg.Manifest)
	if err != nil {
		return nil, err
	}
	p.patches = append(p.patches, live.Report{Name: name, Digest: hex.EncodeToString(digest[:]), State: "applied"})
	m.applied[key]++
	return &process.Result{Functions: 1}, nil
}

// base is a package whose manifest those of this machine are made of.
var base = sync.OnceValues(func() (*pack.Package, error) {
	b, err := os.ReadFile("../check/testdata/double.lpatch")
	if err != nil {
		return nil, err
	}
	return pack.Read(b)
})

// parse reads the text of a package.
func parse(path string, b []byte) (*pack.Package, error) {
	name, id, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	if !ok {
		return nil, refusal.New(refusal.SignatureMissing, path, "it is not signed")
	}
	kind := manifest.KindLibrary
	if strings.HasPrefix(name, "program") {
		kind = manifest.KindPIE
	}
	of, err := base()
	if err != nil {
		return nil, err
	}
	m, content := *of.Manifest, sha256.Sum256(b)
	m.Name, m.Targets = name, slices.Clone(m.Targets)
	t := &m.Targets[0]
	t.Kind, t.Name, t.BuildID, t.Payload.SHA256 = kind, id, []byte(id), content[:]
	return &pack.Package{Manifest: &m}, nil
}

// watching is a watcher that runs.
type watching struct {
	t      *testing.T
	dir    string
	cancel func()
	done   chan struct{}
	sync.Mutex
	events []Event
}

func (m *machine) config(dir string, log func(Event)) Config {
	return Config{Dir: dir, Interval: 5 * time.Millisecond, Poll: true, Parse: parse, Machine: m, Log: log}
}

func watchMachine(t *testing.T, m *machine) *watching {
	w := &watching{t: t, dir: t.TempDir(), done: make(chan struct{})}
	w.put("fix.lpatch", "fix A")
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() {
		defer close(w.done)
		_, err := Run(ctx, m.config(w.dir, func(e Event) {
			w.Lock()
			defer w.Unlock()
			w.events = append(w.events, e)
		}))
		if err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(w.stop)
	return w
}

// padded is a text as long as a package: the digest is not of the last bytes.
func padded(text string) []byte { return []byte(text + strings.Repeat(" ", 8192)) }

// put puts a whole package there at once.
func (w *watching) put(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path+".new", padded(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) stop() {
	w.cancel()
	<-w.done
}

// count is the number of events of a kind.
func (w *watching) count(kind Kind) (n int) {
	w.Lock()
	defer w.Unlock()
	for _, e := range w.events {
		if e.Event == kind {
			n++
		}
	}
	return n
}

// until waits for something to become true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (m *machine) times(key string) int {
	m.Lock()
	defer m.Unlock()
	return m.applied[key]
}

func (m *machine) looked() int {
	m.Lock()
	defer m.Unlock()
	return m.looks
}

func TestRunningAndStarting(t *testing.T) {
	m := newMachine(t)
	m.run(1, "AX")
	m.run(2, "B")
	w := watchMachine(t, m)
	until(t, "1 patched", func() bool { return m.times("1 fix") == 1 })
	m.run(3, "A")
	until(t, "3 patched", func() bool { return m.times("3 fix") == 1 })
	m.run(1, "A") // it starts the same program once more
	until(t, "1 patched again", func() bool { return m.times("1 fix") == 2 })
	// A library that is opened later.
	m.run(4, "B")
	looks := m.looked()
	until(t, "4 looked at", func() bool { return m.looked() > looks })
	m.Lock()
	m.processes[4].images = "BA"
	m.Unlock()
	until(t, "4 patched", func() bool { return m.times("4 fix") == 1 })
	w.stop()
	if n := w.count(Applied); n != 4 {
		t.Errorf("%d events", n)
	}
	if m.tries["1 fix"] != 2 || m.tries["4 fix"] != 1 || m.tries["3 fix"] != 1 {
		t.Errorf("tried %v", m.tries)
	}
}

func TestPackagesComeAndGo(t *testing.T) {
	m := newMachine(t)
	m.run(1, "AB")
	w := watchMachine(t, m)
	until(t, "patched", func() bool { return m.times("1 fix") == 1 })
	w.put("more.lpatch", "more B")
	w.put("note.txt", "note A")
	until(t, "more", func() bool { return m.times("1 more") == 1 })
	if err := os.Remove(filepath.Join(w.dir, "fix.lpatch")); err != nil {
		t.Fatal(err)
	}
	until(t, "gone", func() bool { return w.count(Gone) == 1 })
	m.run(2, "AB")
	until(t, "more for 2", func() bool { return m.times("2 more") == 1 })
	w.stop()
	if m.tries["2 fix"] != 0 || m.tries["1 note"] != 0 {
		t.Errorf("tried %v", m.tries)
	}
}

func TestBadPackageIsToldOnce(t *testing.T) {
	m := newMachine(t)
	m.run(1, "A")
	w := watchMachine(t, m)
	w.put("bad.lpatch", "unsigned")
	until(t, "told", func() bool { return w.count(Bad) == 1 })
	looks := m.looked()
	m.run(2, "A")
	until(t, "some looks later", func() bool { return m.looked() > looks+2 })
	if n := w.count(Bad); n != 1 {
		t.Errorf("told %d times", n)
	}
	w.put("bad.lpatch", "good A now") // the target's id has no match
	until(t, "good", func() bool { return w.count(Found) == 2 })
}

func TestRevertedByHand(t *testing.T) {
	m := newMachine(t)
	m.run(1, "A")
	w := watchMachine(t, m)
	until(t, "patched", func() bool { return m.times("1 fix") == 1 })
	w.stop()
	m.processes[1].patches[0].State = "reverted"
	again := &watching{t: t, dir: w.dir}
	failed, err := Run(context.Background(), func() Config {
		c := m.config(w.dir, func(e Event) { again.events = append(again.events, e) })
		c.Once = true
		return c
	}())
	if err != nil || failed != 0 || m.tries["1 fix"] != 1 {
		t.Errorf("%d failed, %v, tried %v", failed, err, m.tries)
	}
}

// A package that is applied while its process starts another program is not
// taken for applied to that.
func TestExecWhileApplied(t *testing.T) {
	m := newMachine(t)
	m.run(1, "A")
	var once sync.Once
	m.meanwhile = func(pid int) {
		once.Do(func() {
			m.run(pid, "A")
			m.Lock()
			m.processes[pid].images = "A"
			m.Unlock()
			time.Sleep(20 * time.Millisecond) // the watcher looks around
		})
	}
	m.refuse = func(int, string) error { return nil }
	watchMachine(t, m)
	until(t, "the second program patched", func() bool {
		m.Lock()
		defer m.Unlock()
		return len(m.processes[1].patches) == 1
	})
}

func TestFailuresBackOff(t *testing.T) {
	m := newMachine(t)
	m.run(1, "A")
	m.refuse = func(int, string) error { return refusal.New(refusal.FunctionClaimed, "made", "other has it") }
	w := watchMachine(t, m)
	until(t, "failed", func() bool { return w.count(Failed) == 1 })
	m.run(2, "B") // life goes on
	time.Sleep(100 * time.Millisecond)
	m.Lock()
	tries := m.tries["1 fix"]
	m.refuse = nil
	m.Unlock()
	if tries != 1 {
		t.Errorf("%d tries within 100 ms", tries)
	}
	until(t, "patched at the second try", func() bool { return m.times("1 fix") == 1 })
	w.stop()
	if e := w.events[slices.IndexFunc(w.events, func(e Event) bool { return e.Event == Failed })]; e.Retry != firstRetry || !slices.Equal(e.Codes, []string{"function-claimed"}) || e.PID != 1 {
		t.Errorf("%+v", e)
	}
}

func TestRetryDelays(t *testing.T) {
	p := &program{}
	p.reset()
	now := time.Now()
	var got []time.Duration
	for range 12 {
		d, _ := p.fail("x", "why", now)
		got = append(got, d/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600}; !slices.Equal(got, want) {
		t.Errorf("retries after %v s, want %v", got, want)
	}
	got = nil
	for looks := range 9 {
		got = append(got, delay(looks+1)/time.Millisecond)
	}
	if want := []time.Duration{10, 40, 160, 640, 2560, 10240, 40960, 60000, 60000}; !slices.Equal(got, want) {
		t.Errorf("looks after %v ms, want %v", got, want)
	}
}

// Once: everything that runs, with as many at a time as there are workers.
func TestOnce(t *testing.T) {
	m := newMachine(t)
	const n = 50
	for pid := range n {
		m.run(pid+1, "A")
	}
	m.slow = 3 * time.Millisecond
	m.refuse = func(pid int, _ string) error {
		if pid == 7 {
			return &process.BusyError{PID: 7, Reason: "is busy"}
		}
		return nil
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fix.lpatch"), padded("fix A"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := m.config(dir, func(Event) {})
	cfg.Once = true
	failed, err := Run(context.Background(), cfg)
	if err != nil || failed != 1 || len(m.applied) != n-1 || m.tries["7 fix"] != 1 {
		t.Errorf("%d failed, %v, %d applied, tried 7 %d times", failed, err, len(m.applied), m.tries["7 fix"])
	}
	if m.most > workers || m.most < 2 {
		t.Errorf("%d at a time", m.most)
	}
	if _, err := Run(context.Background(), Config{Dir: filepath.Join(dir, "nosuch"), Once: true, Machine: m}); err == nil {
		t.Error("no error without a directory")
	}
}

// What is remembered is bounded by the processes that there are.
func TestMemoryIsBounded(t *testing.T) {
	m := newMachine(t)
	w := newWatcher(m.config(t.TempDir(), func(Event) {}))
	for i := range 2000 {
		m.run(i, "B")
		w.notice(signal{kind: started, pid: i})
		delete(m.processes, i-10)
		if i%100 == 0 {
			w.scan(true)
			if n := len(w.ledger.byPID); n > 11 || len(w.ledger.queue) != n {
				t.Fatalf("%d programs and %d in the queue, of 11 processes", n, len(w.ledger.queue))
			}
		}
	}
	if n := len(w.ledger.byPID); n > 200 {
		t.Errorf("%d programs between two scans", n)
	}
}

// A child that was made before its parent was patched is patched too.
func TestForkWhilePatched(t *testing.T) {
	m := newMachine(t)
	m.run(1, "A")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fix.lpatch"), padded("fix A"), 0o644); err != nil {
		t.Fatal(err)
	}
	w := newWatcher(m.config(dir, func(Event) {}))
	if _, err := w.folder.look(true); err != nil {
		t.Fatal(err)
	}
	w.notice(signal{kind: started, pid: 1})
	m.run(2, "A")
	w.notice(signal{kind: forked, pid: 2, parent: 1})
	w.notice(signal{kind: forked, pid: 3, parent: 999}) // of nobody that matters
	w.await()
	if m.times("1 fix") != 1 || m.times("2 fix") != 1 || w.ledger.byPID[3] != nil {
		t.Errorf("applied %v", m.applied)
	}
}

// Of programs that no package is for only the first is looked at, as long as the
// packages are the same.
func TestStrangers(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), padded(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("a.lpatch", "program-a A")
	w := newWatcher(m.config(dir, func(Event) {}))
	news, err := w.folder.look(true)
	if err != nil {
		t.Fatal(err)
	}
	w.tell(news)
	start := func(pid int, images string) {
		m.run(pid, images)
		w.notice(signal{kind: started, pid: pid})
	}
	for pid := range 100 {
		start(pid+1, "BX")
	}
	if m.looks != 1 {
		t.Errorf("%d looks at 100 processes of one program", m.looks)
	}
	start(200, "AX")
	w.await()
	if m.applied["200 program-a"] != 1 {
		t.Errorf("applied %v", m.applied)
	}
	// A package for a library is for any program.
	clear(m.processes)
	put("x.lpatch", "library-x X")
	if news, err = w.folder.look(true); err != nil {
		t.Fatal(err)
	}
	w.tell(news)
	start(201, "BX")
	w.await()
	if m.applied["201 library-x"] != 1 {
		t.Errorf("applied %v", m.applied)
	}
}

// While a process starts another program a look may find it ended. News of a
// program that was seen already are no reason to begin anew.
func TestLookWhileStarting(t *testing.T) {
	m := newMachine(t)
	m.run(1, "A")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fix.lpatch"), padded("fix A"), 0o644); err != nil {
		t.Fatal(err)
	}
	w := newWatcher(m.config(dir, func(Event) {}))
	if _, err := w.folder.look(true); err != nil {
		t.Fatal(err)
	}
	m.starting = true
	w.notice(signal{kind: started, pid: 1})
	if p := w.ledger.byPID[1]; p == nil || p.place < 0 || p.busy {
		t.Fatalf("it is forgotten: %+v", p)
	}
	m.starting = false
	w.lookDue(time.Now().Add(firstDelay))
	w.notice(signal{kind: started, pid: 1})
	w.await()
	if p := w.ledger.byPID[1]; m.tries["1 fix"] != 1 || len(p.done) != 1 {
		t.Errorf("tried %v, %+v", m.tries, p)
	}
}
