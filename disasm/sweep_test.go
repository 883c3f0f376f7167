package disasm

import (
	"bufio"
	"debug/elf"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"

	"livepatch/internal/testkit"
)

// objdump is the oracle for real code. scripts/sweep-disasm fetches Debian's
// binaries and hands them over here; without -sweep the tests take what every
// machine has.
var (
	sweepFiles = flag.String("sweep", "", "comma-separated ELF files to compare with objdump")
	sweepAll   = flag.Bool("sweep-all", false, "count the whole text of files without functions as functions")
	sweepShow  = flag.Int("sweep-show", 30, "disputed instructions to list for each file")
)

// line is one instruction as objdump prints it.
type line struct {
	addr uint64
	code []byte
	text string
}

// sweepResult counts what was compared in one file.
type sweepResult struct {
	Insns, Inside        int // that objdump decodes: all; within functions
	PCRel                int // RIP-relative operands and branches (arm64: all PC-relative forms), in functions
	Length, Field        int // differences within functions
	Refused              int // objdump decodes it, we do not, within functions
	Outside              int // differences of any kind outside functions
	Disputes             []dispute
	Fwait, Bad, Accepted int // fwait merged by objdump; (bad); (bad) that we accept, in functions
}

// dispute is an instruction on which objdump and we differ.
type dispute struct {
	line
	inside bool
	ours   Inst
	err    error
}

func (d dispute) String() string {
	where := "outside functions"
	if d.inside {
		where = "in a function"
	}
	got, _ := d.ours.Target(d.addr)
	return fmt.Sprintf("%x, %s: % x: objdump: %s; we: length %d target %#x %v", d.addr, where, d.code, d.text, d.ours.Len, got, d.err)
}

func (r sweepResult) differences() int { return r.Length + r.Field + r.Refused }

func TestSweep(t *testing.T) {
	for _, path := range sweepPaths(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r := sweepFile(t, path)
			t.Logf("| %s | %d | %d | %d | %d | %d | %d | %d |", filepath.Base(path),
				r.Insns, r.Inside, r.PCRel, r.Length, r.Field, r.Refused, r.Outside)
			for _, d := range r.Disputes[:min(len(r.Disputes), *sweepShow)] {
				t.Log(d)
			}
			decide(t, r.Disputes)
			if n := r.differences(); n > 0 {
				t.Errorf("%d differences from objdump within functions", n)
			}
			if r.Inside == 0 {
				t.Error("nothing was compared")
			}
		})
	}
}

// decide asks Zydis about the disputed x86-64 instructions, when it is there.
func decide(t *testing.T, disputes []dispute) {
	if *zydisPath == "" || len(disputes) == 0 {
		return
	}
	records := make([]byte, len(disputes)*recordLen)
	for i, d := range disputes {
		copy(records[i*recordLen:], d.code)
	}
	var us, objdump int
	for i, a := range askZydis(t, records) {
		d := disputes[i]
		switch {
		case a.Len == d.ours.Len && (a.Len == 0 || a.Field == d.ours.PCRel):
			us++
		case a.Len == len(d.code):
			objdump++
		}
	}
	t.Logf("Zydis decides %d disputes for us, %d for objdump, of %d", us, objdump, len(disputes))
}

func sweepPaths(t *testing.T) []string {
	if *sweepFiles != "" {
		return strings.Split(*sweepFiles, ",")
	}
	var paths []string
	for _, p := range []string{"/lib/x86_64-linux-gnu/libc.so.6", "/usr/aarch64-linux-gnu/lib/libc.so.6"} {
		if _, err := os.Stat(p); err == nil {
			paths = append(paths, p)
		}
	}
	err := filepath.WalkDir("../testdata/binaries", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && hasText(p) {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skip("no ELF file to compare")
	}
	return paths
}

// hasText is false of separate debug files, which have the sections only.
func hasText(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, s := range f.Sections {
		if s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_EXECINSTR != 0 && s.Size > 0 {
			return true
		}
	}
	return false
}

// objdumpFor finds an objdump for the machine. On continuous integration its
// absence is an error.
func objdumpFor(t testing.TB, m elf.Machine) string {
	names := []string{"objdump", "x86_64-linux-gnu-objdump"}
	if m == elf.EM_AARCH64 {
		names = []string{"aarch64-linux-gnu-objdump"}
	}
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	testkit.Missing(t, "none of %v is installed", names)
	return ""
}

func sweepFile(t *testing.T, path string) sweepResult {
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	functions := functionRanges(t, f, path)
	var r sweepResult
	objdump(t, f.Machine, path, func(l line) {
		r.compare(f, l, *sweepAll || functions.contain(l.addr))
	})
	return r
}

// objdump calls fn with every instruction: of the executable sections (-d), or
// as the options say.
func objdump(t *testing.T, m elf.Machine, path string, fn func(line), options ...string) {
	if options == nil {
		options = []string{"-d"}
	}
	cmd := exec.Command(objdumpFor(t, m), append(options, "-z", "-w", "--insn-width=16", path)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	s.Buffer(make([]byte, 1<<16), 1<<20)
	for s.Scan() {
		if l, ok := parseLine(m, s.Text()); ok {
			fn(l)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// parseLine reads "  401000:\tf3 0f 1e fa \tendbr64".
func parseLine(m elf.Machine, s string) (line, bool) {
	addr, rest, ok := strings.Cut(s, ":\t")
	if !ok {
		return line{}, false
	}
	a, err := strconv.ParseUint(strings.TrimSpace(addr), 16, 64)
	if err != nil {
		return line{}, false
	}
	code, text, _ := strings.Cut(rest, "\t")
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(code), " ", ""))
	if err != nil || len(b) == 0 {
		return line{}, false
	}
	if m == elf.EM_AARCH64 { // printed as a word
		for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
	return line{a, b, text}, true
}

// compare counts one line. In an object the fields are not relocated yet, and
// objdump guesses at targets: there only the presence of a field is compared.
func (r *sweepResult) compare(f *elf.File, l line, inside bool) {
	m := f.Machine
	if isBad(l.text) {
		r.Bad++
		if _, err := Decode(m, l.code); err == nil && inside {
			r.Accepted++
		}
		return
	}
	r.Insns++
	if inside {
		r.Inside++
	}
	const fwait = 0x9b
	if m == elf.EM_X86_64 && l.code[0] == fwait && len(l.code) > 1 {
		r.Fwait++ // objdump joins fwait with the x87 instruction after it
		l.addr, l.code = l.addr+1, l.code[1:]
	}
	in, err := Decode(m, l.code)
	var kind *int
	want, has := wantTarget(m, l.text)
	got, gotIt := in.Target(l.addr)
	switch {
	case err != nil:
		kind = &r.Refused
	case in.Len != len(l.code):
		kind = &r.Length
	case has != gotIt, has && want != got && f.Type != elf.ET_REL:
		kind = &r.Field
	case inside && has:
		r.PCRel++
	}
	if kind == nil {
		return
	}
	if inside {
		*kind++
	} else {
		r.Outside++
	}
	r.Disputes = append(r.Disputes, dispute{l, inside, in, err})
}

// isBad is true of what objdump does not decode: data, or nothing but prefixes.
func isBad(text string) bool {
	switch {
	case strings.Contains(text, "(bad)"), strings.Contains(text, "; undefined"):
		return true
	case strings.HasPrefix(text, ".byte"), strings.HasPrefix(text, ".inst"), strings.HasPrefix(text, ".word"):
		return true
	}
	for _, word := range strings.Fields(text) {
		if !lonePrefix[word] && !strings.HasPrefix(word, "rex") {
			return false
		}
	}
	return true
}

var lonePrefix = map[string]bool{
	"data16": true, "addr32": true, "lock": true, "repz": true, "repnz": true, "rep": true,
	"cs": true, "ds": true, "es": true, "fs": true, "gs": true, "ss": true, "bnd": true, "notrack": true,
}

var (
	ripTarget = regexp.MustCompile(`\(%[re]ip\).*# (?:0x)?([0-9a-f]+)`)
	x86Branch = regexp.MustCompile(`(?:^|\s)(?:j[a-z]+|call[a-z]*|loop[a-z]*|xbegin[a-z]*)(?:,p[nt])?\s+(?:0x)?([0-9a-f]+)(?:\s|$)`)
	armTarget = regexp.MustCompile(`^(?:b|bl|b\.[a-z]+|bc\.[a-z]+|cbn?z|tbn?z|adrp?|ldr|ldrsw|prfm)\s[^[]*?\b(?:0x)?([0-9a-f]+)(?: <[^>]*>)?(?:\s*//.*)?$`)
	armNames  = regexp.MustCompile(`^(?:b|bl|b\.[a-z]+|bc\.[a-z]+|cbn?z|tbn?z|adrp?)\s`)
)

// wantTarget is the address that objdump prints for a PC-relative field.
func wantTarget(m elf.Machine, text string) (uint64, bool) {
	var found []string
	switch {
	case m == elf.EM_AARCH64:
		if armNames.MatchString(text) || !strings.Contains(text, "[") {
			found = armTarget.FindStringSubmatch(text)
		}
	case strings.Contains(text, "ip)"):
		found = ripTarget.FindStringSubmatch(text)
	default:
		found = x86Branch.FindStringSubmatch(text)
	}
	if found == nil {
		return 0, false
	}
	v, err := strconv.ParseUint(found[1], 16, 64)
	return v, err == nil
}

type addrRange struct{ start, end uint64 }

// ranges are sorted and do not overlap.
type ranges []addrRange

func (r ranges) contain(a uint64) bool {
	i := sort.Search(len(r), func(i int) bool { return r[i].end > a })
	return i < len(r) && r[i].start <= a
}

// functionRanges are the ranges of the function symbols with a size, and of
// the frame descriptions.
func functionRanges(t *testing.T, f *elf.File, path string) ranges {
	var all ranges
	for _, read := range []func() ([]elf.Symbol, error){f.Symbols, f.DynamicSymbols} {
		syms, _ := read() // neither table need be there
		for _, s := range syms {
			if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Size > 0 && s.Section != elf.SHN_UNDEF {
				all = append(all, addrRange{s.Value, s.Value + s.Size})
			}
		}
	}
	all = append(all, frameRanges(t, f.Machine, path)...)
	sort.Slice(all, func(i, j int) bool { return all[i].start < all[j].start })
	var merged ranges
	for _, r := range all {
		if n := len(merged); n > 0 && r.start <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, r.end)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

var framePC = regexp.MustCompile(` FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)`)

func frameRanges(t *testing.T, m elf.Machine, path string) ranges {
	cmd := exec.Command(objdumpFor(t, m), "--dwarf=frames", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all ranges
	r := bufio.NewReader(out)
	for {
		s, err := r.ReadString('\n')
		if found := framePC.FindStringSubmatch(s); found != nil {
			start, _ := strconv.ParseUint(found[1], 16, 64)
			end, _ := strconv.ParseUint(found[2], 16, 64)
			all = append(all, addrRange{start, end})
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // objdump reports damaged frames by its status; what it printed counts
	return all
}
