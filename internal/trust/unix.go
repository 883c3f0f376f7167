//go:build unix

package trust

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"livepatch/internal/refusal"
)

// permissions says that files have an owner and a mode.
const permissions = true

// mostLinks is how many symbolic links a path may take, as for the kernel
// (MAXSYMLINKS, include/linux/namei.h).
const mostLinks = 40

// walk goes a way from the root, as the kernel does, and refuses it if somebody
// else can change a directory or link that it passes. What it leads to, unless
// that is a directory, is not looked at.
func walk(abs string) error {
	at, links := "/", 0
	if err := unchangeable(at); err != nil {
		return err
	}
	for todo := strings.Split(abs, "/"); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		fi, err := os.Lstat(next)
		switch {
		case err != nil:
			return err
		case fi.Mode()&fs.ModeSymlink != 0:
			if why := owner(fi); why != "" {
				return refusal.New(refusal.KeyUnsafe, next, "%s can make the link lead to other keys", why)
			}
			if links++; links > mostLinks {
				return syscall.ELOOP
			}
			to, err := os.Readlink(next)
			if err != nil {
				return err
			}
			if filepath.IsAbs(to) {
				at = "/"
			}
			todo = append(strings.Split(to, "/"), todo...)
		case fi.IsDir():
			if err := unchangeable(next); err != nil {
				return err
			}
			at = next
		default:
			at = next
		}
	}
	return nil
}

func unchangeable(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if why := changeable(fi); why != "" {
		return refusal.New(refusal.KeyUnsafe, dir, "%s can put other keys into it or below it", why)
	}
	return nil
}

// changeable says who other than this user and root can change a file, or what
// is in a directory; empty if nobody can. In a directory with the sticky bit
// everybody can add files, and take away only their own.
func changeable(fi fs.FileInfo) string {
	if who := owner(fi); who != "" {
		return who
	}
	mode := fi.Mode()
	switch {
	case fi.IsDir() && mode&fs.ModeSticky != 0:
	case mode.Perm()&0o002 != 0:
		return "everybody"
	case mode.Perm()&0o020 != 0:
		return "its group"
	}
	return ""
}

// owner names the owner of a file unless it is this user or root.
func owner(fi fs.FileInfo) string {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Sprintf("user %d", st.Uid)
	}
	return ""
}
