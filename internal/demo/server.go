package demo

import (
	"embed"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// The server (static, stripped) and its object before and after the fix, for each
// machine. They are built by scripts/build-testdata from testdata/src/demo.
//
//go:embed files
var files embed.FS

// file is one of them for this machine.
func file(name string) ([]byte, error) { return files.ReadFile("files/" + runtime.GOARCH + "/" + name) }

// threads is how many threads the server answers with.
const threads = clients

// server is the running server in a directory of its own.
type server struct {
	dir, path, socket string
	cmd               *exec.Cmd
	stdin             io.Closer // the server ends when this is closed
}

// startServer writes the server to a temporary directory and runs it. It
// inherits the listening socket, so requests can be sent at once.
func startServer() (s *server, err error) {
	s = &server{}
	if s.dir, err = os.MkdirTemp("", "livepatch-demo-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.dir)
			err = fmt.Errorf("start the server: %w", err)
		}
	}()
	s.path, s.socket = filepath.Join(s.dir, "shop"), filepath.Join(s.dir, "socket")
	program, err := file("server")
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(s.path, program, 0o700); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	inherited, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer inherited.Close()
	s.cmd = exec.Command(s.path, strconv.Itoa(threads))
	s.cmd.ExtraFiles = []*os.File{inherited}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return s, s.cmd.Start()
}

// pid of the server.
func (s *server) pid() int { return s.cmd.Process.Pid }

// end tells the server to end and waits for it.
func (s *server) end() error {
	s.stdin.Close()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("end the server: %w", err)
	}
	return nil
}

// clean kills the server if it still runs and removes its directory.
func (s *server) clean() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
	os.RemoveAll(s.dir)
}
