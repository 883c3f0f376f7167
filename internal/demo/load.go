package demo

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// clients is how many connections ask at the same time.
const clients = 4

// load is the clients of the server: each asks, checks the reply and asks
// again, until it is told to stop.
type load struct {
	stop   atomic.Bool
	last   atomic.Uint64 // highest reply number received
	count  atomic.Int64
	wg     sync.WaitGroup
	failed chan error

	mu      sync.Mutex
	replies []reply
	latest  reply // of the first client, one that tells the versions apart
}

func startLoad(socket string) *load {
	l := &load{failed: make(chan error, clients)}
	for i := range clients {
		l.wg.Go(func() {
			if err := l.client(socket, uint32(i)); err != nil {
				l.failed <- fmt.Errorf("client %d: %w", i, err)
			}
		})
	}
	return l
}

// finish stops the clients after their current request and returns all replies.
func (l *load) finish() ([]reply, error) {
	l.stop.Store(true)
	l.wg.Wait()
	select {
	case err := <-l.failed:
		return nil, err
	default:
		return l.replies, nil
	}
}

// wait returns when at least n more replies have come and the time is over.
func (l *load) wait(ctx context.Context, n int64, least time.Duration) error {
	until := l.count.Load() + n
	timer := time.NewTicker(5 * time.Millisecond)
	defer timer.Stop()
	start := time.Now()
	for l.count.Load() < until || time.Since(start) < least {
		select {
		case err := <-l.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("wait for replies of the server: %w", ctx.Err())
		case <-timer.C:
		}
	}
	return nil
}

// sample returns a recent reply that tells the versions apart.
func (l *load) sample() reply {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

func (l *load) client(socket string, seed uint32) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	var (
		in   = bufio.NewReader(conn)
		mine []reply
		rnd  = seed*2654435761 + 1
		prev uint64
	)
	defer func() {
		l.mu.Lock()
		l.replies = append(l.replies, mine...)
		l.mu.Unlock()
	}()
	for !l.stop.Load() {
		rnd = rnd*1664525 + 1013904223 // any sequence will do; this one is the same every time
		req := request{stock[rnd>>16%uint32(len(stock))], uint64(rnd>>24%20 + 1)}
		rep, err := ask(conn, in, req)
		if err != nil {
			return err
		}
		if rep.serial <= prev {
			return fmt.Errorf("reply number %d after %d: the counter jumped back", rep.serial, prev)
		}
		prev = rep.serial
		if err := l.note(rep, seed == 0); err != nil {
			return err
		}
		mine = append(mine, rep)
	}
	return nil
}

// note checks one reply and counts it.
func (l *load) note(rep reply, first bool) error {
	v, err := rep.answeredBy()
	if err != nil {
		return err
	}
	if first && v != either && rep.discounted() {
		l.mu.Lock()
		l.latest = rep
		l.mu.Unlock()
	}
	for {
		old := l.last.Load()
		if old >= rep.serial || l.last.CompareAndSwap(old, rep.serial) {
			break
		}
	}
	l.count.Add(1)
	return nil
}

func ask(conn net.Conn, in *bufio.Reader, req request) (reply, error) {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return reply{}, err
	}
	if _, err := conn.Write([]byte(req.line())); err != nil {
		return reply{}, err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return reply{}, fmt.Errorf("reply to %q: %w", req.line(), err)
	}
	return req.parse(line)
}
