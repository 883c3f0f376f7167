// Command bpf attaches a BPF program to a function of the running kernel that
// returns a number and calls nothing else: bpf KIND FUNCTION RETURN. It says
// "attached" and stays until it is killed.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"livepatch/internal/kimage"
)

func main() {
	kinds := map[string]uint32{"fentry": 24, "fexit": 25, "fmod_ret": 26}
	btf, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	check("types", err)
	funcs, err := kimage.Funcs(btf)
	check("types", err)
	var id uint32
	for n, name := range funcs {
		if name == os.Args[2] {
			id = n
		}
	}
	result, err := strconv.Atoi(os.Args[3])
	check("result", err)

	le := binary.NativeEndian
	code := []byte{0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0} // r0 = result; exit
	le.PutUint32(code[4:], uint32(result))
	licence, log := []byte("GPL\x00"), make([]byte, 1<<16)
	var pin runtime.Pinner
	for _, b := range [][]byte{code, licence, log} {
		pin.Pin(&b[0])
	}
	address := func(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }
	attr := make([]byte, 128)
	le.PutUint32(attr[0:], 26) // BPF_PROG_TYPE_TRACING
	le.PutUint32(attr[4:], 2)
	le.PutUint64(attr[8:], address(code))
	le.PutUint64(attr[16:], address(licence))
	le.PutUint32(attr[24:], 1)
	le.PutUint32(attr[28:], uint32(len(log)))
	le.PutUint64(attr[32:], address(log))
	copy(attr[48:], "test_program")
	le.PutUint32(attr[68:], kinds[os.Args[1]])
	le.PutUint32(attr[108:], id)
	prog := bpf(5, attr, log)
	attr = make([]byte, 16)
	le.PutUint32(attr[8:], uint32(prog))
	bpf(17, attr, nil) // BPF_RAW_TRACEPOINT_OPEN attaches it
	fmt.Println("attached")
	time.Sleep(time.Hour)
}

func bpf(cmd uintptr, attr, log []byte) uintptr {
	fd, _, no := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if no != 0 {
		fmt.Fprintf(os.Stderr, "bpf command %d: %v\n%s\n", cmd, no, log)
		os.Exit(1)
	}
	return fd
}

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}
