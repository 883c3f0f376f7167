package klp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"livepatch/internal/kimage"
	"livepatch/internal/kstate"
)

// Commands and sizes of bpf(2): include/uapi/linux/bpf.h (6.12).
const (
	bpfProgByID   = 13
	bpfInfoByFD   = 15
	bpfBTFByID    = 19
	bpfLinkByID   = 30
	bpfNextLink   = 31
	bpfTracing    = 2 // type of a link
	bpfInfoRoom   = 256
	bpfNameLength = 16
	maxLinks      = 100000
)

// bpfKinds are the attach types of programs that BPF trampolines call.
var bpfKinds = map[uint32]string{24: kstate.BPFEntry, 25: kstate.BPFExit, 26: kstate.BPFModifyReturn, 27: kstate.BPFLSM}

// bpf makes the system call; attr is changed by the kernel.
func bpf(cmd uintptr, attr []byte) (int, error) {
	r, _, no := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if no != 0 {
		return 0, no
	}
	return int(r), nil
}

// bpfInfo is what the kernel tells about an object of bpf(2) with a number.
func bpfInfo(open uintptr, id uint32) ([]byte, error) {
	attr := make([]byte, 16)
	binary.NativeEndian.PutUint32(attr, id)
	fd, err := bpf(open, attr)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	info := make([]byte, bpfInfoRoom)
	var pin runtime.Pinner
	pin.Pin(&info[0])
	defer pin.Unpin()
	clear(attr)
	binary.NativeEndian.PutUint32(attr, uint32(fd))
	binary.NativeEndian.PutUint32(attr[4:], bpfInfoRoom)
	binary.NativeEndian.PutUint64(attr[8:], uint64(uintptr(unsafe.Pointer(&info[0]))))
	if _, err := bpf(bpfInfoByFD, attr); err != nil {
		return nil, err
	}
	return info, nil
}

// BPF lists the programs that are attached to functions of the kernel image
// through BPF trampolines. Those attached to functions of modules are listed
// without a function.
func (m machine) BPF() ([]kstate.BPFLink, error) {
	var links []kstate.BPFLink
	var funcs map[uint32]string
	attr := make([]byte, 16)
	for range maxLinks {
		_, err := bpf(bpfNextLink, attr)
		if errors.Is(err, unix.ENOENT) {
			return links, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list BPF links: %w", err)
		}
		// The next number is in the second word and is the first of the next call.
		id := binary.NativeEndian.Uint32(attr[4:])
		clear(attr)
		binary.NativeEndian.PutUint32(attr, id)
		info, err := bpfInfo(bpfLinkByID, id)
		if errors.Is(err, unix.ENOENT) {
			continue // it went away
		}
		if err != nil {
			return nil, fmt.Errorf("read BPF link %d: %w", id, err)
		}
		word := func(at int) uint32 { return binary.NativeEndian.Uint32(info[at:]) }
		kind := bpfKinds[word(16)]
		if word(0) != bpfTracing || kind == "" {
			continue
		}
		if funcs == nil {
			if funcs, err = m.functions(); err != nil {
				return nil, err
			}
		}
		link := kstate.BPFLink{ID: id, Kind: kind, Program: programName(word(8))}
		if isVmlinux(word(20)) {
			link.Function = funcs[word(24)]
		}
		links = append(links, link)
	}
	return nil, fmt.Errorf("list BPF links: more than %d", maxLinks)
}

// functions are the functions of the kernel image, by their numbers in its BTF.
func (m machine) functions() (map[uint32]string, error) {
	b, err := fs.ReadFile(m.Files(), "sys/kernel/btf/vmlinux")
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	return kimage.Funcs(b)
}

// programName is the name that the author of a BPF program gave it, as far as
// the kernel keeps it; it is 64 bytes into struct bpf_prog_info.
func programName(id uint32) string {
	info, err := bpfInfo(bpfProgByID, id)
	if err != nil {
		return ""
	}
	name, _, _ := bytes.Cut(info[64:64+bpfNameLength], []byte{0})
	return string(name)
}

// isVmlinux reports whether a number is that of the BTF of the kernel image:
// one of the kernel, and with a name of 8 bytes, NUL included (struct
// bpf_btf_info). The names of modules are looked at too: "vmlinux" is none.
func isVmlinux(id uint32) bool {
	attr := make([]byte, 16)
	binary.NativeEndian.PutUint32(attr, id)
	fd, err := bpf(bpfBTFByID, attr)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, name := make([]byte, 32), make([]byte, 64)
	var pin runtime.Pinner
	pin.Pin(&info[0])
	pin.Pin(&name[0])
	defer pin.Unpin()
	binary.NativeEndian.PutUint64(info[16:], uint64(uintptr(unsafe.Pointer(&name[0]))))
	binary.NativeEndian.PutUint32(info[24:], uint32(len(name)))
	clear(attr)
	binary.NativeEndian.PutUint32(attr, uint32(fd))
	binary.NativeEndian.PutUint32(attr[4:], uint32(len(info)))
	binary.NativeEndian.PutUint64(attr[8:], uint64(uintptr(unsafe.Pointer(&info[0]))))
	if _, err := bpf(bpfInfoByFD, attr); err != nil {
		return false
	}
	text, _, _ := bytes.Cut(name, []byte{0})
	return string(text) == "vmlinux"
}
