package diff

import "livepatch/elfpatch"

// lineTable tells the source lines of places in an object.
type lineTable struct{}

func readLines(f *elfpatch.File) *lineTable { return nil }

func (t *lineTable) at(sec int, off uint64) (int64, bool) { return 0, false }
