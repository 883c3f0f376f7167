package kstate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"livepatch/manifest"
)

// Effect is what a conflict leads to.
type Effect string

// The effects, the worst first.
const (
	Blocks   Effect = "blocks"  // the kernel refuses to load the patch
	Defeats  Effect = "defeats" // the patch or an earlier one has no effect, though nothing reports it
	Breaks   Effect = "breaks"  // the other one stops working
	Harmless Effect = "none"    // both work
)

// The kinds of conflicts.
const (
	KindLivepatch = "livepatch"    // another livepatch replaces the function
	KindPackage   = "package"      // another package given does
	KindRedirect  = "redirect"     // something else redirects the function through ftrace
	KindHandler   = "post-handler" // a kprobe with a post handler sits on the patch site
	KindProbe     = "kprobe"       // a kprobe
	KindDirect    = "direct-call"  // something is called directly at the patch site
	KindBPF       = "bpf"          // a BPF trampoline is
	KindTracer    = "tracer"       // something else is called there and only watches
)

// Conflict is somebody else who is attached to a function that a patch
// replaces.
type Conflict struct {
	Package  string `json:"package"`
	Object   string `json:"object"`
	Function string `json:"function"`
	Kind     string `json:"kind"`
	Effect   Effect `json:"effect"`
	Certain  bool   `json:"certain"` // false: it depends on what the facts do not tell
	Who      string `json:"who"`
	Text     string `json:"text"` // what happens
}

// Where is the place of the conflict: "vmlinux: meminfo_proc_show".
func (c *Conflict) Where() string { return c.Object + ": " + c.Function }

// A Plan is a package that is to be loaded.
type Plan struct {
	Name    string // of the patch, for messages
	Kernel  *manifest.Kernel
	BuildID string // of the module, hexadecimal; "" if it is not known
	Base    string // version of the base module that it is handed to; "" if it is not known, or for the livepatch core
}

// Conflicts lists who is attached to the functions that packages replace. The
// packages are loaded in their order.
func Conflicts(plans []Plan, f *Facts) []Conflict {
	all := []Conflict{}
	for i, p := range plans {
		for _, o := range p.Kernel.Objects {
			for j := range o.Functions {
				c := &claim{plan: p, object: o.Name, function: &o.Functions[j], facts: f}
				c.packages(plans[:i])
				c.livepatches()
				c.ftrace()
				c.kprobes()
				all = append(all, c.found...)
			}
		}
	}
	return all
}

// A claim is one function that a package replaces.
type claim struct {
	plan     Plan
	object   string
	function *manifest.KernelFunction
	facts    *Facts
	found    []Conflict
}

func (c *claim) add(kind string, effect Effect, who, format string, args ...any) *Conflict {
	c.found = append(c.found, Conflict{
		Package: c.plan.Name, Object: c.object, Function: c.function.Name, Kind: kind, Effect: effect,
		Certain: true, Who: who, Text: fmt.Sprintf(format, args...),
	})
	return &c.found[len(c.found)-1]
}

func (c *claim) packages(before []Plan) {
	for _, p := range before {
		for _, o := range p.Kernel.Objects {
			same := func(f manifest.KernelFunction) bool {
				return f.Name == c.function.Name && max(f.Position, 1) == max(c.function.Position, 1)
			}
			if o.Name != c.object || !slices.ContainsFunc(o.Functions, same) {
				continue
			}
			if way := wayOf(p.Kernel.Flavour, p.Kernel.Dispatch); way != c.way() {
				c.add(KindPackage, Blocks, p.Name, "%s", waysText(way, c.way()))
			} else if c.plan.Kernel.Replace {
				c.add(KindPackage, Harmless, p.Name, "is replaced by %s as a whole", c.plan.Name)
			} else {
				c.add(KindPackage, Defeats, p.Name, "its version of the function would lie beneath that of %s and have no effect", c.plan.Name)
			}
		}
	}
}

// waysText says what keeps two ways of redirecting from one function: one claims
// the instruction pointer (IPMODIFY), and direct calls share it only if they say
// that they can (__ftrace_hash_update_ipmodify and
// prepare_direct_functions_for_ipmodify in kernel/trace/ftrace.c, 6.1 and 6.12).
func waysText(a, b string) string {
	ways := []string{WayCore, WayDirect, WayShared}
	if slices.Index(ways, a) > slices.Index(ways, b) {
		a, b = b, a
	}
	return a + " and " + b + " cannot share a function: loading the later one fails with EBUSY"
}

// way is that of the package.
func (c *claim) way() string { return wayOf(c.plan.Kernel.Flavour, c.plan.Kernel.Dispatch) }

func (c *claim) livepatches() {
	for _, p := range c.facts.Patches {
		if p.Name == c.plan.Kernel.Module || !p.Claims(c.object, c.function.Name, c.function.Position) || p.IsDirect() && !p.Enabled {
			continue
		}
		if p.Way() != c.way() {
			c.add(KindLivepatch, Blocks, p.Name, "%s", waysText(p.Way(), c.way()))
		} else if c.plan.Kernel.Replace {
			c.add(KindLivepatch, Harmless, p.Name, "is replaced as a whole")
		} else {
			c.add(KindLivepatch, Defeats, p.Name, "its version of the function would lie beneath this one and have no effect")
		}
	}
}

// ours reports a direct call of a patch of this program, which stands beside it
// in the list of patches.
func (c *claim) ours(call string) bool {
	return slices.ContainsFunc(c.facts.Patches, func(p Patch) bool { return p.IsDirect() && strings.HasSuffix(call, " ["+p.Name+"]") })
}

// sharedHandler is what ftrace calls for patches of the shared dispatch (docs/module-format.md).
const sharedHandler = "livepatch_shared [" + manifest.BaseModule + "]"

// listHandler is what ftrace calls where several users watch a function; it is shown
// in place of them on x86-64 (arch_ftrace_ops_list_func in kernel/trace/ftrace.c, 6.12);
// on arm64 nothing is.
const listHandler = "arch_ftrace_ops_list_func"

// klpHandler is the function through which the livepatch core redirects
// (kernel/livepatch/patch.c, 6.12).
const klpHandler = "klp_ftrace_handler"

// kprobeHandler is what ftrace calls for kprobes (arch/x86/kernel/kprobes/ftrace.c, 6.12).
const kprobeHandler = "kprobe_ftrace_handler"

// directHandler is what ftrace calls for direct calls where others watch the
// function too (kernel/trace/ftrace.c, 6.12).
const directHandler = "call_direct_funcs"

// ftrace judges the function's entries in enabled_functions. Those of functions
// that share their name cannot be told apart.
func (c *claim) ftrace() {
	module := c.object
	if module == manifest.Vmlinux {
		module = ""
	}
	for i := range c.facts.Traced {
		t := &c.facts.Traced[i]
		if t.Function != c.function.Name || t.Module != module {
			continue
		}
		before := len(c.found)
		c.redirect(t)
		c.direct(t)
		c.tracers(t)
		if c.function.Position > 0 {
			for j := range c.found[before:] {
				c.found[before+j].Certain = false
				c.found[before+j].Text += "; several functions have this name, it may be about another one"
			}
		}
	}
}

// redirect judges an owner of the function's instruction pointer. The livepatch
// core shares it among livepatches and nobody else.
func (c *claim) redirect(t *Traced) {
	if !t.Has(flagIPModify) || slices.Contains(t.Owners, klpHandler) {
		return
	}
	if slices.Contains(t.Owners, sharedHandler) || (len(t.Owners) == 0 || slices.Contains(t.Owners, listHandler)) && c.claimed(WayShared) {
		c.kept()
		return
	}
	for _, p := range c.facts.Patches {
		if p.Claims(c.object, c.function.Name, c.function.Position) {
			return
		}
	}
	const text = "the kernel lets one redirect a function: loading fails with EBUSY"
	for _, k := range c.facts.Kprobes {
		if c.probed(&k) && k.Ftrace {
			c.add(KindHandler, Blocks, k.String(), "has a post handler or fault injection, which claims the function; %s", text)
			return
		}
	}
	who := "unknown"
	if len(t.Owners) > 0 {
		who = strings.Join(t.Owners, ", ")
	}
	if slices.Contains(t.Owners, kprobeHandler) {
		c.add(KindHandler, Blocks, who, "a kprobe with a post handler claims the function; %s", text)
		return
	}
	c.add(KindRedirect, Blocks, who, "redirects the function; %s", text)
}

// claimed reports whether a patch of a way, on or taken back, replaces the function.
func (c *claim) claimed(way string) bool {
	return slices.ContainsFunc(c.facts.Patches, func(p Patch) bool {
		return p.Way() == way && p.Claims(c.object, c.function.Name, c.function.Position)
	})
}

// kept judges a function that the shared handler redirects for a patch that was
// taken back: its ftrace_ops keeps all of its places while a patch that is on
// needs one of them. Patches of the same way take such a place over.
func (c *claim) kept() {
	if c.way() == WayShared {
		return
	}
	who := ""
	for _, p := range c.facts.Patches {
		switch {
		case p.Way() != WayShared || !p.Claims(c.object, c.function.Name, c.function.Position):
		case p.Enabled:
			return // it stands among the livepatches
		default:
			who = p.Name
		}
	}
	if who == "" {
		who = sharedHandler
	}
	c.add(KindRedirect, Blocks, who, "was taken back, but keeps its functions while a newer patch needs one of them; loading fails with EBUSY until that is reverted")
}

// bpfTrampoline begins the names of the code that calls BPF programs
// (kernel/bpf/trampoline.c, 6.12).
const bpfTrampoline = "bpf_trampoline_"

func (c *claim) direct(t *Traced) {
	if !t.Has(flagDirect) {
		return
	}
	who := t.Direct
	if who == "" {
		who = "unknown"
	}
	switch {
	case c.ours(t.Direct):
	case strings.HasPrefix(who, bpfTrampoline) && c.way() == WayDirect:
		c.add(KindBPF, Blocks, who, "ftrace calls one directly for a function: loading fails with EBUSY")
	case !strings.HasPrefix(who, bpfTrampoline):
		c.add(KindDirect, Blocks, who, "is called directly at the function's entry and cannot share it; loading fails with EBUSY")
	case c.facts.Release != "" && older(c.facts.Release, 6, 0):
		// Sharing between direct calls and livepatches came with 6.0.
		c.add(KindBPF, Blocks, who, "kernels before 6.0 do not let BPF and a livepatch share a function; loading fails with EBUSY")
	case c.programs():
	case c.overridable():
		c.add(KindBPF, Defeats, who, "if one of its programs is of the kinds fmod_ret or lsm, it can end the call before the patch is reached, "+
			"and nothing reports that; bpftool link shows the kinds").Certain = false
	default:
		c.add(KindBPF, Harmless, who, "BPF programs watch the function; they go on and see the replacement under the old name")
	}
}

// overridable reports whether a BPF program may decide what the function
// returns: functions that are marked for error injection, and the hooks of
// security modules (check_attach_modify_return in kernel/bpf/verifier.c, 6.12).
func (c *claim) overridable() bool {
	return c.facts.Injectable[c.function.Name] || strings.HasPrefix(c.function.Name, "security_") ||
		strings.HasPrefix(c.function.Name, "bpf_lsm_") || c.facts.Injectable == nil
}

func (c *claim) tracers(t *Traced) {
	var who []string
	for _, o := range t.Owners {
		if o != klpHandler && o != kprobeHandler && o != directHandler && o != sharedHandler && !t.Has(flagIPModify) {
			who = append(who, o)
		}
	}
	switch {
	case len(who) == 0:
	case c.facts.Injectable[c.function.Name]:
		c.add(KindTracer, Defeats, strings.Join(who, ", "), "if a BPF program is attached through it that overrides the return value, "+
			"it can end the call before the patch is reached, and nothing reports that").Certain = false
	default:
		c.add(KindTracer, Harmless, strings.Join(who, ", "), "watches the function's entry and goes on to; it sees the replacement under the old name")
	}
}

// probed reports whether a kprobe is in the function or in a part of it that
// the compiler moved away.
func (c *claim) probed(k *Kprobe) bool {
	module := c.object
	if module == manifest.Vmlinux {
		module = ""
	}
	name, part, _ := strings.Cut(k.Function, ".cold")
	return k.Module == module && name == c.function.Name && (part == "" || part[0] == '.')
}

func (c *claim) kprobes() {
	for i := range c.facts.Kprobes {
		k := &c.facts.Kprobes[i]
		who := func(x Conflict) bool { return x.Kind == KindHandler && x.Who == k.String() }
		if !c.probed(k) || slices.ContainsFunc(c.found, who) {
			continue
		}
		before := len(c.found)
		switch {
		case !k.Ftrace:
			text := "lies in the old body, which is no longer run: it never fires again"
			if k.Return {
				text = "sits on the old body, which is no longer run: it never fires again"
			}
			c.add(KindProbe, Breaks, k.String(), "%s", text)
		case c.facts.Injectable[c.function.Name]:
			c.add(KindProbe, Defeats, k.String(), "if a BPF program is attached that overrides the return value, or fault injection, "+
				"it can end the call before the patch is reached, and nothing reports that").Certain = false
		default:
			c.add(KindProbe, Harmless, k.String(), "sits on the function's entry and goes on firing")
		}
		if c.function.Position > 0 && before < len(c.found) {
			c.found[before].Certain = false
			c.found[before].Text += "; several functions have this name, it may be about another one"
		}
	}
}

// String names a kprobe: "kprobe meminfo_proc_show+0x1c".
func (k *Kprobe) String() string {
	kind := "kprobe"
	if k.Return {
		kind = "kretprobe"
	}
	s := fmt.Sprintf("%s %s+%#x", kind, k.Function, k.Offset)
	if k.Disabled {
		s += " (disabled)"
	}
	return s
}

// older reports whether a release is before a version; false for a release
// that does not begin with one.
func older(release string, major, minor int) bool {
	a, rest, _ := strings.Cut(release, ".")
	b, _, _ := strings.Cut(rest, ".")
	if i := strings.IndexFunc(b, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		b = b[:i]
	}
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x < major || x == major && y < minor)
}
