package kbuild

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"livepatch/internal/child"
)

// While objects are compiled with the patch another build may have the tree of a
// cache, but not one of a user; that it was prepared anew is noticed.
func TestUnlocked(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files are not locked there")
	}
	for _, immutable := range []bool{true, false} {
		tree := &Tree{Kernel: &Kernel{Work: t.TempDir(), Immutable: immutable, Release: "6.12"}}
		writeTree(t, tree.obj(), map[string]string{".prepared": "key"})
		run := func(fn func()) error {
			lock, err := child.Lock(t.Context(), tree.Work, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			return tree.unlocked(lock, func() error { fn(); return nil })
		}
		err := run(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			other, err := child.Lock(ctx, tree.Work, nil)
			if got := err == nil; got != immutable {
				t.Errorf("immutable %v: another build gets the lock: %v (%v)", immutable, got, err)
			}
			if err == nil {
				other.Close()
			}
		})
		if err != nil {
			t.Error(err)
		}
		err = run(func() {
			if err := os.RemoveAll(tree.obj()); err != nil {
				t.Fatal(err)
			}
			writeTree(t, tree.obj(), map[string]string{".prepared": "key"})
		})
		if immutable != (err != nil && strings.Contains(err.Error(), "prepared the kernel anew")) {
			t.Errorf("immutable %v: prepared anew: %v", immutable, err)
		}
	}
}
