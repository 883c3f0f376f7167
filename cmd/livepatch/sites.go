package main

import (
	"bufio"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"livepatch/fentry"
	"livepatch/internal/image"
	"livepatch/internal/process"
)

func sitesCommand() *cli.Command {
	return &cli.Command{
		Name: "sites", Usage: "list functions and where each can be redirected", ArgsUsage: "FILE | --pid N", Category: groupLook,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "pid", Usage: "look at everything that process `N` executes, and mark what is patched", DefaultText: "none"},
			&cli.StringFlag{Name: "name", Usage: "only functions whose name matches the regular expression `RE`"},
			&cli.StringSliceFlag{Name: "kind", Usage: "only sites of kind `K`: " + words(fentry.Kinds) + "; repeatable"},
			&cli.StringSliceFlag{Name: "verdict", Usage: "only functions of verdict `V`: " + words(fentry.Verdicts) + "; repeatable"},
			&cli.BoolFlag{Name: "tables", Usage: "say of each function of a kernel what the tables about code name in it", DisableDefaultText: true},
			demangleFlag(),
			&cli.StringFlag{Name: "debug", Usage: "separate debug `FILE`, for its symbols; looked for by build-id and link without"},
			jsonFlag(),
		},
		Description: `
Lists every function of an object, executable, library, kernel or kernel module,
on any host: what stands at its entry, how many bytes a jump may overwrite there,
how many bytes of filler stand before it, and whether it can be redirected, or
why not. Stripped files work: functions are found by their unwind data.

In a kernel only the places count that its table of ftrace names. The tables
about code (static keys, alternatives, exceptions, ...) are counted.

Addresses are those of the file; for objects, offsets in sections. docs/sites.md
describes the columns, the verdicts and the JSON.

Examples:
  livepatch sites /usr/sbin/nginx --name '^ngx_http_'
  livepatch sites /lib/x86_64-linux-gnu/libc.so.6 --verdict too-short --verdict branch-into-site
  livepatch sites --pid 4182 --name '^processCommand$'
  livepatch sites /boot/vmlinuz-$(uname -r) --tables --name '^tcp_rcv_established$'`,
		Action: sites,
	}
}

// siteList is what sites --json prints.
type siteList struct {
	PID    int              `json:"pid,omitempty"`
	Images []*fentry.Report `json:"images"`
}

func sites(c *cli.Context) error {
	pid, least := c.Int("pid"), 1
	if c.IsSet("pid") {
		least = 0
	}
	args, err := takeArgs(c, least, least)
	if err != nil {
		return err
	}
	if c.IsSet("pid") && (pid <= 0 || c.String("debug") != "") {
		return hintHelp(usageErrorf("--pid takes a process number, and no --debug"), c.Command)
	}
	filter, err := siteFilter(c)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	list := siteList{PID: pid}
	if c.IsSet("pid") {
		list.Images, err = sitesOfProcess(p, pid, filter)
	} else {
		var r *fentry.Report
		r, err = sitesOfFile(p, args[0], c.String("debug"), filter)
		list.Images = append(list.Images, r)
	}
	if err != nil {
		return err
	}
	if p.json {
		return p.JSON(list)
	}
	printSiteList(p, &list)
	return nil
}

// printSiteList leaves out the images of a process that have nothing to show.
func printSiteList(p *printer, list *siteList) {
	shown := 0
	for _, r := range list.Images {
		if list.PID != 0 && r.Summary.Functions == 0 {
			continue
		}
		if shown++; shown > 1 {
			p.Printf("\n")
		}
		printSites(p, r)
	}
	if shown == 0 {
		p.Printf("0 functions in %s\n", plural(len(list.Images), "image", "images"))
	}
}

func siteFilter(c *cli.Context) (fentry.Filter, error) {
	filter := fentry.Filter{Readable: namer(true)}
	if expr := c.String("name"); expr != "" {
		re, err := regexp.Compile(expr)
		if err != nil {
			return filter, usageErrorf("option --name: %v", err)
		}
		filter.Name = re
	}
	var err error
	if filter.Kinds, err = chosen(c, "kind", fentry.Kinds); err != nil {
		return filter, err
	}
	filter.Verdicts, err = chosen(c, "verdict", fentry.Verdicts)
	filter.Tables = c.Bool("tables")
	return filter, err
}

// chosen returns the values of an option, which must be among the known ones.
func chosen[T ~string](c *cli.Context, option string, known []T) ([]T, error) {
	var list []T
	for _, v := range c.StringSlice(option) {
		if !slices.Contains(known, T(v)) {
			return nil, hinted(usageErrorf("option --%s: no %s is called %q", option, option, v), "known: %s", words(known))
		}
		list = append(list, T(v))
	}
	return list, nil
}

func words[T ~string](list []T) string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = string(v)
	}
	return strings.Join(s, ", ")
}

func sitesOfProcess(p *printer, pid int, filter fentry.Filter) ([]*fentry.Report, error) {
	proc, err := process.NewReader(pid)
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	var all []*fentry.Report
	images := proc.Images()
	for i, im := range images {
		p.Progress("reading image", i+1, len(images))
		r, err := sitesOfImage(p, proc, im, filter)
		if err != nil {
			p.Warn("%v", err)
			continue
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("process %d: none of its images can be read", pid)
	}
	return all, nil
}

func sitesOfImage(p *printer, proc *process.Reader, im process.Loaded, filter fentry.Filter) (*fentry.Report, error) {
	img, err := openLoaded(im)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	r, err := reportSites(p, &sitesFile{path: im.Path, file: img.File, image: img}, filter)
	if err == nil {
		r.Compare(im.Bias, proc.Read)
	}
	return r, err
}

// openLoaded opens the file that a process executes, and no other of that name.
func openLoaded(im process.Loaded) (img *image.Image, err error) {
	for _, path := range im.Files {
		if img, err = image.Open(path); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s of the process: %w", im.Path, bare(err))
	}
	id, err := img.File.BuildID()
	if err == nil && string(id) != string(im.BuildID) {
		err = fmt.Errorf("its build-id is %x, the process runs %x", id, im.BuildID)
	}
	if err != nil {
		img.Close()
		return nil, fmt.Errorf("open %s of the process: %w", im.Path, err)
	}
	return img, nil
}

func printSites(p *printer, r *fentry.Report) {
	p.Printf("%s  %s, %s %s", p.Paint(bold, r.File), r.Machine, r.Type, plural(r.Summary.Functions, "function", "functions"))
	if r.Bias != nil {
		p.Printf(", loaded at %#x", *r.Bias)
	}
	p.Printf("\n")
	if len(r.Functions) > 0 {
		out := bufio.NewWriter(p.out) // a kernel has tens of thousands of functions
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ADDRESS\tSIZE\tSITE\tROOM\tFRONT\tKIND\tSTRATEGY\tEXPECTED\tVERDICT\tNAME")
		for i := range r.Functions {
			printSite(p, w, r, &r.Functions[i])
		}
		w.Flush()
		out.Flush()
	}
	p.Printf("%s\n", siteSummary(r))
	printTables(p, r.Tables)
}

func printSite(p *printer, w *tabwriter.Writer, r *fentry.Report, f *fentry.Row) {
	addr := fmt.Sprintf("%#x", f.Addr)
	if r.Type == "object" || r.Type == "module" {
		addr = fmt.Sprintf("%s+%#x", f.Section, f.Addr)
	}
	kind := string(f.Kind)
	if f.Landing != "" {
		kind = f.Landing + ", " + kind
	}
	strategy := f.Strategy
	if strategy == "" {
		strategy = "-"
	}
	fmt.Fprintf(w, "%s\t%d\t+%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n",
		addr, f.Size, f.Site-f.Addr, f.Room, f.Front, kind, strategy, shortHex(f.Expected), f.Verdict, siteName(p, f))
}

// siteName is the last column: the name, why, and what else there is to say.
func siteName(p *printer, f *fentry.Row) string {
	name := p.names(f.Name)
	for _, more := range append([]string{f.Reason}, f.Notes...) {
		if more != "" {
			name += ": " + more
		}
	}
	if len(f.Entries) > 0 {
		name += "; " + tableEntries(f.Entries)
	}
	if f.Live != nil {
		name += fmt.Sprintf(" (memory holds %s", shortHex(f.Live))
		if f.LeadsTo != nil {
			name += fmt.Sprintf(", leads to %#x", *f.LeadsTo)
		}
		name += ")"
	}
	return name
}

// tableEntries counts what tables name in a function.
func tableEntries(list []fentry.Entries) string {
	var parts []string
	for _, e := range list {
		parts = append(parts, fmt.Sprintf("%s %d", e.Table, len(e.At)))
	}
	return strings.Join(parts, ", ")
}

// printTables prints how many entries the tables about code have.
func printTables(p *printer, tables []fentry.Table) {
	var parts []string
	for _, t := range tables {
		if t.Problem == "" {
			parts = append(parts, fmt.Sprintf("%s %d", t.Section, t.Entries))
		}
	}
	if parts != nil {
		p.Printf("tables: %s\n", strings.Join(parts, ", "))
	}
	for _, t := range tables {
		if t.Problem != "" {
			p.Printf("table %s cannot be read: %s\n", t.Section, t.Problem)
		}
	}
}

// shortHex shows as many bytes as a near jump of x86-64 overwrites.
func shortHex(b fentry.Bytes) string {
	if len(b) == 0 {
		return "-"
	}
	return fmt.Sprintf("%x", []byte(b[:min(len(b), 5)]))
}

func siteSummary(r *fentry.Report) string {
	s := r.Summary
	parts := counts(s.Verdicts, fentry.Verdicts)
	text := fmt.Sprintf("%s: %s; kinds: %s", plural(s.Functions, "function", "functions"), parts, counts(s.Kinds, fentry.Kinds))
	if s.Functions == 0 {
		text = "0 functions"
	}
	if s.Modified > 0 {
		text += fmt.Sprintf("; %s", plural(s.Modified, "site differs from the file", "sites differ from the file"))
	}
	return text
}

func counts[T ~string](have map[T]int, order []T) string {
	var parts []string
	for _, k := range order {
		if n := have[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return strings.Join(parts, ", ")
}
