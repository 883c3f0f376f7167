//go:build linux && (amd64 || arm64)

package process

import (
	"slices"
	"strings"

	"livepatch/internal/refusal"
	"livepatch/internal/resolve"
)

// coroutines refuses processes that switch stacks themselves: what runs on a
// stack that no thread stands on now cannot be found. A program that imports
// the functions for it may do so.
func (p *proc) coroutines() error {
	scope := resolve.NewScope(p.mem, p.images)
	var list refusal.List
	async := p.usesAsyncJobs(scope)
	for _, im := range p.images {
		found := ""
		err := scope.Imported(im, func(name string) {
			if found == "" && switchesStacks(name) {
				found = name
			}
		})
		if err != nil || found == "" || strings.HasPrefix(im.Name(), "libcrypto.so") && !async {
			continue
		}
		list = append(list, refusal.New(refusal.Coroutines, p.where(), "%s uses %s to switch stacks; --scan-memory looks through all memory instead", im.Name(), found))
	}
	return list.Err()
}

// switchesStacks reports whether a function's only use is to switch stacks.
func switchesStacks(name string) bool {
	return slices.Contains([]string{"makecontext", "swapcontext", "make_fcontext", "jump_fcontext", "co_create", "co_switch"}, name)
}

// usesAsyncJobs reports whether anything but OpenSSL itself uses the one part
// of it that runs coroutines: asynchronous jobs (ASYNC_start_job(3), and SSL
// modes for the same).
func (p *proc) usesAsyncJobs(scope *resolve.Scope) bool {
	uses := false
	for _, im := range p.images {
		if strings.HasPrefix(im.Name(), "libssl.so") || strings.HasPrefix(im.Name(), "libcrypto.so") {
			continue
		}
		_ = scope.Imported(im, func(name string) {
			uses = uses || strings.HasPrefix(name, "ASYNC_") || name == "SSL_get_all_async_fds" || name == "SSL_waiting_for_async"
		})
	}
	return uses
}
