package watch

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// news makes a datagram of the process connector.
func news(what uint32, data ...uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, messageSize)
	le.PutUint32(b[headerSize:], connectorProc)
	le.PutUint32(b[headerSize+4:], connectorProc)
	b = le.AppendUint32(b, what)
	b = le.AppendUint32(b, 1)  // cpu
	b = le.AppendUint64(b, 77) // timestamp
	for _, v := range data {
		b = le.AppendUint32(b, v)
	}
	le.PutUint32(b, uint32(len(b)))
	return b
}

func TestParseMessage(t *testing.T) {
	// As Linux 6.18 sent it for an exec of process 5959.
	recorded, err := hex.DecodeString(strings.Join(strings.Fields(`
		4c000000 0300 0000 00000000 00000000
		01000000 01000000 05000000 00000000 2800 0000
		02000000 00000000 d0fc2bc65f0b0000 47170000 47170000
		0000000000000000 0000000000000000`), ""))
	if err != nil {
		t.Fatal(err)
	}
	foreign := news(eventExec, 8, 9)
	foreign[headerSize] = 7
	for _, tc := range []struct {
		name string
		in   []byte
		want string
	}{
		{"recorded", recorded, "[{kind:0 pid:5959 parent:0 at:12505974570192}] <nil>"},
		{"exec by a thread", news(eventExec, 8, 9), "[{kind:0 pid:9 parent:0 at:77}] <nil>"},
		{"fork", news(eventFork, 1, 2, 3, 3), "[{kind:1 pid:3 parent:2 at:77}] <nil>"},
		{"a new thread", news(eventFork, 1, 2, 3, 2), "[] <nil>"},
		{"accepted", news(eventNone, 0), "[{kind:3 pid:0 parent:0 at:77}] <nil>"},
		{"refused", news(eventNone, 1), "[] the kernel refuses to tell: error 1"},
		{"exit", news(0x80000000, 1, 2, 3, 4), "[] <nil>"},
		{"two", append(news(eventExec, 8, 9), news(eventExec, 4, 5)...), "[{kind:0 pid:9 parent:0 at:77} {kind:0 pid:5 parent:0 at:77}] <nil>"},
		{"another connector", foreign, "[] <nil>"},
		{"empty", nil, "[] <nil>"},
		{"short exec", news(eventExec, 8), "[] <nil>"},
		{"cut", news(eventExec, 8, 9)[:50], "[] netlink message of 60 bytes in 50"},
		{"no length", make([]byte, headerSize), "[] netlink message of 0 bytes in 16"},
	} {
		list, err := parseMessage(tc.in)
		if got := fmt.Sprintf("%+v %v", list, err); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add(news(eventExec, 8, 9))
	f.Add(append(news(eventFork, 1, 2, 3, 3), news(eventNone, 1)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := parseMessage(b)
		if len(list) > len(b)/headerSize {
			t.Errorf("%d signals from %d bytes", len(list), len(b))
		}
	})
}
