package demo

import (
	"fmt"
	"strconv"
	"strings"
)

// stock is what testdata/src/demo/quote.c sells, and one thing that it does not.
var stock = []item{{"apple", 35}, {"bread", 249}, {"cheese", 895}, {"dates", 412}, {"eggs", 0}}

type item struct {
	name  string
	cents uint64 // 0: not in the shop
}

// version tells which code answered.
type version uint8

const (
	either version = iota // both answer the same
	wrong
	right
)

func (v version) String() string { return [...]string{"either", "wrong", "right"}[v] }

// A request asks for the price of some pieces of an item.
type request struct {
	item   item
	pieces uint64
}

func (r request) line() string { return fmt.Sprintf("%s %d\n", r.item.name, r.pieces) }

// A reply is one line of the server: the number of the reply, the number of discounts
// given so far, the price.
type reply struct {
	request
	serial, given, cents uint64
	none                 bool // "no such item"
}

// parse reads the line that answers r.
func (r request) parse(line string) (reply, error) {
	rep := reply{request: r}
	f := strings.Fields(line)
	if len(f) == 0 || !strings.HasPrefix(f[0], "#") {
		return rep, fmt.Errorf("reply %q to %q: no number", line, r.line())
	}
	var err error
	if rep.serial, err = strconv.ParseUint(f[0][1:], 10, 64); err != nil {
		return rep, fmt.Errorf("reply %q to %q: %w", line, r.line(), err)
	}
	if strings.Join(f[1:], " ") == "no such item" {
		rep.none = true
		return rep, nil
	}
	if len(f) != 3 {
		return rep, fmt.Errorf("reply %q to %q: %d words, want 3", line, r.line(), len(f))
	}
	for i, to := range []*uint64{&rep.given, &rep.cents} {
		if *to, err = strconv.ParseUint(f[i+1], 10, 64); err != nil {
			return rep, fmt.Errorf("reply %q to %q: %w", line, r.line(), err)
		}
	}
	return rep, nil
}

// discounted reports whether the request earns a tenth off.
func (r request) discounted() bool { return r.item.cents > 0 && r.pieces >= 10 }

// answeredBy tells which version answers like that; an answer that neither
// gives is an error.
func (r reply) answeredBy() (version, error) {
	sum := r.item.cents * r.pieces
	bad, good := sum, sum
	if r.discounted() {
		bad, good = sum/100*90, (sum*90+50)/100
	}
	switch {
	case r.item.cents == 0 && r.none:
		return right, nil
	case r.item.cents == 0 && r.cents == 0:
		return wrong, nil
	case r.none || r.item.cents == 0:
	case bad == good && r.cents == good:
		return either, nil
	case r.cents == bad:
		return wrong, nil
	case r.cents == good:
		return right, nil
	}
	return either, fmt.Errorf("reply %d to %q: %d cents, neither %d nor %d", r.serial, r.line(), r.cents, bad, good)
}
