//go:build linux && amd64

package matrix

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
)

// A config is one way of building a program: an element of each axis.
type config struct{ cc, opt, mode, flag, link, strip string }

// axis names values and says what they mean.
type axis []struct{ tag, flags string }

var (
	compilers = axis{{"gcc", "gcc"}, {"clang", "clang"}}
	levels    = axis{{"O2", "-O2"}, {"O0", "-O0"}, {"O1", "-O1"}, {"O3", "-O3"}, {"Os", "-Os"}}
	modes     = axis{{"pie", "-fPIE"}, {"lib", "-fPIC"}, {"nopie", "-fno-pie"}, {"static", "-fno-pie"}, {"staticpie", "-fPIE"}, {"piclib", "-fPIC"}, {"picpie", "-fPIC"}}
	flags     = axis{
		{"plain", ""},
		{"sections", "-ffunction-sections -fdata-sections"},
		{"cet", "-fcf-protection=full"},
		{"noplt", "-fno-plt"},
		{"pfe", "-fpatchable-function-entry=16,14"},
		{"ssp", "-fstack-protector-strong"},
		{"ssp-all", "-fstack-protector-all"},
		{"g", "-g"},
		{"common", "-fcommon"},
		{"gnu2", "-mtls-dialect=gnu2"},
		{"merge", "-fmerge-all-constants"},
		{"frame", "-fno-omit-frame-pointer"},
		{"nounwind", "-fno-asynchronous-unwind-tables"},
		{"nosemantic", "-fno-semantic-interposition"},
		{"cet-sections", "-fcf-protection=full -ffunction-sections -fdata-sections -fno-plt"},
		{"nojump", "-fno-jump-tables"},
		{"v3", "-march=x86-64-v3"},
	}
	linkers = axis{
		{"ld", "-fuse-ld=bfd"},
		{"lld", "-fuse-ld=lld"},
		{"gold", "-fuse-ld=gold"},
		{"ld-now", "-fuse-ld=bfd -Wl,-z,now"},
		{"ld-gc", "-fuse-ld=bfd -Wl,--gc-sections"},
		{"lld-now", "-fuse-ld=lld -Wl,-z,now"},
		{"ld-q", "-fuse-ld=bfd -Wl,-q"},
		{"lld-icf", "-fuse-ld=lld -Wl,--icf=all"},
		{"gold-icf", "-fuse-ld=gold -Wl,--icf=all"},
		{"ld-norelax", "-fuse-ld=bfd -Wl,--no-relax"},
	}
	strips = axis{{"stripped", ""}, {"symbols", ""}, {"debugfile", ""}}
)

func (a axis) flags(tag string) []string {
	for _, v := range a {
		if v.tag == tag {
			return strings.Fields(v.flags)
		}
	}
	panic("BUG: no " + tag)
}

func (c config) String() string {
	return strings.Join(c.tags()[:6], "/")
}

func (c config) tags() []string {
	tags := []string{c.cc, c.opt, c.mode, c.flag, c.link, c.strip}
	base, _, dashed := strings.Cut(c.link, "-")
	if dashed {
		tags = append(tags, base)
	}
	if c.mode == "piclib" {
		tags = append(tags, "lib")
	}
	if strings.HasPrefix(c.mode, "static") {
		tags = append(tags, "anystatic")
	}
	if strings.HasSuffix(c.link, "-icf") && c.strip == "stripped" {
		tags = append(tags, "icf-stripped")
	}
	return tags
}

func parseConfig(s string) (c config, err error) {
	w := strings.Split(s, "/")
	if len(w) != 6 {
		return c, fmt.Errorf("%q is no configuration", s)
	}
	return config{w[0], w[1], w[2], w[3], w[4], w[5]}, nil
}

// possible reports combinations that compilers and linkers have.
func (c config) possible() bool {
	switch {
	case c.cc == "clang" && (c.flag == "gnu2" || c.flag == "nounwind"):
		return false // not known to clang 14 on this machine; not of interest
	case c.link == "ld-q" && c.strip != "symbols":
		return false // strip breaks such programs: they read their imported variables wrong before any patch
	case c.mode == "staticpie" && (strings.HasPrefix(c.link, "gold") || c.link == "ld-norelax"):
		return false // they make programs that do not start
	}
	return true
}

// cover chooses n configurations for a case, always the same ones: together
// they hold every value of the longest axis n/len times.
func cover(name string, round, n int) []config {
	h := fnv.New64a()
	h.Write([]byte(name))
	r := rand.New(rand.NewPCG(h.Sum64(), uint64(round)))
	deck := func(a axis) func() string {
		var left []string
		return func() string {
			if len(left) == 0 {
				for _, v := range a {
					left = append(left, v.tag)
				}
				r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
			}
			last := len(left) - 1
			v := left[last]
			left = left[:last]
			return v
		}
	}
	cc, opt, mode, flag, link, strip := deck(compilers), deck(levels), deck(modes), deck(flags), deck(linkers), deck(strips)
	var all []config
	for len(all) < n {
		c := config{cc(), opt(), mode(), flag(), link(), strip()}
		if c.possible() && !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	return all
}
