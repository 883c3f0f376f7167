//go:build linux

package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nonblock      = unix.O_NONBLOCK
	receiveBuffer = 4 << 20 // bytes of the kernel's queue
	backlog       = 4096    // signals of ours
	ackPatience   = 500 * time.Millisecond
)

// connector is a socket on which the kernel tells of processes that start
// (CONFIG_PROC_EVENTS). Kernels tell only a process in the initial user and pid
// namespaces, and older ones only with CAP_NET_ADMIN.
type connector struct {
	file    *os.File
	signals chan signal
}

// listen opens the connector. The error says why there is none.
func listen() (*connector, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("open the process connector: %w", err)
	}
	c := &connector{os.NewFile(uintptr(fd), "connector"), make(chan signal, backlog)}
	if err := c.subscribe(fd); err != nil {
		c.file.Close()
		return nil, fmt.Errorf("open the process connector: %w", err)
	}
	go c.receive()
	return c, nil
}

func (c *connector) close() { c.file.Close() }

func (c *connector) subscribe(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: connectorProc}); err != nil {
		return err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err := c.filter(fd); err != nil {
		return err
	}
	const listenOp, done = 1, 3 // PROC_CN_MCAST_LISTEN, NLMSG_DONE
	le := binary.LittleEndian
	b := make([]byte, messageSize+4)
	le.PutUint32(b, uint32(len(b)))
	le.PutUint16(b[4:], done)
	le.PutUint32(b[headerSize:], connectorProc)
	le.PutUint32(b[headerSize+4:], connectorProc)
	le.PutUint16(b[headerSize+16:], 4)
	le.PutUint32(b[messageSize:], listenOp)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return c.acknowledged()
}

// filter lets only acknowledgements, forks and execs into the queue.
func (c *connector) filter(fd int) error {
	const swapped = 24 // a filter loads words in network order
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: messageSize},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: eventExec << swapped, Jt: 3},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: eventFork << swapped, Jt: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: eventNone, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// acknowledged waits for the kernel's answer. In other namespaces there is none.
func (c *connector) acknowledged() error {
	if err := c.file.SetReadDeadline(time.Now().Add(ackPatience)); err != nil {
		return err
	}
	for {
		list, err := c.read()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%w: no answer; it tells only the initial namespaces", errNotListening)
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return err
		}
		for _, s := range list {
			if s.kind == accepted {
				return c.file.SetReadDeadline(time.Time{})
			}
		}
	}
}

// receive passes signals on until the socket is closed. It never waits for the
// receiver: what does not fit is lost, and that is told.
func (c *connector) receive() {
	defer close(c.signals)
	missed := false
	for {
		list, err := c.read()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			missed = true
		case err != nil && !errors.Is(err, errNotListening):
			return
		}
		for _, s := range list {
			select {
			case c.signals <- s:
			default:
				missed = true
			}
		}
		if missed {
			select {
			case c.signals <- signal{kind: lost}:
				missed = false
			default:
			}
		}
	}
}

// read waits for one datagram of the kernel.
func (c *connector) read() (list []signal, err error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var b [4096]byte
	n, from := 0, unix.Sockaddr(nil)
	var got error
	err = raw.Read(func(fd uintptr) bool {
		n, from, got = unix.Recvfrom(int(fd), b[:], 0)
		return got != unix.EAGAIN && got != unix.EINTR
	})
	if err == nil {
		err = got
	}
	if err != nil {
		return nil, err
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return nil, nil // not from the kernel
	}
	list, err = parseMessage(b[:n])
	if err != nil && !errors.Is(err, errNotListening) {
		err = nil // one that cannot be read is no reason to stop
	}
	return list, err
}

// since returns how long ago a time of the kernel's monotonic clock was.
func since(at uint64) time.Duration {
	var ts unix.Timespec
	if at == 0 || unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano() - int64(at))
}
