package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// respClient speaks RESP, the protocol of redis (https://redis.io/docs/reference/protocol-spec),
// over one connection.
type respClient struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialRedis(t *testing.T, socket string) *respClient {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &respClient{conn, bufio.NewReader(conn)}
}

// do sends a command and returns its reply as text: "+OK", "-ERR …", ":5", "$value",
// "$nil", or the elements of an array in brackets.
func (c *respClient) do(words ...string) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := io.WriteString(c.conn, b.String()); err != nil {
		return "", err
	}
	return c.reply()
}

func (c *respClient) reply() (string, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("empty reply")
	}
	switch line[0] {
	case '+', '-', ':':
		return line, nil
	case '$', '*':
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			return "", fmt.Errorf("reply %q: %w", line, err)
		}
		if n < 0 {
			return line[:1] + "nil", nil
		}
		if line[0] == '*' {
			return c.array(n)
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.in, b); err != nil {
			return "", err
		}
		return "$" + string(b[:n]), nil
	}
	return "", fmt.Errorf("reply %q: unknown type", line)
}

func (c *respClient) array(n int) (string, error) {
	parts := make([]string, n)
	for i := range parts {
		var err error
		if parts[i], err = c.reply(); err != nil {
			return "", err
		}
	}
	return "[" + strings.Join(parts, " ") + "]", nil
}

// integer sends a command whose reply is an integer.
func (c *respClient) integer(words ...string) (int64, error) {
	text, err := c.do(words...)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(text, ":"), 10, 64)
	if err != nil || text[0] != ':' {
		return 0, fmt.Errorf("%s: %q is not an integer reply", words[0], text)
	}
	return n, nil
}

// stat returns one number of INFO.
func (c *respClient) stat(name string) (int64, error) {
	text, err := c.do("INFO", "stats", "memory")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("INFO has no %s", name)
}
