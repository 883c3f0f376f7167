//go:build linux && arm64

package process

import (
	"fmt"

	"livepatch/internal/refusal"
)

// Reclaim is refused: nothing here tells which addresses code of this machine makes.
func Reclaim(pids []int, _ string, _ Options) (*Reclaimed, error) {
	where := "processes"
	if len(pids) == 1 {
		where = fmt.Sprintf("process %d", pids[0])
	}
	return nil, refusal.New(refusal.Unsupported, where, "on %s it cannot be proven that memory of a patch is not used any more", machineName)
}
