// Command probe makes system calls for the tests that a shell cannot make.
package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"syscall"
	"time"
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

// calls prints how many nanoseconds a system call takes, the least of some
// rounds of count calls each.
func calls(number, count uintptr) {
	least := time.Duration(math.MaxInt64)
	for range 400 {
		start := time.Now()
		for range count {
			syscall.RawSyscall(number, 0, 0, 0)
		}
		least = min(least, time.Since(start))
	}
	fmt.Println(float64(least.Nanoseconds()) / float64(count))
}

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "getdents-fault":
		if err := getdents(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case len(os.Args) == 4 && os.Args[1] == "calls":
		number, err := strconv.Atoi(os.Args[2])
		count, cerr := strconv.Atoi(os.Args[3])
		if errors.Join(err, cerr) != nil || count <= 0 {
			fmt.Println("no number")
			os.Exit(2)
		}
		calls(uintptr(number), uintptr(count))
	default:
		fmt.Println("probe getdents-fault DIRECTORY | calls NUMBER COUNT")
		os.Exit(2)
	}
}
