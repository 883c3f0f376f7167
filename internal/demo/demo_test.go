package demo

import (
	"strings"
	"testing"
)

func TestAnsweredBy(t *testing.T) {
	apple, eggs := stock[0], stock[4]
	for _, c := range []struct {
		req  request
		line string
		want version
		err  string
	}{
		{request{apple, 3}, "#7 2 105\n", either, ""},
		{request{apple, 12}, "#7 2 360\n", wrong, ""},
		{request{apple, 12}, "#7 2 378\n", right, ""},
		{request{apple, 12}, "#7 2 379\n", either, "379 cents, neither 360 nor 378"},
		{request{apple, 20}, "#7 2 630\n", either, ""},
		{request{apple, 12}, "#7 no such item\n", either, "neither"},
		{request{eggs, 12}, "#7 0 0\n", wrong, ""},
		{request{eggs, 12}, "#7 no such item\n", right, ""},
		{request{eggs, 12}, "#7 0 5\n", either, "neither"},
	} {
		rep, err := c.req.parse(c.line)
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		got, err := rep.answeredBy()
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v, %q: %v, %v; want %v, %q", c.req, c.line, got, err, c.want, c.err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{"", "\n", "7 2 105\n", "#x 2 105\n", "#7 2\n", "#7 2 105 9\n", "#7 -1 105\n", "#7 2 x\n"} {
		if rep, err := (request{stock[0], 3}).parse(line); err == nil {
			t.Errorf("%q: parsed as %+v", line, rep)
		}
	}
}

// history makes replies 1, 2, … of the given versions, all with a discount.
func history(versions string) []reply {
	var all []reply
	for i, v := range versions {
		cents := map[rune]uint64{'w': 360, 'r': 378}[v]
		all = append(all, reply{request: request{stock[0], 12}, serial: uint64(i) + 1, given: uint64(i) + 1, cents: cents})
	}
	return all
}

func TestJudge(t *testing.T) {
	const good = "wwwwwwrrrrrrrrrrwwwww"
	applied, reverted := span{5, 7}, span{14, 17}
	for _, c := range []struct {
		name   string
		change func([]reply) []reply
		want   string
	}{
		{"all well", func(r []reply) []reply { return r }, ""},
		{"order does not matter", func(r []reply) []reply { r[0], r[9] = r[9], r[0]; return r }, ""},
		{"one lost", func(r []reply) []reply { return append(r[:3:3], r[4:]...) }, "number 5 where 4 was due"},
		{"one twice", func(r []reply) []reply { return append(r, r[20]) }, "number 21 where 22 was due"},
		{"counter reset", func(r []reply) []reply { r[6].given = 1; return r }, "discount number 1 where 2 was due"},
		{"mixed", func(r []reply) []reply { r[10].cents = 360; return r }, "other than wrong, right, wrong"},
		{"impossible", func(r []reply) []reply { r[10].cents = 1; return r }, "1 cents, neither"},
		{"never patched", func([]reply) []reply { return history(strings.Repeat("w", 20)) }, "other than"},
		{"too early", func([]reply) []reply { return history("wwwrrrrrrrrrrrrrwwwww") }, "turned right at reply 4"},
		{"too late", func([]reply) []reply { return history("wwwwwwwwwwwwrrrrwwwww") }, "still wrong at reply 12"},
	} {
		err := judge(c.change(history(good)), applied, reverted)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}
