//go:build !unix

package trust

import "io/fs"

// permissions says that files have an owner and a mode as Unix knows them.
const permissions = false

func walk(string) error { return nil }

// changeable cannot tell here: access lists decide, and nothing is applied on
// such a system.
func changeable(fs.FileInfo) string { return "" }
