//go:build linux && amd64

package process

import (
	"debug/elf"
	"strings"
)

// patchable leaves the NOPs that dispatch slot needs.
const patchable = "-fpatchable-function-entry=16,11"

// slotSwitches are the ways to write an entry that leads to a record.
var slotSwitches = []Switch{SwitchStop, SwitchInt3}

// throwers is how many threads throw exceptions.
const throwers = "4"

// vdsoCalls says that every process has the code for an injected system call.
const vdsoCalls = false

// tlsOffset is the place of a variable of the executable's block from the thread
// pointer: the block ends there.
func tlsOffset(block *elf.ProgHeader, value uint64) int64 {
	return int64(value - alignUp(block.Memsz, block.Align))
}

// isJump reports whether code in hexadecimal digits begins with a direct jump.
func isJump(code string) bool { return strings.HasPrefix(code, "e9") }
