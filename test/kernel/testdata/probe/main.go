// Command probe makes system calls for the tests that a shell cannot make.
package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "getdents-fault" {
		fmt.Println("probe getdents-fault DIRECTORY")
		os.Exit(2)
	}
	dir, err := syscall.Open(os.Args[2], syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	// A page that can be read but not written.
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _, errno := syscall.Syscall(syscall.SYS_GETDENTS64, uintptr(dir), uintptr(unsafe.Pointer(&page[0])), 4096)
	fmt.Println(errno)
}
