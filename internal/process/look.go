//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Look tells look what a process runs. It does not stop it.
func Look(pid int, look func(*Seen)) error {
	p, err := open(pid)
	if err != nil {
		return err
	}
	defer p.close()
	life, err := p.life(p.auxv)
	if err != nil {
		return err
	}
	program, err := Program(pid)
	if err != nil {
		return err
	}
	s := &Seen{PID: pid, Life: life, Program: program, Command: commandOf(pid), Patches: p.patches.Reports(alive), Deleted: p.deleted()}
	for _, im := range p.images {
		s.Images = append(s.Images, SeenImage{im.Name(), im.BuildID, func() []byte {
			sum, err := im.Digest(p.patches.Pristine(p.mem))
			if err != nil {
				return nil
			}
			return sum[:]
		}})
	}
	look(s)
	return nil
}

// Identify returns the life of a process. It is much cheaper than to look at the
// process.
func Identify(pid int) (Life, error) {
	p := &proc{pid: pid}
	auxv, err := os.ReadFile(p.path("auxv"))
	if err == nil && len(auxv) == 0 {
		err = errNoVector
	}
	if err != nil {
		return Life{}, p.gone(err)
	}
	return p.life(auxv)
}

// Program returns the file that a process runs.
func Program(pid int) (File, error) {
	p := &proc{pid: pid}
	var st unix.Stat_t
	if err := unix.Stat(p.path("exe"), &st); err != nil {
		return File{}, p.gone(err)
	}
	return File{st.Dev, st.Ino, st.Size, st.Ctim.Nano()}, nil
}

// errNoVector is what kernel threads give, and processes that end.
var errNoVector = errors.New("it has no auxiliary vector")

func (p *proc) life(auxv []byte) (l Life, err error) {
	stat, err := os.ReadFile(p.path("stat"))
	if err != nil {
		return l, p.gone(err)
	}
	const startField = 22 // proc_pid_stat(5); the name, field 2, may hold anything
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < startField-2 {
		return l, fmt.Errorf("process %d: its stat has %d fields", p.pid, len(f)+2)
	}
	if l.Started, err = strconv.ParseUint(string(f[startField-3]), 10, 64); err != nil {
		return l, fmt.Errorf("process %d: its start: %w", p.pid, err)
	}
	sum := sha256.Sum256(auxv)
	copy(l.Vector[:], sum[:])
	return l, nil
}

// deleted lists the files that the process executes although they are not there
// any more.
func (p *proc) deleted() []string {
	var list []string
	for i := range p.maps {
		m := &p.maps[i]
		path, gone := strings.CutSuffix(m.Path, deletedMark)
		if gone && m.Exec && m.Inode != 0 && isFile(path) && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	return list
}
