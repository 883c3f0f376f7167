package watch

import (
	"livepatch/internal/fit"
	"livepatch/internal/pack"
	"livepatch/internal/process"
)

// Images returns what a process executes, for comparing it with packages.
func Images(s *process.Seen) []fit.Image {
	images := make([]fit.Image, len(s.Images))
	for i, im := range s.Images {
		images[i] = fit.Image{Name: im.Name, BuildID: im.BuildID, Digest: im.Digest}
	}
	return images
}

// Host is the machine that this program runs on.
type Host struct{ Options process.Options }

// Processes lists the processes.
func (Host) Processes() ([]int, error) { return process.All() }

// Identify tells one program from the next that a process runs.
func (Host) Identify(pid int) (process.Life, error) { return process.Identify(pid) }

// Program returns the file that a process runs.
func (Host) Program(pid int) (process.File, error) { return process.Program(pid) }

// Look looks what a process runs.
func (Host) Look(pid int, look func(*process.Seen)) error { return process.Look(pid, look) }

// Apply applies a package to a process.
func (h Host) Apply(pid int, pkg *pack.Package) (*process.Result, error) {
	return process.Apply([]int{pid}, pkg, h.Options)
}
