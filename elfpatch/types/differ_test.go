package types

import "testing"

// loops is a graph in which functions take pointers to functions that take
// pointers to each other: 2 to the power of maxChain ways through it.
type loops struct{ graph }

func (loops) node(r ref) (*node, error) {
	if r%2 == 0 { // a pointer to the function behind it
		return &node{shape: pointer, target: r + 1}, nil
	}
	inner := func(i ref) ref { return 1000 + 2*((r+i)%50) } // an array of such pointers
	if r > 3000 {
		return &node{shape: array, counts: []int64{1}, target: r - 2001}, nil
	}
	params := make([]ref, 8)
	for i := range params {
		params[i] = inner(ref(i)) + 2001
	}
	return &node{shape: prototype, params: params}, nil
}

// Prototypes whose parameters lead back to each other are compared once each.
func TestSignaturesThatLeadBack(t *testing.T) {
	c := &comparison{a: loops{}, b: loops{}, calls: map[[2]ref]difference{}}
	d, err := c.differ(1000, 1000)
	if err != nil || d != same {
		t.Errorf("got %v, %v", d, err)
	}
	if len(c.calls) == 0 || len(c.calls) > 200 {
		t.Errorf("%d prototypes compared", len(c.calls))
	}
}
