// Package policy holds the rules of the source tree as tests: which package
// may import which, what is pure, how files, errors and documents look. It has
// no code of its own.
package policy
