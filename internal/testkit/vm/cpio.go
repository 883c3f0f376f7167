package vm

import (
	"bytes"
	"fmt"
	"io/fs"
)

// A cpio is an archive in the format "newc" that the kernel unpacks as its first
// file system (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	buf  bytes.Buffer
	ino  int
	dirs map[string]bool
}

// The type bits of a mode as the format has them.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
	cpioLink = 0o120000
)

func (c *cpio) pad() {
	for c.buf.Len()%4 != 0 {
		c.buf.WriteByte(0)
	}
}

// entry writes one record: thirteen numbers of eight hex digits, the name, the bytes.
func (c *cpio) entry(name string, mode int, device [2]int, data []byte) {
	c.ino++
	const uid, gid, links, time, checksum = 0, 0, 1, 0, 0
	fmt.Fprintf(&c.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, uid, gid, links, time, len(data), 0, 0, device[0], device[1], len(name)+1, checksum)
	c.buf.WriteString(name)
	c.buf.WriteByte(0)
	c.pad()
	c.buf.Write(data)
	c.pad()
}

// dir writes a directory and those above it, once.
func (c *cpio) dir(name string) {
	if name == "" || name == "." || c.dirs[name] {
		return
	}
	c.dir(parent(name))
	if c.dirs == nil {
		c.dirs = map[string]bool{}
	}
	c.dirs[name] = true
	c.entry(name, cpioDir|0o755, [2]int{}, nil)
}

// file writes a file with the directories that it needs.
func (c *cpio) file(name string, perm fs.FileMode, data []byte) {
	c.dir(parent(name))
	c.entry(name, cpioFile|int(perm.Perm()), [2]int{}, data)
}

func (c *cpio) link(name, target string) {
	c.dir(parent(name))
	c.entry(name, cpioLink|0o777, [2]int{}, []byte(target))
}

func (c *cpio) char(name string, major, minor int) {
	c.dir(parent(name))
	c.entry(name, cpioChar|0o600, [2]int{major, minor}, nil)
}

// bytes ends the archive.
func (c *cpio) bytes() []byte {
	c.entry("TRAILER!!!", 0, [2]int{}, nil)
	return c.buf.Bytes()
}

func parent(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return ""
}
