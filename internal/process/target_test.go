//go:build linux && (amd64 || arm64)

package process

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/build"
	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/internal/resolve"
	"livepatch/internal/testkit"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// compile builds a program or object from testdata; args are gcc's, the last is
// the name of the source.
func compile(t testing.TB, out string, args ...string) string {
	t.Helper()
	compiler := "gcc"
	if strings.HasSuffix(args[len(args)-1], ".cc") {
		compiler = "g++"
	}
	if _, err := exec.LookPath(compiler); err != nil && os.Getenv("LIVEPATCH_COMPILER") == "" {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed: %v", compiler, err)
		}
		t.Skipf("%s is needed to build the target: %v", compiler, err)
	}
	if port := os.Getenv("LIVEPATCH_COMPILER"); port != "" {
		return compiledOutside(t, port, out, args)
	}
	path := filepath.Join(t.TempDir(), out)
	for i, a := range args {
		if e := filepath.Ext(a); !filepath.IsAbs(a) && (e == ".c" || e == ".cc" || e == ".s") {
			args[i] = filepath.Join("testdata", a)
		}
	}
	cmd := exec.Command(compiler, append([]string{"-O2", "-g0", "-o", path}, args...)...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, b)
	}
	return path
}

// replaced pairs a function of the target with its replacement. The jump is
// near unless told otherwise, and leads to the replacement unless there is a
// veneer.
type replaced struct {
	old, new string
	strategy trampoline.Strategy
	veneer   string
}

// handMade builds a package without the builder: the payload is a compiled
// object as it is, its undefined symbols are looked up in the target's .symtab,
// or left to the dynamic linker's tables.
func handMade(t testing.TB, name, target, payload string, functions ...replaced) *pack.Package {
	t.Helper()
	image, object := readFile(t, target), readFile(t, payload)
	file, err := elfpatch.Parse(image)
	must(t, err)
	obj, err := elfpatch.Parse(object)
	must(t, err)
	id, err := file.BuildID()
	must(t, err)
	sum := sha256.Sum256(object)
	m := manifest.Target{
		Kind: manifest.KindPIE, Machine: manifestMachine, BuildID: id, Name: filepath.Base(target),
		Payload: manifest.Payload{Member: "payload/0.o", Size: int64(len(object)), SHA256: sum[:]},
	}
	if file.Type == elf.ET_EXEC {
		m.Kind = manifest.KindExecutable
	} else if strings.HasSuffix(target, ".so") {
		m.Kind = manifest.KindLibrary
	}
	if len(id) == 0 {
		m.SHA256 = check.ReadOnlyDigest(file)
	}
	symbol := func(f *elfpatch.File, name string) *elfpatch.Symbol {
		for i := range f.Symbols {
			if s := &f.Symbols[i]; s.Name == name && s.Section != elfpatch.Undefined {
				return s
			}
		}
		return nil
	}
	for i, r := range functions {
		old, repl := symbol(file, r.old), symbol(obj, r.new)
		if old == nil || repl == nil {
			t.Fatalf("no %s or no %s", r.old, r.new)
		}
		body, ok := file.ReadAddr(old.Value, int(old.Size))
		if !ok {
			t.Fatalf("no bytes of %s", r.old)
		}
		sum := sha256.Sum256(body)
		strategy := cmp.Or(r.strategy, trampoline.Near)
		plan, err := trampoline.Make(machine, trampoline.Site{Addr: old.Value, Expected: body, Room: len(body)}, strategy)
		must(t, err)
		m.Functions = append(m.Functions, manifest.Function{
			Name: r.old, Object: "before.o", Address: old.Value, Size: old.Size, Strategy: string(strategy),
			Replacement: r.new, NewSize: repl.Size, SHA256: sum[:], Proof: "symbol",
			Site: manifest.Site{Kind: "prologue", Address: old.Value, Expected: plan.Writes[0].Expected, Room: len(body)},
		})
		for _, w := range plan.Writes {
			out := manifest.Write{Function: i, Address: w.Addr, Length: len(w.Bytes), Expected: w.Expected, Template: w.Bytes}
			for _, h := range w.Holes {
				out.Holes = append(out.Holes, manifest.Hole{Offset: h.Off, Kind: string(h.Kind), Symbol: cmp.Or(r.veneer, r.new)})
			}
			m.Writes = append(m.Writes, out)
		}
	}
	for _, s := range obj.Symbols {
		if s.Section != elfpatch.Undefined || s.Name == "" || s.Name == "_GLOBAL_OFFSET_TABLE_" {
			continue
		}
		im := manifest.Import{Symbol: s.Name, Kind: manifest.ImportDynamic, Name: s.Name}
		if def := symbol(file, s.Name); def != nil {
			im = manifest.Import{Symbol: s.Name, Kind: manifest.ImportTarget, Address: def.Value}
			if def.Type == elf.STT_TLS {
				im = manifest.Import{Symbol: s.Name, Kind: manifest.ImportTLSOffset, Offset: threadOffset(file, def)}
			}
		}
		m.Imports = append(m.Imports, im)
	}
	p := &pack.Package{
		Manifest: &manifest.Manifest{
			Format: manifest.Format, Name: name, Tool: manifest.Tool{Name: "livepatch", Version: "test"},
			Targets: []manifest.Target{m},
		},
		Members: map[string][]byte{"payload/0.o": object},
	}
	b, err := pack.Write(p)
	must(t, err)
	p, err = pack.Read(b)
	must(t, err)
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// created makes a package with the builder.
func created(t testing.TB, name, target, before, after string) *pack.Package {
	t.Helper()
	return dispatched(t, trampoline.Direct, name, target, before, after)
}

func dispatched(t testing.TB, way trampoline.Dispatch, name, target, before, after string) *pack.Package {
	t.Helper()
	parse := func(path string) *elfpatch.File {
		f, err := elfpatch.Parse(readFile(t, path))
		must(t, err)
		return f
	}
	p, err := build.Create(build.Inputs{Name: name, Version: "test", Dispatch: way, Targets: []build.Target{{
		Name: filepath.Base(target), File: parse(target),
		Pairs: []build.Pair{{OrigName: "before.o", PatchedName: "after.o", Orig: parse(before), Patched: parse(after)}},
	}}})
	must(t, err)
	return p
}

// threadOffset is the place of a variable of the executable from the thread
// pointer.
func threadOffset(f *elfpatch.File, s *elfpatch.Symbol) int64 {
	for _, seg := range f.Segments {
		if seg.Type == elf.PT_TLS {
			return tlsOffset(&elf.ProgHeader{Memsz: seg.MemSize, Align: seg.Align}, s.Value)
		}
	}
	return 0
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// running is a target that is asked through its standard input.
type running struct {
	t   testing.TB
	pid int
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs a target and waits until it says that it is ready.
func start(t testing.TB, path string, args ...string) *running {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { testkit.End(t, cmd) })
	r := &running{t: t, pid: cmd.Process.Pid, cmd: cmd, in: in, out: bufio.NewReader(out)}
	if line := r.line(); line != "ready" {
		t.Fatalf("target says %q, not ready", line)
	}
	return r
}

func (r *running) line() string {
	r.t.Helper()
	defer testkit.Bound(r.cmd)()
	s, err := r.out.ReadString('\n')
	if err != nil {
		r.t.Fatalf("target says nothing more: %v, %v", err, r.ended())
	}
	return strings.TrimSpace(s)
}

// ask sends a line and returns the numbers of the reply.
func (r *running) ask() (answer, counter, wrong int) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, "?\n"); err != nil {
		r.t.Fatal(err)
	}
	line := r.line()
	if _, err := fmt.Sscan(line, &answer, &counter, &wrong); err != nil {
		r.t.Fatalf("reply %q: %v", line, err)
	}
	return answer, counter, wrong
}

// text hashes all executable pages of files in a process.
func text(t *testing.T, pid int) string {
	t.Helper()
	maps, err := resolve.ParseMaps(readFile(t, fmt.Sprintf("/proc/%d/maps", pid)))
	must(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer mem.Close()
	h := sha256.New()
	for _, m := range maps {
		if m.Exec && m.Inode != 0 {
			_, err := io.Copy(h, io.NewSectionReader(mem, int64(m.Start), int64(m.End-m.Start)))
			must(t, err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// journalMatches compares what was written with the manifest: the templates,
// their holes filled with the addresses at which the replacements lie.
func journalMatches(t *testing.T, p *pack.Package, im Image) {
	t.Helper()
	target := &p.Manifest.Targets[0]
	if len(im.Journal) != len(target.Writes) {
		t.Fatalf("%d writes, the manifest has %d", len(im.Journal), len(target.Writes))
	}
	for i, w := range target.Writes {
		j := im.Journal[i]
		have := unhex(t, j.New)
		if j.Address != w.Address+im.Bias || j.Length != w.Length || j.Old != w.Expected.String() {
			t.Errorf("write %d is %+v, the manifest says %+v", i, j, w)
		}
		to, ok := trampoline.Target(machine, have, j.Address)
		if !ok || to < im.Base || to >= im.Base+im.Size {
			t.Errorf("write %d leads to %#x, the patch is at %#x", i, to, im.Base)
		}
		for _, h := range w.Holes {
			hole := have[h.Offset:]
			switch h.Kind {
			case "abs64":
				clear(hole[:8])
			case "branch26": // the rest of the word is the instruction
				const field = 1<<26 - 1
				binary.LittleEndian.PutUint32(hole, binary.LittleEndian.Uint32(hole)&^field)
			default:
				clear(hole[:4])
			}
		}
		if !bytes.Equal(have, w.Template) {
			t.Errorf("write %d outside its holes is %x, the template is %s", i, have, w.Template)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	var h manifest.Hex
	must(t, h.UnmarshalJSON([]byte(`"`+s+`"`)))
	return h
}

// ended says how a target has ended.
func (r *running) ended() string {
	if err := testkit.Kill(r.cmd); err != nil {
		return err.Error()
	}
	return r.cmd.ProcessState.String()
}
