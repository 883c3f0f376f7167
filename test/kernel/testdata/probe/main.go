// Command probe makes system calls for the tests that a shell cannot make.
package main

import (
	"fmt"
	"os"
	"syscall"
)

// getdents reads a directory into places where a program may not write: a page that
// can only be read, an address that no processor has, and one of the kernel's.
func getdents(name string) error {
	dir, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return err
	}
	_, err = syscall.ReadDirent(dir, page)
	fmt.Println(err)
	for _, at := range []uintptr{1 << 56, 1<<64 - 1<<21} {
		_, _, errno := syscall.Syscall(syscall.SYS_GETDENTS64, uintptr(dir), at, 4096)
		fmt.Println(errno)
	}
	return nil
}

func main() {
	if len(os.Args) != 3 || os.Args[1] != "getdents-fault" {
		fmt.Println("probe getdents-fault DIRECTORY")
		os.Exit(2)
	}
	if err := getdents(os.Args[2]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
