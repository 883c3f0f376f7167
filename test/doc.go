// Package test holds the tests that need real programs: Debian's redis under
// load, the programs of testdata/binaries, the demo.
package test
