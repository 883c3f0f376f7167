//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"livepatch/elfpatch"
	"livepatch/internal/check"
	"livepatch/internal/live"
	"livepatch/internal/pack"
	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
	"livepatch/manifest"
	"livepatch/trampoline"
)

// installation is the patch of one image of one process.
type installation struct {
	p        *proc
	target   *manifest.Target
	requires []manifest.Requirement
	image    *resolve.Image
	layout   *layout
	imports  map[string]uint64
	window   window
	record   live.Record
	writes   []live.Write  // of all redirects; hosted functions need none
	hosted   map[int]bool  // functions that an earlier patch hosts
	guest    bool          // it hosts no function that a patch of the process hosts, itself included
	was      live.Control  // of the record in the target
	mapped   bool          // by this loader
	reused   bool          // mapped by an earlier one, for the same patch
	memory   [parts][]byte // linked for record.Base
	data     []byte        // the writable part, if it is to be written while nobody runs

	unwinders []unwinder // that are to be told of it, in the order of the record's
}

// prepare finds the target of one part of a package in the process and makes
// everything ready that does not depend on where the patch will lie. The error
// lists every reason against it. stay are the patches that stay applied.
func (p *proc) prepare(pkg *pack.Package, index int, digest [32]byte, stay []*live.Record) (*installation, error) {
	t := &pkg.Manifest.Targets[index]
	if t.Machine != manifestMachine {
		return nil, refusal.New(refusal.Unsupported, t.Name, "this loader patches %s processes, and the package is for %s", machineName, t.Machine)
	}
	im, err := p.findImage(t)
	if err != nil {
		return nil, err
	}
	// From here on the image is the very file that the package was made for.
	in := &installation{p: p, target: t, requires: pkg.Manifest.Requires, image: im}
	if err := in.readPayload(pkg.Members[t.Payload.Member]); err != nil {
		return nil, err
	}
	if err := in.fillRecord(pkg.Manifest, digest); err != nil {
		return nil, err
	}
	in.record.Symbols = in.symbols()
	if err := in.findUnwinders(); err != nil {
		return nil, err
	}
	if in.layout, err = layOut(in.layout.obj, uint64(len(in.record.Encode())), in.spare()); err != nil {
		return nil, refusal.New(refusal.Unsupported, t.Name, "%v", err)
	}
	in.record.Sizes = in.layout.sizes
	list := in.claims(stay)
	if len(list) == 0 {
		list = append(list, in.bytesExpected()...)
	}
	list = append(list, in.resolveImports()...)
	if len(list) > 0 {
		return nil, list.Err()
	}
	// Every symbol has an address, every site its expected bytes.
	in.window = in.layout.needs(in.sites(), in.imports)
	if len(in.candidates()) == 0 {
		return nil, in.outOfReach()
	}
	return in, nil
}

func (in *installation) where() string {
	return fmt.Sprintf("process %d: %s", in.p.pid, in.target.Name)
}

// findImage finds the image with the target's build-id.
func (p *proc) findImage(t *manifest.Target) (*resolve.Image, error) {
	var found []*resolve.Image
	var namesake *resolve.Image
	for _, im := range p.images {
		switch {
		case len(t.BuildID) > 0 && bytes.Equal(im.BuildID, t.BuildID):
			found = append(found, im)
		case len(t.BuildID) == 0 && p.sameDigest(im, t.SHA256):
			found = append(found, im)
		case im.Name() == t.Name || im == p.images[0] && namesake == nil && t.Kind != manifest.KindLibrary:
			namesake = im
		}
	}
	where := fmt.Sprintf("process %d", p.pid)
	switch {
	case len(found) == 1:
		if t.Machine == manifestMachine && found[0].Machine != machine {
			return nil, refusal.New(refusal.WrongTarget, where, "%s is mapped for %v", t.Name, found[0].Machine)
		}
		return found[0], nil
	case len(found) > 1:
		return nil, refusal.New(refusal.Unsupported, where, "%s is mapped %d times", t.Name, len(found))
	case namesake != nil:
		return nil, refusal.New(refusal.WrongTarget, where, "%s is %s, the package was made for %s of %s",
			namesake.Path, p.identity(namesake), identity(t.BuildID, t.SHA256), t.Name)
	}
	return nil, refusal.New(refusal.WrongTarget, where, "it maps no %s that is %s", t.Name, identity(t.BuildID, t.SHA256))
}

// identity says in words what a file is known by: its build-id, or for want of
// that the digest of what is loaded read-only.
func identity(id, digest []byte) string {
	if len(id) > 0 {
		return "build " + hex.EncodeToString(id)
	}
	return "a build without id, SHA-256 " + hex.EncodeToString(digest)
}

func (p *proc) identity(im *resolve.Image) string {
	if len(im.BuildID) > 0 {
		return identity(im.BuildID, nil)
	}
	sum, err := im.Digest(p.patches.Pristine(p.mem))
	if err != nil {
		return "a build without id"
	}
	return identity(nil, sum[:])
}

func (p *proc) sameDigest(im *resolve.Image, want []byte) bool {
	if im.BuildID != nil || len(want) == 0 {
		return false
	}
	// Patches that are applied are no other file.
	sum, err := im.Digest(p.patches.Pristine(p.mem))
	return err == nil && bytes.Equal(sum[:], want)
}

// readPayload parses the object and checks what the manifest says of it.
func (in *installation) readPayload(b []byte) error {
	obj, err := elfpatch.Parse(b)
	if err != nil {
		return refusal.New(refusal.PackageDamaged, in.target.Payload.Member, "%v", err)
	}
	if obj.Type != elf.ET_REL || obj.Machine != machine {
		return refusal.New(refusal.Unsupported, in.target.Payload.Member, "it is no %s object", machineName)
	}
	in.layout = &layout{obj: obj}
	return nil
}

// fillRecord makes the record as far as it is known: its length is final.
func (in *installation) fillRecord(m *manifest.Manifest, digest [32]byte) error {
	owner, err := self()
	if err != nil {
		return err
	}
	t, bias := in.target, in.image.Bias
	in.record = live.Record{
		Control: live.Control{State: live.Preparing, Sequence: in.p.patches.NextSequence(), Owner: owner},
		Name:    m.Name, Digest: digest, Target: t.Name, BuildID: t.BuildID, Bias: bias,
	}
	in.was = in.record.Control
	for _, r := range m.Requires {
		in.record.Requires = append(in.record.Requires, [32]byte(r.SHA256))
	}
	for i := range t.Functions {
		f := &t.Functions[i]
		g := live.Function{Name: f.Name, Old: bias + f.Address, OldSize: f.Size, NewSize: f.NewSize}
		for _, x := range f.Extra {
			g.Outlined = append(g.Outlined, live.Extent{Addr: bias + x.Address, Size: x.Size})
		}
		in.record.Functions = append(in.record.Functions, g)
	}
	in.writes = nil
	for i := range t.Writes {
		w := &t.Writes[i]
		in.writes = append(in.writes, live.Write{
			Function: w.Function, Addr: bias + w.Address,
			Old: bytes.Clone(w.Expected), New: make([]byte, w.Length),
		})
	}
	in.findSlots()
	in.record.Writes = in.ownWrites()
	if t.Version() != "" && t.Dispatch() != manifest.DispatchSlot {
		in.record.Writes = append(in.record.Writes, live.Write{Function: live.Whole, Old: []byte{0}, New: []byte{1}})
	}
	return nil
}

// ownWrites are those of functions that no other patch hosts.
func (in *installation) ownWrites() []live.Write {
	return slices.DeleteFunc(slices.Clone(in.writes), func(w live.Write) bool {
		return in.hosted[w.Function]
	})
}

// symbols are the names of the payload's code besides the replacements, each with
// its size; where they are is known once the patch has a place.
func (in *installation) symbols() (list []live.Symbol) {
	for i := range in.layout.obj.Symbols {
		s := &in.layout.obj.Symbols[i]
		named := s.Type == elf.STT_FUNC && s.Name != "" && s.Section > 0 && s.Section < len(in.layout.obj.Sections)
		if named && !slices.ContainsFunc(in.target.Functions, func(f manifest.Function) bool { return f.Replacement == s.Name }) {
			list = append(list, live.Symbol{Name: s.Name, Size: s.Size})
		}
	}
	return list
}

// claims compares the patch with those that stay applied, and refuses one that
// is applied already.
func (in *installation) claims(stay []*live.Record) refusal.List {
	for _, r := range in.p.patches.Applied() {
		same := r.Digest == in.record.Digest || slices.Contains(stay, r) && r.Name == in.record.Name
		if same && r.Bias == in.image.Bias {
			return refusal.List{refusal.New(refusal.AlreadyApplied, in.where(), "patch %s is applied already", r.Name)}
		}
	}
	var list refusal.List
	for _, digest := range live.Missing(&in.record, stay) {
		list = append(list, refusal.New(refusal.RequirementMissing, in.where(), "patch %s builds on %s, which is not applied", in.record.Name, in.required(digest)))
	}
	for _, c := range live.Claims(&in.record, stay) {
		list = append(list, refusal.New(refusal.FunctionClaimed, in.where(), "patch %s has replaced %s, and patch %s does not build on it", c.Owner.Name, c.Function, in.record.Name))
	}
	return list
}

// required names a package that this one builds on.
func (in *installation) required(digest [32]byte) string {
	for _, r := range in.requires {
		if bytes.Equal(r.SHA256, digest[:]) {
			return fmt.Sprintf("patch %s (manifest %x)", r.Name, digest[:8])
		}
	}
	panic("BUG: a digest that is not in the manifest")
}

// bytesExpected compares the whole old functions and the sites with what the
// package was made against.
func (in *installation) bytesExpected() refusal.List {
	pristine := in.p.patches.Pristine(in.p.mem)
	var steps []live.Step
	for _, w := range in.writes {
		steps = append(steps, live.Step{Record: &in.record, Function: w.Function, Addr: w.Addr, Old: w.Old, New: w.New})
	}
	list := in.p.sites(pristine, steps)
	if len(list) > 0 {
		return list
	}
	for i := range in.target.Functions {
		f := &in.target.Functions[i]
		where := in.where() + ": " + f.Name
		if !in.image.Contains(f.Address, f.Size, elf.PF_X) {
			list = append(list, refusal.New(refusal.WrongTarget, where, "%#x, %#x bytes, is not in its code", f.Address, f.Size))
			continue
		}
		body := make([]byte, f.Size)
		if n, _ := pristine.ReadAt(body, int64(in.image.Bias+f.Address)); n != len(body) {
			list = append(list, refusal.New(refusal.SiteChanged, where, "it cannot be read"))
			continue
		}
		if sum := sha256.Sum256(body); len(f.SHA256) > 0 && !bytes.Equal(sum[:], f.SHA256) {
			list = append(list, refusal.New(refusal.SiteChanged, where, "its code is not what the target file holds"))
		}
	}
	return list
}

// resolveImports finds the value of every import.
func (in *installation) resolveImports() refusal.List {
	var list refusal.List
	in.imports = map[string]uint64{}
	scope := resolve.NewScope(in.p.mem, in.p.images)
	for i := range in.target.Imports {
		im := &in.target.Imports[i]
		switch im.Kind {
		case manifest.ImportTarget:
			in.imports[im.Symbol] = in.image.Bias + im.Address
		case manifest.ImportTLSOffset:
			if in.image != in.p.main() {
				list = append(list, refusal.New(refusal.TLSModel, in.where(), "%s is thread-local, and only the program's own block has a fixed place", im.Symbol))
			}
			in.imports[im.Symbol] = uint64(im.Offset)
		case manifest.ImportDynamic:
			addr, err := scope.Lookup(im.Name, im.Version, im.Library)
			if err != nil {
				list = append(list, refusal.New(refusal.SymbolNotFound, in.where(), "%v", err))
			}
			in.imports[im.Symbol] = addr
		}
	}
	for i := range in.target.Functions {
		f := &in.target.Functions[i]
		if _, size, ok := in.layout.symbol(f.Replacement, 0); !ok || size != 0 && size != f.NewSize {
			list = append(list, refusal.New(refusal.PackageDamaged, in.target.Payload.Member, "replacement %s is missing or has another size", f.Replacement))
		}
	}
	return list
}

func (p *proc) main() *resolve.Image { return resolve.Main(p.images, p.entry) }

func (in *installation) sites() []uint64 {
	var list []uint64
	for i := range in.writes {
		list = append(list, in.writes[i].Addr)
	}
	return list
}

// candidates are the addresses at which the patch could be mapped now.
func (in *installation) candidates() []uint64 {
	return candidates(in.p.maps, in.window, in.record.Size(), in.writes[0].Addr)
}

func (in *installation) outOfReach() error {
	return refusal.New(refusal.OutOfReach, in.where(), "no %#x free bytes within %#x to %#x", in.record.Size(), in.window.low, in.window.high)
}

// linkNearest links the patch for the nearest place that is free now.
func (in *installation) linkNearest() error {
	list := in.candidates()
	if len(list) == 0 {
		return in.outOfReach()
	}
	return in.link(list[0])
}

// link fixes the place of the patch: from then on every byte of it, and of the
// writes, is final.
func (in *installation) link(base uint64) error {
	memory, err := in.layout.link(base, in.imports)
	if err != nil {
		return fmt.Errorf("%s: %w", in.where(), err)
	}
	in.record.Base = base
	for i := range in.record.Functions {
		in.record.Functions[i].New, _, _ = in.layout.symbol(in.target.Functions[i].Replacement, base)
	}
	for i := range in.record.Symbols {
		in.record.Symbols[i].Addr, _, _ = in.layout.symbol(in.record.Symbols[i].Name, base)
	}
	for i := range in.target.Writes {
		if err := in.fill(&in.target.Writes[i], &in.writes[i]); err != nil {
			return fmt.Errorf("%s: %w", in.where(), err)
		}
	}
	copy(in.record.Writes, in.ownWrites()) // behind them is that of the version, if there is one
	if err := in.placePieces(); err != nil {
		return fmt.Errorf("%s: %w", in.where(), err)
	}
	if err := in.placeCalls(memory[partExec]); err != nil {
		return fmt.Errorf("%s: %w", in.where(), err)
	}
	copy(memory[partRead], in.record.Encode())
	in.memory = memory
	if err := in.dispatched(); err != nil {
		return err
	}
	in.clearRecords()
	return nil
}

// dispatched makes sure that every redirect leads to its replacement.
func (in *installation) dispatched() error {
	old := in.p.patches.Pristine(in.p.mem)
	read := func(mem io.ReaderAt, addr uint64, n int) []byte {
		b := make([]byte, n)
		got, _ := mem.ReadAt(b, int64(addr))
		return b[:got]
	}
	now := patched{old: old, in: in, written: map[uint64]byte{}}
	for _, w := range in.writes {
		for i, v := range w.New {
			now.written[w.Addr+uint64(i)] = v
		}
	}
	err := check.Dispatch(in.target, check.Memory{
		Machine: machine, Bias: in.image.Bias,
		Old:  func(addr uint64, n int) []byte { return read(old, addr, n) },
		Read: func(addr uint64, n int) []byte { return read(now, addr, n) },
		Symbol: func(name string) (uint64, bool) {
			addr, _, ok := in.layout.symbol(name, in.record.Base)
			return addr, ok
		},
	})
	if err != nil {
		return refusal.New(refusal.PackageDamaged, in.where(), "%v", err)
	}
	return nil
}

// patched is a process as it will be when the patch is applied.
type patched struct {
	old     io.ReaderAt
	in      *installation
	written map[uint64]byte
}

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	at := p.in.record.Base
	for _, part := range p.in.memory {
		if addr := uint64(off); addr >= at && addr-at < uint64(len(part)) {
			return copy(b, part[addr-at:]), nil
		}
		at += uint64(len(part))
	}
	n, err := p.old.ReadAt(b, off)
	for i := range b[:n] {
		if v, ok := p.written[uint64(off)+uint64(i)]; ok {
			b[i] = v
		}
	}
	return n, err
}

// fill puts addresses into the holes of a write.
func (in *installation) fill(w *manifest.Write, out *live.Write) error {
	if len(w.Holes) == 0 {
		copy(out.New, w.Template)
		return nil
	}
	tmpl := trampoline.Template{Addr: w.Address, Expected: w.Expected, Bytes: w.Template}
	symbol := w.Holes[0].Symbol
	for _, h := range w.Holes {
		if h.Symbol != symbol {
			return errors.New("a write refers to two symbols")
		}
		tmpl.Holes = append(tmpl.Holes, trampoline.Hole{Off: h.Offset, Kind: trampoline.HoleKind(h.Kind)})
	}
	addr, _, ok := in.layout.symbol(symbol, in.record.Base)
	if !ok {
		return fmt.Errorf("the payload lacks %s", symbol)
	}
	b, err := tmpl.Fill(addr, in.image.Bias)
	copy(out.New, b)
	return err
}
