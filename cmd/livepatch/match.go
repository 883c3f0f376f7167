package main

import (
	"debug/elf"
	"errors"
	"path/filepath"
	"regexp"

	"github.com/urfave/cli/v2"

	"livepatch/elfpatch"
	"livepatch/elfpatch/match"
	"livepatch/internal/image"
	"livepatch/internal/kimage"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

func matchCommand() *cli.Command {
	return &cli.Command{
		Name: "match", Usage: "prove that an object is code of a target, or show where not", ArgsUsage: "OBJ TARGET", Category: groupLook,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "debug", Usage: "separate debug `FILE` of the target, for its symbols; looked for by build-id and link without"},
			&cli.StringFlag{Name: "name", Usage: "only functions whose name matches the regular expression `RE`"},
			demangleFlag(),
			jsonFlag(),
		},
		Description: `
Decides for each function of a relocatable object whether the target, an
executable, library, kernel or kernel module, stripped or not, holds exactly its
code and the data that the code refers to, byte for byte apart from what linking
changes, and prints its address, or the first difference with the instructions
of both. The addresses of the static functions and variables of the object
follow from it. Where two places fit, neither is taken. Exit code 3 when a
function is not proven. docs/proof.md says what is compared.

Examples:
  livepatch match net.o /usr/sbin/d
  livepatch match --name '^tcp_' net/ipv4/tcp.o vmlinuz
  livepatch match fs/xfs/xfs_file.o xfs.ko.xz`,
		Action: matchAction,
	}
}

// matchReport is what match --json prints.
type matchReport struct {
	Object    string        `json:"object"`
	Target    string        `json:"target"`
	Functions []matchedFunc `json:"functions"`
	Symbols   []matchSymbol `json:"symbols"`
	Data      []matchData   `json:"data"`
}

// matchedFunc is one function of the object.
type matchedFunc struct {
	Name    string            `json:"name"`
	Proven  bool              `json:"proven"`
	Address uint64            `json:"address,omitempty"`
	Size    uint64            `json:"size,omitempty"`
	Found   string            `json:"found,omitempty"`
	Masked  []manifest.Masked `json:"masked,omitempty"`
	Refusal *refusal.Refusal  `json:"refusal,omitempty"`
	Unused  uint64            `json:"unused,omitempty"`
	Object  []matchLine       `json:"object_code,omitempty"`
	Target  []matchLine       `json:"target_code,omitempty"`
}

// matchLine is an instruction around a difference.
type matchLine struct {
	Address uint64       `json:"address"`
	Bytes   manifest.Hex `json:"bytes"`
	Text    string       `json:"text"`
	Differs bool         `json:"differs,omitempty"`
}

// matchSymbol is a static function or variable of the object.
type matchSymbol struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // function, variable, thread-local
	Address uint64 `json:"address"`
	Found   string `json:"found"`
	Uses    int    `json:"uses"`
}

// matchData is data that was compared besides the functions.
type matchData struct {
	Section string `json:"section"`
	Address uint64 `json:"address"`
	Size    uint64 `json:"size"`
	Fields  int    `json:"fields"`
}

func matchAction(c *cli.Context) error {
	args, err := takeArgs(c, 2, 2)
	if err != nil {
		return err
	}
	only, err := regexp.Compile(c.String("name"))
	if err != nil {
		return hintHelp(usageErrorf("--name: %v", err), c.Command)
	}
	p := newPrinter(c)
	var opened images
	defer opened.close()
	obj, err := opened.open(args[0])
	if err != nil {
		return err
	}
	target, debug, err := opened.matchTarget(p, args[1], c.String("debug"))
	if err != nil {
		return err
	}
	funcs := functionsOf(obj, only)
	if len(funcs) == 0 {
		return usageErrorf("%s has no function that is asked for", args[0])
	}
	r := &matchReport{Object: filepath.Base(args[0]), Target: filepath.Base(args[1])}
	err = image.Guard(func() error {
		t, err := match.NewTarget(target, debug)
		if err != nil {
			return err
		}
		survey, err := t.Survey(obj, funcs, match.Options{Object: r.Object, Target: r.Target})
		if err == nil {
			r.fill(obj, funcs, survey)
		}
		return err
	})
	if err != nil {
		return err
	}
	if p.json {
		err = p.JSON(r)
	} else {
		printMatch(p, r)
	}
	if err == nil && len(r.missed()) > 0 {
		return statusError(exitRefused)
	}
	return err
}

// matchTarget opens what an object may be part of, and its debug file.
func (o *images) matchTarget(p *printer, path, debug string) (target, dbg *elfpatch.File, err error) {
	switch kind, kerr := image.KindOf(path); {
	case kerr == nil && (kind == kimage.KernelImage || kind == kimage.KernelModule):
		if debug != "" {
			return nil, nil, hinted(usageErrorf("--debug %s: %s has its symbols in itself", debug, path), "leave --debug out; it is for programs")
		}
		k, m, err := o.kernel(path)
		if err != nil {
			return nil, nil, err
		}
		if m != nil {
			return m.Linked, nil, nil
		}
		return k.File, nil, nil
	case kerr != nil && !errors.Is(kerr, kimage.ErrNotKernel):
		return nil, nil, kerr
	}
	img, err := image.Open(path)
	if err != nil {
		return nil, nil, err
	}
	*o = append(*o, img)
	if debug != "" {
		dbg, err = o.open(debug)
		return img.File, dbg, err
	}
	found, err := image.FindDebug(img)
	switch {
	case err == nil:
		*o = append(*o, found)
		return img.File, found.File, nil
	case !errors.Is(err, image.ErrNoDebug):
		p.Warn("%v", err)
	}
	return img.File, nil, nil
}

// functionsOf are the functions that an object defines, one symbol for each.
func functionsOf(obj *elfpatch.File, only *regexp.Regexp) (out []int) {
	type place struct {
		sec int
		off uint64
	}
	seen := map[place]bool{}
	for i, s := range obj.Symbols {
		if s.Type != elf.STT_FUNC || s.Size == 0 || s.Section <= 0 || s.Section >= len(obj.Sections) || !only.MatchString(s.Name) {
			continue
		}
		if at := (place{s.Section, s.Value}); !seen[at] && obj.Sections[s.Section].Flags&elf.SHF_EXECINSTR != 0 {
			seen[at] = true
			out = append(out, i)
		}
	}
	return out
}

// fill takes over what the survey says, in the order of the object's symbols.
func (r *matchReport) fill(obj *elfpatch.File, funcs []int, s *match.Survey) {
	proven, missed := map[int]match.Func{}, map[int]match.Missed{}
	for _, f := range s.Proof.Funcs {
		proven[f.Symbol] = f
	}
	for _, m := range s.Missed {
		missed[m.Symbol] = m
	}
	r.Functions, r.Symbols, r.Data = []matchedFunc{}, []matchSymbol{}, []matchData{}
	for _, i := range funcs {
		if f, ok := proven[i]; ok {
			r.Functions = append(r.Functions, matchedFunc{
				Name: f.Name, Proven: true, Address: f.Addr, Size: f.Size, Found: string(f.Found), Masked: maskedOf(f),
			})
			continue
		}
		m := missed[i]
		out := matchedFunc{Name: m.Name, Refusal: &m.Refusal}
		if m.Unused != nil {
			out.Unused = m.Unused.Addr
		}
		if d := m.Difference; d != nil {
			out.Object, out.Target = matchLines(d.Object), matchLines(d.Target)
		}
		r.Functions = append(r.Functions, out)
	}
	if len(proven) == 0 {
		return
	}
	for i, sym := range obj.Symbols {
		if _, ok := proven[i]; !ok {
			if x, ok := staticSymbol(s.Proof, i, sym); ok {
				r.Symbols = append(r.Symbols, x)
			}
		}
	}
	for _, d := range s.Proof.Data() {
		r.Data = append(r.Data, matchData{d.Section, d.Addr, d.Size, d.Fields})
	}
}

func matchLines(list []match.Line) (out []matchLine) {
	for _, l := range list {
		out = append(out, matchLine{l.Addr, l.Bytes, l.Text, l.Differs})
	}
	return out
}

// staticSymbol says where a static function or variable of the object is.
func staticSymbol(proof *match.Proof, i int, sym elfpatch.Symbol) (matchSymbol, bool) {
	x := matchSymbol{Name: sym.Name, Kind: "variable"}
	use := match.Address
	switch {
	case sym.Bind != elf.STB_LOCAL || sym.Section <= 0 || sym.Name == "":
		return x, false
	case sym.Type == elf.STT_FUNC:
		x.Kind = "function"
	case sym.Type == elf.STT_TLS:
		x.Kind, use = "thread-local", match.TPOffset
	case sym.Type != elf.STT_OBJECT:
		return x, false
	}
	known, _ := proof.Resolve(i)
	place, ok := known[use]
	x.Address, x.Found, x.Uses = place.Value, place.Found, place.Uses
	return x, ok
}

func maskedOf(f match.Func) (out []manifest.Masked) {
	for _, k := range match.Kinds() {
		if n := f.Masked[k]; n > 0 {
			out = append(out, manifest.Masked{Kind: k.String(), Count: n})
		}
	}
	return out
}

// missed are the functions that are not proven.
func (r *matchReport) missed() (out []matchedFunc) {
	for _, f := range r.Functions {
		if !f.Proven {
			out = append(out, f)
		}
	}
	return out
}

func printMatch(p *printer, r *matchReport) {
	for _, f := range r.Functions {
		if !f.Proven {
			continue
		}
		masked := "nothing masked"
		for i, m := range f.Masked {
			if i == 0 {
				masked = "masked:"
			}
			masked += " " + m.Kind + " " + plural(m.Count, "place", "places")
			if i < len(f.Masked)-1 {
				masked += ","
			}
		}
		p.Printf("proven  %-32s %#x  %d bytes, by %s, %s\n", printable(p.names(f.Name)), f.Address, f.Size, f.Found, masked)
	}
	for _, f := range r.missed() {
		p.Printf("%s  %s: %s [%s]\n", p.Paint(red, "not"), printable(f.Refusal.Where), printable(f.Refusal.Text), f.Refusal.Code)
		printLines(p, "object", f.Object)
		printLines(p, "target", f.Target)
	}
	for _, s := range r.Symbols {
		p.Printf("static  %-32s %#x  %s, by %s, %s\n", printable(p.names(s.Name)), s.Address, s.Kind, printable(s.Found), plural(s.Uses, "use", "uses"))
	}
	for _, d := range r.Data {
		p.Printf("data    %-32s %#x  %d bytes, %s\n", printable(d.Section), d.Address, d.Size, plural(d.Fields, "field", "fields"))
	}
	p.Printf("%d of %s of %s proven in %s\n", len(r.Functions)-len(r.missed()), plural(len(r.Functions), "function", "functions"),
		printable(r.Object), printable(r.Target))
}

func printLines(p *printer, side string, lines []matchLine) {
	for _, l := range lines {
		mark := " "
		if l.Differs {
			mark = ">"
		}
		p.Printf("  %s %s %#8x  %-32x  %s\n", side, mark, l.Address, []byte(l.Bytes), l.Text)
	}
}
