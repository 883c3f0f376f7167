package check

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// openBinary opens a file of testdata/binaries.
func openBinary(t *testing.T, name string) File {
	t.Helper()
	path := filepath.Join("..", "..", "testdata", "binaries", filepath.FromSlash(name))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := parse(t, b)
	f.Path = filepath.Base(name)
	return f
}

func TestKind(t *testing.T) {
	for name, want := range map[string]string{
		"x86_64-gcc/prog":            manifest.KindPIE,
		"x86_64-gcc/prog.stripped":   manifest.KindPIE,
		"x86_64-gcc/prog.exec":       manifest.KindExecutable,
		"x86_64-gcc/tiny.static":     manifest.KindExecutable,
		"x86_64-gcc/tiny.static-pie": manifest.KindPIE,
		"x86_64-gcc/libcounter.so":   manifest.KindLibrary,
		"aarch64-gcc/prog":           manifest.KindPIE,
	} {
		if got := Kind(openBinary(t, name).ELF); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestImports(t *testing.T) {
	// prog has 16 bytes of thread-local storage, aligned to 8.
	lib := []string{"x86_64-gcc/libprog", "x86_64-gcc/libcounter.so"}
	for _, tc := range []struct {
		files []string
		im    manifest.Import
		want  Status
		code  refusal.Code
		text  string
	}{
		{[]string{"x86_64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: -16}, OK, "", "at -16 from the thread pointer"},
		{[]string{"x86_64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: -1}, OK, "", "at -1 from the thread pointer"},
		{[]string{"x86_64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: -17}, Refused, refusal.AddressUnknown, "offset -17 is outside"},
		{[]string{"x86_64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: 0}, Refused, refusal.AddressUnknown, "offset 0 is outside"},
		{[]string{"aarch64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: 16}, OK, "", "at 16 from"},
		{[]string{"aarch64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: 31}, OK, "", "at 31 from"},
		{[]string{"aarch64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: 32}, Refused, refusal.AddressUnknown, "offset 32 is outside"},
		{[]string{"aarch64-gcc/prog"}, manifest.Import{Kind: "tls-offset", Offset: 15}, Refused, refusal.AddressUnknown, "offset 15 is outside"},
		{lib[1:], manifest.Import{Kind: "tls-offset", Offset: -8}, Refused, refusal.TLSModel, "only an executable"},
		{lib, manifest.Import{Kind: "dynamic", Name: "counter_total"}, OK, "", "defined in libcounter.so"},
		{lib[:1], manifest.Import{Kind: "dynamic", Name: "counter_total"}, Later, "", "in a library of the process"},
		{lib, manifest.Import{Kind: "dynamic", Name: "counter_total", Version: "V9", Library: "libcounter.so"}, Later, "", "in libcounter.so of"},
		{lib, manifest.Import{Kind: "dynamic", Name: "stdout", Version: "GLIBC_2.2.5", Library: "libc.so.6"}, OK, "", "defined in libprog"},
		{[]string{"x86_64-gcc/tiny.static"}, manifest.Import{Kind: "dynamic", Name: "puts"}, Refused, refusal.SymbolNotFound, "loads no library"},
	} {
		c := &checker{report: new(Report), target: new(manifest.Target)}
		for _, name := range tc.files {
			c.files = append(c.files, openBinary(t, name))
		}
		c.elf = c.files[0].ELF
		c.imported(&tc.im)
		if got := c.report.Results[0]; got.Status != tc.want || got.Code != tc.code || !strings.Contains(got.Text, tc.text) {
			t.Errorf("%v %+v: %+v", tc.files, tc.im, got)
		}
	}
}

// Objects as compilers write them need tables that a loader does not make; the
// check says so instead of passing them.
func TestPayloadRelocations(t *testing.T) {
	const table = "needs a table that the loader does not make"
	for name, want := range map[string]string{
		"x86_64-gcc/calls.pic.before.o":  table,
		"x86_64-gcc/calls.O2.before.o":   "",
		"aarch64-gcc/calls.pic.before.o": table,
		"aarch64-gcc/calls.O2.before.o":  "",
	} {
		obj := openBinary(t, name)
		target := openBinary(t, filepath.ToSlash(filepath.Dir(name))+"/prog")
		c := &checker{report: new(Report), elf: target.ELF, target: &manifest.Target{Machine: "x86-64"}}
		l := &layout{checker: c, object: obj.ELF, imports: map[string]*manifest.Import{}}
		for i, s := range obj.ELF.Symbols {
			if i > 0 && s.Section == elfpatch.Undefined {
				addr := imageEnd(target.ELF) - 64
				c.target.Imports = append(c.target.Imports, manifest.Import{Symbol: s.Name, Kind: "target", Address: addr &^ 15})
			}
		}
		for i := range c.target.Imports {
			l.imports[c.target.Imports[i].Symbol] = &c.target.Imports[i]
		}
		l.place()
		l.symbols()
		l.relocate()
		text := c.report.Refusals().Error()
		if want == "" && text != "" || !strings.Contains(text, want) {
			t.Errorf("%s:\n%s\nwant %q", name, text, want)
		}
	}
}

func TestPayloads(t *testing.T) {
	p := sample(t)
	list, err := Payloads(p)
	if err != nil || len(list) != 1 || len(list[0].Sections) != 1 || list[0].Sections[0] != (Section{".text", "r-x", 11, 1}) {
		t.Errorf("%+v, error %v", list, err)
	}
	p.Members["payload/0.o"] = []byte("hello")
	if _, err := Payloads(p); err == nil || !strings.HasPrefix(err.Error(), "read payload/0.o: ") {
		t.Errorf("error %v", err)
	}
}

// Nothing that a payload holds makes the check panic or hang.
func FuzzPackage(f *testing.F) {
	f.Add(payload(f))
	f.Fuzz(func(t *testing.T, obj []byte) {
		p := sample(t)
		sum := sha256.Sum256(obj)
		p.Manifest.Targets[0].Payload.Size, p.Manifest.Targets[0].Payload.SHA256 = int64(len(obj)), sum[:]
		p.Members["payload/0.o"] = obj
		Package(p, []File{parse(t, image())})
		if _, err := Payloads(p); err != nil {
			return
		}
		if _, err := pack.Write(p); err == nil {
			inspected(p)
		}
	})
}

func inspected(p *pack.Package) {
	t := &p.Manifest.Targets[0]
	for i := range t.Writes {
		Code(t.Machine, t.Writes[i].Expected, t.Writes[i].Address)
		Replaced(t.Machine, &t.Writes[i])
	}
}
