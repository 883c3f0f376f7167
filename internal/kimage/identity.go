package kimage

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"livepatch/elfpatch"
)

const bannerStart = "Linux version "

// readIdentity fills in what names the kernel.
func (k *Kernel) readIdentity() error {
	var err error
	if k.BuildID, err = k.File.BuildID(); err != nil {
		return err
	}
	if s := k.File.Section(".BTF"); s != nil && len(s.Data) > 0 {
		k.BTF = s.Data
	}
	if k.Banner, err = k.banner(); err != nil {
		return err
	}
	k.Release, _, _ = strings.Cut(strings.TrimPrefix(k.Banner, bannerStart), " ")
	k.Vermagic = k.vermagic()
	return nil
}

// banner returns the text of linux_banner, what /proc/version shows too.
func (k *Kernel) banner() (string, error) {
	var all []string
	for _, i := range k.Named("linux_banner") {
		if s, ok := stringAt(k.File, k.Symbols[i].Addr); ok {
			all = append(all, s)
		}
	}
	if all == nil {
		all = k.search([]byte("\x00"+bannerStart), func(s string) bool { return strings.HasSuffix(s, "\n") })
	}
	if len(all) != 1 {
		return "", errors.New("the kernel image has no banner (linux_banner)")
	}
	s := strings.TrimSuffix(all[0], "\n")
	if !strings.HasPrefix(s, bannerStart) || len(strings.Fields(s)) < 3 {
		return "", errors.New("the banner of the kernel image (linux_banner) is damaged")
	}
	return s, nil
}

// vermagic returns the string that include/linux/vermagic.h makes: the release, then
// words for what modules have to agree with. Without its symbol it is told by
// its form.
func (k *Kernel) vermagic() string {
	fits := func(s string) bool {
		return strings.HasPrefix(s, k.Release+" ") && (strings.Contains(s, "SMP ") || strings.Contains(s, "mod_unload "))
	}
	for _, i := range k.Named("vermagic") {
		if s, ok := stringAt(k.File, k.Symbols[i].Addr); ok && fits(s) {
			return s
		}
	}
	if all := k.search([]byte("\x00"+k.Release+" "), fits); len(all) == 1 {
		return all[0]
	}
	return ""
}

// maxText bounds the strings that are looked for.
const maxText = 1024

// stringAt returns the string at an address of a linked file.
func stringAt(f *elfpatch.File, addr uint64) (string, bool) {
	if b, ok := f.ReadAddr(addr, maxText); ok {
		return cString(b)
	}
	for n := range maxText { // near the end of what the file has
		b, ok := f.ReadAddr(addr, n+1)
		if !ok {
			return "", false
		}
		if b[n] == 0 {
			return cString(b)
		}
	}
	return "", false
}

func cString(b []byte) (string, bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", false
	}
	for _, c := range b[:i] {
		if c >= 0x7f || c < ' ' && c != '\n' && c != '\t' {
			return "", false
		}
	}
	return string(b[:i]), true
}

// search returns distinct strings of the image that begin after the first byte
// of start and fit, two at most: more are as good as none.
func (k *Kernel) search(start []byte, fits func(string) bool) []string {
	var out []string
	for _, r := range elfRegions(k.File) {
		for b := r.data; len(out) < 2; {
			i := bytes.Index(b, start)
			if i < 0 {
				break
			}
			b = b[i+1:]
			if s, ok := cString(b[:min(len(b), maxText)]); ok && fits(s) && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}
