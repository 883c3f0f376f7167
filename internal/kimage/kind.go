package kimage

import (
	"debug/elf"
	"slices"

	"livepatch/elfpatch"
)

// Kind says what a file is to a user.
type Kind int

const (
	Program      Kind = iota // an executable or a shared library
	KernelImage              // vmlinux, bzImage, arm64 Image, compressed or not
	KernelModule             // .ko, compressed or not
	Object                   // any other relocatable object
)

var kindNames = [...]string{Program: "program", KernelImage: "kernel", KernelModule: "module", Object: "object"}

func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// kernelHalf is the lowest address of the upper half, which belongs to the
// kernel on both machines.
const kernelHalf = 1 << 63

// KindOf says what a file is. Kernels are linked at addresses that no program
// can have; modules have a section that the kernel looks for. The error says that
// it is none of these.
func KindOf(b []byte) (Kind, error) {
	raw, err := Unpack(b)
	if err != nil {
		return 0, err
	}
	if isARM64Image(raw) {
		return KernelImage, nil
	}
	f, err := elfpatch.Parse(raw)
	if err != nil {
		return 0, err
	}
	if f.Type == elf.ET_REL {
		if f.Section(".gnu.linkonce.this_module") != nil {
			return KernelModule, nil
		}
		return Object, nil
	}
	if slices.ContainsFunc(f.Segments, isKernelSegment) {
		return KernelImage, nil
	}
	return Program, nil
}

func isKernelSegment(p elfpatch.Segment) bool { return p.Type == elf.PT_LOAD && p.VAddr >= kernelHalf }
