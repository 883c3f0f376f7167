package diff

// LineShift says how the lines of source files moved.
type LineShift struct {
	Files map[string][]Move // by the name of the file, as the objects spell its end: "fs/proc/meminfo.c"
}

// A Move is a stretch of a file that the patch moved: it begins at Line of the
// original and goes on to the next Move.
type Move struct {
	Line int // in the original, from 1
	By   int // lines
}
