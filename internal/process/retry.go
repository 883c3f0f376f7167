//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"time"

	"livepatch/internal/refusal"
)

// retry tries until something succeeds, fails for good, or the time is over.
// Between tries the target runs, longer each time. It returns the number of
// tries.
func retry(deadline time.Time, opt *Options, try func() error) (tries int, err error) {
	const (
		first, longest = time.Millisecond, 250 * time.Millisecond
		// A signal handler on its own stack is over soon; a coroutine is not.
		patience = 5
	)
	foreign := 0
	for wait := first; ; wait = min(2*wait, longest) {
		tries++
		err = try()
		var busy *BusyError
		var alien *foreignError
		switch {
		case err == nil:
			return tries, nil
		case errors.As(err, &busy) && busy.again:
			return tries, err
		case errors.As(err, &busy):
		case errors.As(err, &alien):
			if foreign++; foreign == patience {
				return tries, refusal.New(refusal.ForeignStack, fmt.Sprintf("process %d", alien.pid), "%v", alien)
			}
			busy = &BusyError{PID: alien.pid, Thread: alien.tid, Reason: alien.reason()}
		default:
			return tries, err
		}
		if time.Now().Add(wait).After(deadline) || opt.held != nil { // that stands still
			busy.Attempts = tries
			busy.name()
			return tries, busy
		}
		opt.progress("target is busy, try", tries, 0)
		time.Sleep(wait)
	}
}
