package klp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"livepatch/internal/kstate"
)

// machine is the system that livepatch runs on.
type machine struct{}

func thisMachine() (system, error) { return machine{}, nil }

func (machine) Files() fs.FS { return os.DirFS("/") }

// Load passes the module in a file without a name. It does not have to be
// executable, and where the kernel knows it that is said: administrators may
// have made executable ones an error (vm.memfd_noexec).
func (machine) Load(module []byte) error {
	fd, err := unix.MemfdCreate("livepatch", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("livepatch", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("make a file for the module: %w", err)
	}
	f := os.NewFile(uintptr(fd), "module")
	defer f.Close()
	if _, err := f.Write(module); err != nil {
		return fmt.Errorf("write the module: %w", err)
	}
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func (machine) Unload(name string) error {
	err := unix.DeleteModule(name, unix.O_NONBLOCK)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EBUSY) {
		return errInUse
	}
	return err
}

func (machine) Write(name, text string) error {
	f, err := os.OpenFile("/"+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// maxRecords is the most that is kept of the kernel's log; it may be flooded.
const maxRecords = 4096

func (machine) Log() func() []kstate.Record {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		unix.Close(fd)
		return nil
	}
	return func() []kstate.Record {
		var all []kstate.Record
		buf := make([]byte, 16<<10) // a read returns one record, at most 8 KiB
		for range maxRecords {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR) {
				continue // records were lost; the next read goes on behind them
			}
			if err != nil || n == 0 {
				break
			}
			if r, ok := kstate.ParseRecord(buf[:n]); ok {
				all = append(all, r)
			}
		}
		return all
	}
}

func (machine) ErrorName(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		return unix.ErrnoName(no)
	}
	return ""
}
