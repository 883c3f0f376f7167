// Package kernel tests patches of Debian's kernels: made from object pairs, loaded into
// the unmodified kernel in a machine, seen to work from user space, reverted, with
// every line of the kernel's log accounted for.
//
// A case is a directory in cases: a source patch, a script "observe" whose output
// says which code runs, and "expect": what it prints and what the kernel logs.
package kernel
