//go:build linux && (amd64 || arm64)

package process

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"livepatch/elfpatch"
	"livepatch/internal/live"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// Frames of a patch's functions are unwound by what the patch says of them in
// .eh_frame. The library code that does that, for exceptions and backtraces,
// finds such tables by asking the dynamic linker, which does not know the patch,
// and among those that a program has told it of: __register_frame_info
// (libgcc/unwind-dw2-fde.c of GCC, interface GCC_3.0). So that is called in the
// target. It takes a lock of the library, and allocates memory (since GCC 13), so
// the thread must be inside neither.

// unwinder is one copy of the library code in the target: libgcc_s, or what a
// program was linked with.
type unwinder struct {
	image         *resolve.Image
	register      uint64
	deregister    uint64
	code          []live.Range // that a thread must be outside of
	errnoLocation uint64
}

const (
	framesSection  = ".eh_frame"
	registerName   = "__register_frame_info"
	deregisterName = "__deregister_frame_info"
	raiseName      = "_Unwind_RaiseException"
	resumeName     = "_Unwind_Resume"
	llvmName       = "__unw_add_dynamic_fde" // of LLVM's, whose functions for tables of programs do nothing

	objectSize   = 112 // of what the library keeps about a table: 40 to 56 bytes
	registration = objectSize + 16
)

// findUnwinders finds out who is to be told of the patch's frames.
func (in *installation) findUnwinders() error {
	if in.target.Unwind == "" {
		return nil
	}
	needed := in.target.Unwind == manifest.UnwindNeeded
	f := &finder{p: in.p, scope: resolve.NewScope(in.p.mem, in.p.images)}
	for _, im := range in.p.images {
		if u, ok := f.in(im, needed && im == in.p.main()); ok {
			in.unwinders = append(in.unwinders, u)
		}
	}
	if len(in.unwinders) == 0 {
		if needed {
			return refusal.New(refusal.UnwindNeeded, in.where(), "an exception may meet the replacements, and none of its files has a %s that can be found", registerName)
		}
		return nil
	}
	if needed {
		if err := in.allTold(f); err != nil {
			return err
		}
	}
	in.record.Unwinders = make([]live.Unwinder, len(in.unwinders))
	return nil
}

// allTold makes sure that whoever throws an exception in the program or in the
// patched file, or lets it go on, is among those that are told.
func (in *installation) allTold(f *finder) error {
	told := func(im *resolve.Image) bool {
		return slices.ContainsFunc(in.unwinders, func(u unwinder) bool { return u.image == im })
	}
	if throws, err := f.scope.Lookup(raiseName, "", ""); err == nil {
		for _, im := range in.p.images {
			if im.Contains(throws-im.Bias, 1, elf.PF_X) && !told(im) {
				return refusal.New(refusal.UnwindNeeded, in.where(), "exceptions are unwound by %s, which is not libgcc's and cannot be told of a patch", im.Name())
			}
		}
	}
	resumes := func(im *manifest.Import) bool { return im.Symbol == resumeName && im.Kind == manifest.ImportTarget }
	for _, im := range []*resolve.Image{in.image, in.p.main()} {
		own := f.hasCopy(im) || im == in.image && slices.ContainsFunc(in.target.Imports, func(i manifest.Import) bool { return resumes(&i) })
		if own && !told(im) {
			return refusal.New(refusal.UnwindNeeded, in.where(), "%s has an unwinder of its own, whose %s cannot be found", im.Name(), registerName)
		}
	}
	return nil
}

// hasCopy reports whether an image was linked with a copy of libgcc's unwinder.
// That asks the dynamic linker for the files that are loaded, by a function that
// only unwinders use (GCC 12 and newer, with glibc 2.35 and newer) or few others,
// and who has it imports no other.
func (f *finder) hasCopy(im *resolve.Image) bool {
	asks, imports := false, false
	_ = f.scope.Imported(im, func(name string) {
		asks = asks || name == "_dl_find_object" || name == "dl_iterate_phdr"
		imports = imports || strings.HasPrefix(name, "_Unwind_")
	})
	return asks && !imports
}

// finder looks for unwinders.
type finder struct {
	p     *proc
	scope *resolve.Scope
}

// symbol is a function of an image.
type symbol struct {
	name       string
	addr, size uint64
}

// in looks for the unwinder of an image: by what it exports, and if deep also by
// all of its symbols.
func (f *finder) in(im *resolve.Image, deep bool) (u unwinder, ok bool) {
	u.image = im
	if _, llvm := f.scope.Defined(im, llvmName); llvm {
		return u, false
	}
	var known, exported bool
	u.register, known = f.scope.Defined(im, registerName)
	u.deregister, exported = f.scope.Defined(im, deregisterName)
	var symbols []symbol
	if (!known || !exported) && deep {
		symbols = f.p.allSymbols(im)
		u.register, u.deregister = addressOf(symbols, registerName), addressOf(symbols, deregisterName)
	}
	if u.register == 0 || u.deregister == 0 || addressOf(symbols, llvmName) != 0 {
		return u, false
	}
	if symbols == nil {
		u.code = append(u.code, executable(im, "the unwinder")...)
	} else {
		u.code = append(u.code, stretch(symbols, isUnwinding, "the unwinder")...)
	}
	u.code = append(u.code, f.dynamicLinker()...)
	allocator, ok := f.allocator(symbols)
	u.code = append(u.code, allocator...)
	u.errnoLocation, _ = f.scope.Lookup("__errno_location", "", "")
	if u.errnoLocation == 0 {
		u.errnoLocation = addressOf(symbols, "__errno_location")
	}
	return u, ok
}

// executable are the executable segments of an image.
func executable(im *resolve.Image, name string) (list []live.Range) {
	for _, s := range im.Segments {
		if s.Type == elf.PT_LOAD && s.Flags&elf.PF_X != 0 {
			list = append(list, live.Range{Start: im.Bias + s.VAddr, End: im.Bias + s.VAddr + s.MemSize, Name: name})
		}
	}
	return list
}

func (f *finder) dynamicLinker() []live.Range {
	base := auxValue(f.p.auxv, auxBase)
	for _, im := range f.p.images {
		if im.Base == base && base != 0 {
			return executable(im, "the dynamic linker")
		}
	}
	return nil
}

// allocator returns the code of the memory allocator: a library of its own, or,
// of the C library, the stretch between its neighbours. symbols are those of a
// static program.
func (f *finder) allocator(symbols []symbol) ([]live.Range, bool) {
	const name = "the memory allocator"
	addr, err := f.scope.Lookup("malloc", "", "")
	if err != nil {
		list := stretch(symbols, isAllocating, name)
		return list, len(list) > 0
	}
	for _, im := range f.p.images {
		if !im.Contains(addr-im.Bias, 1, elf.PF_X) {
			continue
		}
		if _, libc := f.scope.Defined(im, "__libc_start_main"); !libc && im != f.p.main() {
			return executable(im, name), true
		}
		var exported []symbol
		f.scope.Functions(im, func(name string, addr, size uint64) { exported = append(exported, symbol{name, addr, size}) })
		return stretch(exported, isAllocating, name), true
	}
	return nil, false
}

func isUnwinding(name string) bool {
	return strings.HasPrefix(name, "_Unwind_") || strings.HasPrefix(name, "__register_frame") || strings.HasPrefix(name, "__deregister_frame") ||
		strings.HasPrefix(name, "uw_") || strings.HasPrefix(name, "btree_") || strings.HasPrefix(name, "classify_object") || strings.HasPrefix(name, "search_object")
}

// isAllocating names what the allocators of glibc and musl export.
func isAllocating(name string) bool {
	name = strings.TrimPrefix(name, "__libc_")
	switch name {
	case "malloc", "free", "calloc", "realloc", "memalign", "aligned_alloc", "posix_memalign", "__posix_memalign", "valloc", "pvalloc", "cfree",
		"reallocarray", "malloc_trim", "malloc_usable_size", "__malloc_usable_size", "mallinfo", "mallinfo2", "mallopt", "__mallopt",
		"malloc_stats", "malloc_info", "__malloc_info", "freeres", "_int_malloc", "_int_free":
		return name != "freeres" && name != "reallocarray" && name != "cfree"
	}
	return false
}

// stretch is the code between the nearest neighbours of a family of functions that
// do not belong to it: functions without names that lie among them count, too.
func stretch(all []symbol, family func(string) bool, name string) (list []live.Range) {
	const widest = 1 << 20 // of what has no name, on either side
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b symbol) int { return cmp.Compare(a.addr, b.addr) })
	for i := 0; i < len(all); i++ {
		if !family(all[i].name) {
			continue
		}
		from := all[i].addr - min(widest, all[i].addr)
		if i > 0 {
			from = min(all[i].addr, max(from, all[i-1].addr+all[i-1].size))
		}
		to := all[i].addr
		for ; i < len(all) && family(all[i].name); i++ {
			to = max(to, all[i].addr+all[i].size)
		}
		next := to + widest
		if i < len(all) {
			next = min(next, max(to, all[i].addr))
		}
		list = append(list, live.Range{Start: from, End: next, Name: name})
	}
	return list
}

func addressOf(list []symbol, name string) uint64 {
	for i := range list {
		if list[i].name == name {
			return list[i].addr
		}
	}
	return 0
}

// maxProgram bounds the file whose symbols are read.
const maxProgram = 1 << 30

// allSymbols reads the functions of the program from its file, if that is still
// the one that runs.
func (p *proc) allSymbols(im *resolve.Image) []symbol {
	file, err := os.Open(p.path("exe"))
	if err != nil {
		return nil
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxProgram))
	if err != nil {
		return nil
	}
	f, err := elfpatch.Parse(b)
	if err != nil {
		return nil
	}
	id, err := f.BuildID()
	if err != nil || !slices.Equal(id, im.BuildID) {
		return nil
	}
	var list []symbol
	for _, s := range f.Symbols {
		if s.Type == elf.STT_FUNC && s.Section != elfpatch.Undefined {
			list = append(list, symbol{s.Name, im.Bias + s.Value, s.Size})
		}
	}
	return list
}

// spare is the memory that the calls of unwinders take.
func (in *installation) spare() (spare [parts]uint64) {
	n := uint64(len(in.unwinders))
	spare[partExec], spare[partWrite] = 2*n*trampoline.CallSize, n*registration
	return spare
}

// placeCalls notes where the patch's frames are described, writes the code that
// calls the unwinders, and notes where that is.
func (in *installation) placeCalls(exec []byte) error {
	frames := in.layout.obj.Section(framesSection)
	if frames == nil {
		return nil
	}
	base := in.record.Base
	in.record.Frames = live.Extent{Addr: base + in.layout.place[frames.Index], Size: frames.Size}
	code, data := in.layout.spare[partExec], base+in.layout.spare[partWrite]
	for i, u := range in.unwinders {
		r := &in.record.Unwinders[i]
		r.Object, r.Flag = data, data+objectSize
		data += registration
		for _, call := range []struct {
			at       *uint64
			function uint64
			value    live.Registration
		}{{&r.Tell, u.register, live.Registered}, {&r.Forget, u.deregister, live.Forgotten}} {
			b, err := trampoline.Call{
				Function: call.function, First: in.record.Frames.Addr, Second: r.Object, Flag: r.Flag, Value: byte(call.value), Errno: u.errnoLocation,
			}.Code(machine)
			if err != nil {
				return err
			}
			*call.at = base + code
			copy(exec[code-in.layout.sizes[partRead]:], b)
			code += trampoline.CallSize
		}
	}
	return nil
}

// variables is the writable part without what the unwinders keep there.
func (in *installation) variables() []byte {
	return in.memory[partWrite][:in.layout.spare[partWrite]-in.layout.sizes[partRead]-in.layout.sizes[partExec]]
}

// register tells the unwinders of the patch. Where an exception may meet it, they
// have to know it before anything leads to it.
func (in *installation) register(deadline time.Time, opt *Options) error {
	if in.target.Unwind != manifest.UnwindNeeded {
		const patience = 100 * time.Millisecond
		if soon := time.Now().Add(patience); soon.Before(deadline) {
			deadline = soon
		}
	}
	for i := range in.unwinders {
		if in.record.Unwinders[i].State == live.Registered {
			continue
		}
		err := in.p.tell(&in.record.Unwinders[i], live.Telling, in.unwinders[i].code, deadline, opt)
		var busy *BusyError
		if errors.As(err, &busy) && in.target.Unwind != manifest.UnwindNeeded {
			return nil // backtraces will end there
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tell lets a thread call an unwinder, to tell it of a patch or make it forget it.
// The thread must be outside of some code.
func (p *proc) tell(u *live.Unwinder, what live.Registration, outside []live.Range, deadline time.Time, opt *Options) error {
	code, want := u.Tell, live.Registered
	if what == live.Forgetting {
		code, want = u.Forget, live.Forgotten
	}
	ranges := live.NewRanges(outside)
	p.demand = func(t *thread) error { return p.outside(t, ranges) }
	defer func() { p.demand = nil }()
	_, err := retry(deadline, opt, func() error {
		return p.withThread(deadline, opt, func(c *injection) error {
			was := u.State
			if err := p.writeMem([]byte{byte(what)}, u.Flag, c.t); err != nil {
				return err
			}
			u.State = what
			opt.at("telling")
			if err := c.run(code); err != nil {
				return err
			}
			var have [1]byte
			if err := p.readMem(have[:], u.Flag); err != nil {
				return err
			}
			if u.State = live.Registration(have[0]); u.State != want {
				return fmt.Errorf("process %d: the call of its unwinder at %#x did not come to its end (was %d)", p.pid, code, was)
			}
			return nil
		})
	})
	opt.at("told")
	return err
}

// forget makes the unwinders forget a patch that nothing leads to, and that no
// thread is inside of.
func (p *proc) forget(r *live.Record, deadline time.Time, opt *Options) error {
	if !r.Known() {
		return nil
	}
	f := &finder{p: p, scope: resolve.NewScope(p.mem, p.images)}
	var outside []live.Range
	for _, im := range p.images {
		if u, ok := f.in(im, im == p.main()); ok {
			outside = append(outside, u.code...)
		}
	}
	for i := range r.Unwinders {
		switch u := &r.Unwinders[i]; u.State {
		case live.Registered, live.Forgetting:
			if err := p.tell(u, live.Forgetting, outside, deadline, opt); err != nil {
				return err
			}
		}
	}
	return nil
}

// outside makes sure that a thread is not inside of code: by its program counter,
// its registers and its stack. A word counts if a call stands before the place
// that it leads to.
func (p *proc) outside(t *thread, ranges *live.Ranges) error {
	inside := func(h live.Hit) error { return fmt.Errorf("it is in %s", h.Name) }
	if h, ok := ranges.PC(t.regs.pc()); ok {
		return inside(h)
	}
	c := checker{p: p, ranges: ranges, buf: make([]byte, 256<<10), signed: t.signedBits()}
	var words []byte
	for _, v := range t.regs.general() { // on arm64 one holds the last return address
		words = binary.LittleEndian.AppendUint64(words, v)
	}
	c.unsign(words)
	if h, ok := p.returns(words, ranges); ok {
		return inside(h)
	}
	start, end, err := c.stack(t)
	if err != nil {
		return err
	}
	for at := start; at < end; {
		n := min(uint64(len(c.buf)), end-at)
		if err := p.readMem(c.buf[:n], at); err != nil {
			return err
		}
		c.unsign(c.buf[:n])
		if h, ok := p.returns(c.buf[:n], ranges); ok {
			return inside(h)
		}
		at += n
	}
	return nil
}

// returns looks for return addresses into ranges.
func (p *proc) returns(b []byte, ranges *live.Ranges) (live.Hit, bool) {
	for len(b) >= 8 {
		h, off, ok := ranges.Words(b)
		if !ok {
			return h, false
		}
		word := binary.LittleEndian.Uint64(b[off:])
		var code [8]byte
		if p.readMem(code[:], word-8) != nil || live.MayEndWithCall(machine, code[:]) {
			return h, true
		}
		b = b[off+8:]
	}
	return live.Hit{}, false
}
