package build

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/kimage"
	"livepatch/internal/modcheck"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/manifest"
)

// showSource is an object of the kernel with a name that another one has too.
const showSource = kernelHeader + `
static int reads;
static noinline int scale(int x) { return helper(x) + reads; }
int show(struct seq_file *m, int x)
{
	mutex_lock(m);
	reads++;
	seq_puts(m, "before");
	mutex_unlock(m);
	return scale(x) * scale(x + 1);
}
noinline notrace int quiet(int x) { return helper(x) - 2; }
noinline init int early(int x) { return helper(x) - 3; }
int show_all(struct seq_file *m) { return show(m, 1) + show(m, 2) * 5; }
`

const twinSource = kernelHeader + `
static int reads = 7;
static noinline int scale(int x) { mutex_lock(&reads); return helper(x) * 9 - reads++; }
int twin(struct seq_file *m, int x)
{
	seq_puts(m, "twin");
	mutex_unlock(&reads);
	return scale(x) + scale(x * 2);
}
`

const widgetSource = kernelHeader + `
static int turns;
int widget_turn(struct seq_file *m, int x)
{
	mutex_lock(&turns);
	seq_puts(m, "widget");
	turns += helper(x);
	mutex_unlock(&turns);
	return turns;
}
`

func change(t testing.TB, source string, oldNew ...string) string {
	t.Helper()
	for i := 0; i < len(oldNew); i += 2 {
		if strings.Count(source, oldNew[i]) != 1 {
			t.Fatalf("%q is there %d times", oldNew[i], strings.Count(source, oldNew[i]))
		}
		source = strings.Replace(source, oldNew[i], oldNew[i+1], 1)
	}
	return source
}

// fixtures are a kernel, a module and pairs of objects of both.
type kernelFixture struct {
	r      kernelRecipe
	img    *kimage.Kernel
	widget *kimage.Module
	pairs  map[string]Pair
}

// newKernelFixture links what the sources before are, with the pairs of them
// that have a source after.
func newKernelFixture(t testing.TB, r kernelRecipe, after map[string]string) kernelFixture {
	f := kernelFixture{r: r, pairs: map[string]Pair{}}
	objects := map[string]string{}
	for name, before := range map[string]string{"show": showSource, "twin": twinSource, "widget": widgetSource} {
		text := after[name]
		if text == "" {
			text = before
		}
		f.pairs[name], objects[name] = r.pair(t, name, before, text)
	}
	f.img = r.image(t, objects["show"], objects["twin"])
	f.widget = r.module(t, "widget", objects["widget"])
	return f
}

func (f kernelFixture) inputs(names ...string) Inputs {
	var image, module []Pair
	for _, n := range names {
		if n == "widget" {
			module = append(module, f.pairs[n])
		} else {
			image = append(image, f.pairs[n])
		}
	}
	var targets []Target
	if len(image) > 0 {
		targets = append(targets, Target{Name: "vmlinuz", Pairs: image})
	}
	if len(module) > 0 {
		targets = append(targets, Target{Name: "widget.ko", Module: f.widget, Pairs: module})
	}
	return f.r.inputs(f.img, targets...)
}

func eachKernel(t *testing.T, test func(t *testing.T, r kernelRecipe)) {
	for _, r := range kernelRecipes {
		t.Run(r.name, func(t *testing.T) { test(t, r) })
	}
}

func kernelObject(t testing.TB, p *pack.Package, name string) manifest.KernelObject {
	t.Helper()
	for _, o := range p.Manifest.Kernel.Objects {
		if o.Name == name {
			return o
		}
	}
	t.Fatalf("no object %s in %+v", name, p.Manifest.Kernel.Objects)
	return manifest.KernelObject{}
}

func refusalCodes(t testing.TB, err error) []refusal.Code {
	t.Helper()
	var list refusal.List
	if !errors.As(err, &list) {
		t.Fatalf("got %v, want refusals", err)
	}
	var codes []refusal.Code
	for _, r := range list {
		codes = append(codes, r.Code)
	}
	slices.Sort(codes)
	return codes
}

func TestKernelImageAndModule(t *testing.T) {
	eachKernel(t, func(t *testing.T, r kernelRecipe) {
		f := newKernelFixture(t, r, map[string]string{
			"show": change(t, showSource, `"before"`, `"after, and longer"`),
			"twin": change(t, twinSource, "helper(x) * 9 - reads++", "helper(x) * 9 - reads++ - added(x)", "static int reads = 7;",
				"static int reads = 7;\nstatic int calls = 40;\nnoinline int added(int x) { return helper(x ^ calls++); }"),
			"widget": change(t, widgetSource, "helper(x);", "helper(x) + 5;"),
		})
		in := f.inputs("show", "twin", "widget")
		p, err := Create(in)
		if err != nil {
			t.Fatal(err)
		}
		k := p.Manifest.Kernel
		if k.Release != "6.99.0-test" || !strings.HasSuffix(k.Module, "fix") || !k.Replace || k.Vermagic != testVermagic {
			t.Errorf("manifest %+v", k)
		}
		core, module := kernelObject(t, p, "vmlinux"), kernelObject(t, p, "widget")
		checkFunction(t, f.img.File, core, "show")
		scale := checkFunction(t, f.img.File, core, "scale")
		if len(core.Functions) != 3 || len(module.Functions) != 1 || module.Functions[0].Name != "widget_turn" {
			t.Errorf("vmlinux %+v\nwidget %+v", core.Functions, module.Functions)
		}
		checkFunction(t, f.img.File, core, "show_all") // which has show inlined
		// Two objects have a function and a variable of these names, in this order.
		if scale.Position != 2 {
			t.Errorf("scale has position %d of two", scale.Position)
		}
		for _, s := range core.Symbols {
			if s.Name == "reads" && s.Position == 0 {
				t.Errorf("reads without a position: %+v", s)
			}
		}
		section := f.widget.File.Section(module.Functions[0].Section)
		if sum := sha256.Sum256(section.Data[:module.Functions[0].Size]); !bytes.Equal(sum[:], module.Functions[0].SHA256) {
			t.Error("the bytes of widget_turn are not those of the module's file")
		}
		member := p.Members[manifest.KernelMember]
		if report := modcheck.Check(member, modcheck.Set{Kernel: f.img, Exports: in.Kernel.Symvers, Modules: []*kimage.Module{f.widget}}); report.Refusals().Err() != nil {
			t.Error(report.Refusals())
		}
		ko, err := elfpatch.Parse(member)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"show", "widget_turn", "added"} {
			if s := symbolOf(t, ko, name); s.Section <= 0 {
				t.Errorf("the module does not define %s", name)
			}
		}
		again, err := Create(in)
		if err != nil || !bytes.Equal(again.Members[manifest.KernelMember], member) {
			t.Errorf("the second run made something else: %v", err)
		}
	})
}

// checkFunction compares what the manifest says of a function with the image.
func checkFunction(t *testing.T, img *elfpatch.File, o manifest.KernelObject, name string) (fn manifest.KernelFunction) {
	t.Helper()
	for _, fn := range o.Functions {
		if fn.Name != name {
			continue
		}
		body, ok := img.ReadAddr(fn.Address, int(fn.Size))
		if sum := sha256.Sum256(body); !ok || !bytes.Equal(sum[:], fn.SHA256) {
			t.Errorf("%s is not at %#x", name, fn.Address)
		}
		if fn.Site.Address < fn.Address || fn.Site.Address > fn.Address+8 || len(fn.Site.Expected) == 0 {
			t.Errorf("%s has site %+v", name, fn.Site)
		}
		return fn
	}
	t.Fatalf("%s is not replaced", name)
	return fn
}

func TestKernelNothingToPatch(t *testing.T) {
	eachKernel(t, func(t *testing.T, r kernelRecipe) {
		// A new function that nothing calls does nothing.
		for _, more := range []string{"", "int unused(int x) { return helper(x); }\n"} {
			f := newKernelFixture(t, r, map[string]string{"show": showSource + more})
			if _, err := Create(f.inputs("show", "widget")); !errors.Is(err, ErrNothingToPatch) {
				t.Errorf("%q: got %v", more, err)
			}
		}
	})
}

const callback = "static void lp_ready(void *o) { (void)o; _printk(\"ready\"); }\nCALLBACK(post_patch, lp_ready);\n"

func TestKernelCallbacks(t *testing.T) {
	eachKernel(t, func(t *testing.T, r kernelRecipe) {
		f := newKernelFixture(t, r, map[string]string{"show": showSource + callback, "twin": twinSource + callback, "widget": widgetSource + callback})
		p, err := Create(f.inputs("show", "widget"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"vmlinux", "widget"} {
			o := kernelObject(t, p, name)
			if len(o.Functions) != 0 || len(o.Callbacks) != 1 || o.Callbacks[0].Kind != "post_patch" {
				t.Errorf("%+v", o)
			}
		}
		_, err = Create(f.inputs("show", "twin"))
		if got := refusalCodes(t, err); !slices.Equal(got, []refusal.Code{refusal.CallbackDuplicate}) {
			t.Errorf("two callbacks of a kind: %v", err)
		}
	})
}

func TestKernelRefuses(t *testing.T) {
	fixed := change(t, showSource, `"before"`, `"after"`)
	for name, tc := range map[string]struct {
		after map[string]string
		use   []string
		edit  func(f *kernelFixture, in *Inputs)
		want  []refusal.Code
	}{
		"unknown symbol": {
			after: map[string]string{"show": change(t, showSource, "helper(x) + reads", "helper(x) + reads + missing(x)", "static int reads;", "static int reads;\nextern int missing(int);")},
			use:   []string{"show"}, want: []refusal.Code{refusal.SymbolNotFound},
		},
		"initial value": {
			after: map[string]string{"twin": change(t, twinSource, "reads = 7", "reads = 8", `"twin"`, `"twins"`)},
			use:   []string{"twin"}, want: []refusal.Code{refusal.DataChanged},
		},
		"function without a site": {
			after: map[string]string{"show": change(t, showSource, "helper(x) - 2", "helper(x) - 12")},
			use:   []string{"show"}, want: []refusal.Code{refusal.NoPatchSite},
		},
		"function that runs at boot": {
			after: map[string]string{"show": change(t, showSource, "helper(x) - 3", "helper(x) - 13")},
			use:   []string{"show"}, want: []refusal.Code{refusal.InitTextChanged},
		},
		"kernel without livepatch": {
			after: map[string]string{"show": fixed}, use: []string{"show"},
			edit: func(_ *kernelFixture, in *Inputs) {
				in.Kernel.Flavour = manifest.FlavourKLP
				delete(in.Kernel.Symvers, "klp_enable_patch")
			},
			want: []refusal.Code{refusal.NoLivepatch},
		},
		"module of another kernel": {
			after: map[string]string{"widget": change(t, widgetSource, "helper(x)", "helper(x + 1)")}, use: []string{"widget"},
			edit: func(f *kernelFixture, in *Inputs) {
				m := *f.widget
				m.Vermagic = "6.98.0-test SMP mod_unload "
				in.Targets[0].Module = &m
			},
			want: []refusal.Code{refusal.WrongTarget},
		},
		"pair of the module for the image": {
			after: map[string]string{"widget": change(t, widgetSource, "helper(x)", "helper(x + 1)")}, use: []string{"show"},
			edit: func(f *kernelFixture, in *Inputs) { in.Targets[0].Pairs = []Pair{f.pairs["widget"]} },
			want: []refusal.Code{refusal.NotTheRunningCode},
		},
		"pair the wrong way round": {
			after: map[string]string{"show": fixed + "int more(int x) { return helper(x); }\n"}, use: []string{"show"},
			edit: func(f *kernelFixture, in *Inputs) {
				p := in.Targets[0].Pairs
				p[0].Orig, p[0].Patched = p[0].Patched, p[0].Orig
			},
			want: []refusal.Code{refusal.NotTheRunningCode, refusal.NotTheRunningCode}, // show is in show_all too
		},
		"versions of another build": {
			after: map[string]string{"show": fixed}, use: []string{"show"},
			edit: func(f *kernelFixture, in *Inputs) {
				in.Kernel.Symvers["_printk"] = kimage.Export{Name: "_printk", Module: "vmlinux", CRC: 1, HasCRC: true}
				in.Kernel.Image.Vermagic += "modversions "
			},
			want: []refusal.Code{refusal.NotExported},
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachKernel(t, func(t *testing.T, r kernelRecipe) {
				f := newKernelFixture(t, r, tc.after)
				in := f.inputs(tc.use...)
				if tc.edit != nil {
					tc.edit(&f, &in)
				}
				_, err := Create(in)
				if got := refusalCodes(t, err); !slices.Equal(got, tc.want) {
					t.Errorf("got %v, want %v: %v", got, tc.want, err)
				}
			})
		})
	}
}

// A byte of the function that differs in the image is found, wherever it is.
func TestKernelOneByteDiffers(t *testing.T) {
	eachKernel(t, func(t *testing.T, r kernelRecipe) {
		f := newKernelFixture(t, r, map[string]string{"show": change(t, showSource, `"before"`, `"after"`)})
		show := symbolOf(t, f.img.File, "show")
		text := f.img.File.Section(".text")
		for off := uint64(0); off < show.Size; off += 5 {
			at := show.Value - text.Addr + off
			text.Data[at] ^= 0x41 // in place: segments share these bytes
			if _, err := Create(f.inputs("show")); err == nil {
				t.Errorf("byte %#x of show may differ", off)
			}
			text.Data[at] ^= 0x41
		}
		if _, err := Create(f.inputs("show")); err != nil {
			t.Error(err)
		}
	})
}

// A kernel that checks indirect calls takes no module of ours, on both machines: what
// it calls would lack the hash of its type.
func TestKernelKCFI(t *testing.T) {
	eachKernel(t, func(t *testing.T, r kernelRecipe) {
		f := newKernelFixture(t, r, map[string]string{"show": change(t, showSource, `"before"`, `"after"`)})
		in := f.inputs("show")
		in.Kernel.Image.Symbols = append(in.Kernel.Image.Symbols, kimage.Symbol{Name: "report_cfi_failure", Addr: ^uint64(0), Type: 'T'})
		in.Kernel.Image.Reindex()
		for _, flavour := range []string{manifest.FlavourKLP, manifest.FlavourDirect} {
			in.Kernel.Flavour = flavour
			_, err := Run(in)
			if err == nil || !strings.Contains(err.Error(), "the kernel checks indirect calls (kCFI)") {
				t.Errorf("%s: %v", flavour, err)
			}
		}
	})
}
