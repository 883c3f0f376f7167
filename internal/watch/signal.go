package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A signal is news of a process.
type signal struct {
	kind   kind
	pid    int
	parent int    // of a fork
	at     uint64 // nanoseconds of the monotonic clock, 0 if not known
}

type kind int

const (
	started  kind = iota // it runs another program
	forked               // it is new, and runs what its parent does
	lost                 // there was more news than could be kept
	accepted             // the kernel will tell
)

// Messages of the process connector: struct nlmsghdr, struct cn_msg, struct
// proc_event (include/uapi/linux/netlink.h, connector.h, cn_proc.h).
const (
	headerSize    = 16
	messageSize   = headerSize + 20
	eventSize     = 16 // what, cpu, timestamp
	connectorProc = 1  // CN_IDX_PROC, CN_VAL_PROC

	eventNone = 0
	eventFork = 1
	eventExec = 2
)

// errNotListening is the kernel's refusal to tell of processes.
var errNotListening = errors.New("the kernel refuses to tell")

// parseMessage returns the news of one datagram. Threads are no processes, and
// events of other kinds are passed over.
func parseMessage(b []byte) ([]signal, error) {
	var list []signal
	le := binary.LittleEndian
	for len(b) >= headerSize {
		n := int(le.Uint32(b))
		if n < headerSize || n > len(b) {
			return list, fmt.Errorf("netlink message of %d bytes in %d", n, len(b))
		}
		m := b[:n]
		b = b[min((n+3)&^3, len(b)):]
		if len(m) < messageSize+eventSize || le.Uint32(m[headerSize:]) != connectorProc || le.Uint32(m[headerSize+4:]) != connectorProc {
			continue
		}
		what, at, data := le.Uint32(m[messageSize:]), le.Uint64(m[messageSize+8:]), m[messageSize+eventSize:]
		word := func(i int) int { return int(int32(le.Uint32(data[4*i:]))) }
		switch {
		case what == eventNone && len(data) >= 4 && word(0) != 0:
			return list, fmt.Errorf("%w: error %d", errNotListening, word(0))
		case what == eventNone:
			list = append(list, signal{kind: accepted, at: at})
		case what == eventExec && len(data) >= 8:
			list = append(list, signal{kind: started, pid: word(1), at: at})
		case what == eventFork && len(data) >= 16 && word(2) == word(3):
			list = append(list, signal{kind: forked, pid: word(3), parent: word(1), at: at})
		}
	}
	return list, nil
}
