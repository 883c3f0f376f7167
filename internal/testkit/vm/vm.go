// Package vm boots kernels in QEMU with a first file system of the tests' own, runs
// shell steps there and returns what they printed and what the kernel logged. No
// root, no image of a disk: kernel modules are loaded nowhere else.
package vm

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed init.sh
var initScript []byte

// Config is a machine and what it does.
type Config struct {
	Kernel  *Kernel
	Append  string   // more of the kernel's command line
	Modules []string // modules of the kernel to have in /lib/modules, with those they need
	Files   []File
	Steps   []Step
	Memory  int           // MB; 1024
	CPUs    int           // 2
	Timeout time.Duration // of the whole; two minutes
	Limit   time.Duration // of one step; a minute

	// Init, if set, is the command that becomes process 1 while the steps are run by
	// another one.
	Init string

	// Counted makes time in the machine pass with the instructions that it executes,
	// so that nothing there is late because this machine is busy.
	Counted bool

	// Serve, if set, talks to the machine through its file Port until the machine
	// ends.
	Serve func(io.ReadWriter)
}

// Port is the file by which a machine talks to Config.Serve.
const Port = "/dev/vport0p1"

// File is a file in the machine: Data, or the bytes of the file From.
type File struct {
	Name string // absolute path in the machine
	From string
	Data []byte
	Mode fs.FileMode // 0o755
}

// Step is a script for the shell of busybox. Steps are run in turn, each in a shell
// of its own in /root, whether or not one before failed.
type Step struct {
	Name   string
	Script string
}

// Result is what happened.
type Result struct {
	Console []byte // everything that the machine wrote to its console
	Boot    []Line // kernel messages before the first step
	Steps   []StepResult
	Elapsed time.Duration
}

// StepResult is what a step did. Exit 143 means that it took longer than the limit.
type StepResult struct {
	Name    string
	Output  string
	Exit    int
	Log     []Line // kernel messages while it ran
	Elapsed time.Duration
}

// Line is a message of the kernel.
type Line struct {
	Level int // 0 to 7; 4 is a warning
	Text  string
}

// ErrIncomplete is what Run returns, with the result up to there, if the machine
// ended before its last step: it crashed or took too long.
var ErrIncomplete = errors.New("the machine ended before its last step")

// Run boots the machine and waits for its end.
func Run(ctx context.Context, c Config) (*Result, error) {
	m, err := machineOf(c.Kernel.Arch)
	if err != nil {
		return nil, err
	}
	qemu, err := exec.LookPath(m.qemu)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "livepatch-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	const mark = "@@vm@@"
	files, err := initramfs(&c, mark)
	if err != nil {
		return nil, fmt.Errorf("initial file system: %w", err)
	}
	initrd := filepath.Join(work, "initrd")
	if err := os.WriteFile(initrd, files, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, orDuration(c.Timeout, 2*time.Minute))
	defer cancel()
	// One thread emulates all processors. With one for each, a processor of QEMU 7.2 may
	// still meet the breakpoint of a rewritten instruction when the kernel, which has
	// waited for every processor, no longer expects it: "Oops: int3".
	args := append(m.args, "-accel", "tcg,thread=single", "-m", strconv.Itoa(orInt(c.Memory, 1024)),
		"-smp", strconv.Itoa(orInt(c.CPUs, 2)), "-display", "none", "-monitor", "none", "-serial", "stdio",
		"-no-reboot", "-nodefaults", "-kernel", c.Kernel.Path("vmlinuz"), "-initrd", initrd,
		"-append", "console="+m.console+" quiet loglevel=1 panic=-1 "+m.append+c.Append)
	if c.Counted {
		args = append(args, "-icount", "shift=4,sleep=on")
	}
	if c.Serve != nil {
		port, end, err := listen(filepath.Join(work, "port"), c.Serve)
		if err != nil {
			return nil, err
		}
		defer end()
		args = append(args, port...)
	}
	cmd := exec.CommandContext(ctx, qemu, args...)
	out := &limited{limit: 64 << 20}
	cmd.Stdout, cmd.Stderr = out, out
	start := time.Now()
	if err = cmd.Start(); err == nil {
		if c.Counted {
			defer wake(cmd.Process)()
		}
		err = cmd.Wait()
	}
	r := parse(out.buf.Bytes(), mark, c.Steps)
	out.time(r, mark)
	r.Elapsed = time.Since(start)
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("%w: %w: %s", ErrIncomplete, ctx.Err(), tail(r.Console, 6000))
	case err != nil:
		return r, fmt.Errorf("%s: %w: %s", m.qemu, err, tail(r.Console, 2000))
	case len(r.Steps) != len(c.Steps):
		return r, fmt.Errorf("%w: %s", ErrIncomplete, tail(r.Console, 6000))
	}
	return r, nil
}

// wake keeps a machine going whose time is counted. When all its processors are idle,
// QEMU 7.2 sometimes misses that it has to wait for the next of their timers, and waits
// for ever; whatever wakes its main loop makes it look again, such as SIGIO.
func wake(qemu *os.Process) (end func()) {
	const interval = 5 * time.Second
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if blocksIO(qemu.Pid) {
					_ = qemu.Signal(sigIO) // one that has ended needs none
				}
			}
		}
	}()
	return func() { close(done) }
}

// sigIO is Linux's SIGIO; where there is no /proc, none is sent.
const sigIO = syscall.Signal(29)

// blocksIO reports whether a process blocks SIGIO, as QEMU does from when it reads its
// signals from a descriptor: before that it would end it.
func blocksIO(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(status), "\nSigBlk:\t")
	word, _, _ := strings.Cut(after, "\n")
	mask, err := strconv.ParseUint(word, 16, 64)
	return err == nil && mask>>(sigIO-1)&1 != 0
}

// listen waits at a socket for a machine that is started with the arguments.
func listen(socket string, serve func(io.ReadWriter)) (args []string, end func(), err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return // the machine has not come so far
		}
		defer conn.Close()
		serve(conn)
	}()
	args = []string{"-device", "virtio-serial-pci", "-chardev", "socket,id=port,path=" + socket, "-device", "virtserialport,chardev=port"}
	return args, func() { l.Close() }, nil
}

// A machine is what QEMU needs to know about a kind of kernel.
type machine struct {
	qemu    string
	args    []string
	console string
	append  string
}

func machineOf(arch string) (machine, error) {
	switch arch {
	case "amd64":
		// Emulated on a busy host, the timer may be late when the kernel checks that it ticks.
		return machine{"qemu-system-x86_64", []string{"-cpu", "max"}, "ttyS0", "no_timer_check "}, nil
	case "arm64":
		// The architected algorithm of pointer authentication takes most of the time
		// when it is emulated.
		return machine{"qemu-system-aarch64", []string{"-M", "virt", "-cpu", "max,pauth-impdef=on"}, "ttyAMA0", ""}, nil
	}
	return machine{}, fmt.Errorf("no machine for %q", arch)
}

// initramfs makes the archive that the kernel unpacks.
func initramfs(c *Config, mark string) ([]byte, error) {
	busybox, err := os.ReadFile(c.Kernel.Path("busybox"))
	if err != nil {
		return nil, err
	}
	var a cpio
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "root", "bin", "vm/steps"} {
		a.dir(dir)
	}
	a.char("dev/console", 5, 1)
	a.char("dev/null", 1, 3)
	a.file("bin/busybox", 0o755, busybox)
	a.link("sbin", "bin")
	a.file("init", 0o755, initScript)
	a.file("vm/mark", 0o644, []byte(mark))
	a.file("vm/init", 0o644, []byte(c.Init))
	a.file("vm/limit", 0o644, []byte(strconv.Itoa(int(orDuration(c.Limit, time.Minute).Seconds()))))
	for i, s := range c.Steps {
		a.file(fmt.Sprintf("vm/steps/%03d", i), 0o644, []byte(s.Script))
	}
	if err := addModules(&a, c.Kernel, c.Modules); err != nil {
		return nil, err
	}
	for _, f := range c.Files {
		if f.From != "" {
			if f.Data, err = os.ReadFile(f.From); err != nil {
				return nil, err
			}
		}
		if f.Mode == 0 {
			f.Mode = 0o755
		}
		a.file(filepath.ToSlash(f.Name)[1:], f.Mode, f.Data)
	}
	return a.bytes(), nil
}

// A limited buffer drops what is beyond the limit, and knows when what came.
type limited struct {
	buf   bytes.Buffer
	limit int
	came  []arrival
}

type arrival struct {
	at   int // offset of the first byte
	when time.Time
}

func (l *limited) Write(p []byte) (int, error) {
	l.came = append(l.came, arrival{l.buf.Len(), time.Now()})
	l.buf.Write(p[:min(len(p), max(0, l.limit-l.buf.Len()))])
	return len(p), nil
}

// time fills in how long the steps took.
func (l *limited) time(r *Result, mark string) {
	for i := range r.Steps {
		begin := l.when(fmt.Sprintf("\n%s begin %03d", mark, i))
		r.Steps[i].Elapsed = l.when(fmt.Sprintf("\n%s end %03d", mark, i)).Sub(begin)
	}
}

func (l *limited) when(text string) time.Time {
	at := bytes.Index(l.buf.Bytes(), []byte(text))
	i := sort.Search(len(l.came), func(i int) bool { return l.came[i].at > at })
	return l.came[max(0, i-1)].when
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func orInt(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

func orDuration(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}
