package kmod

import (
	"bytes"
	"debug/elf"
	"maps"
	"testing"

	"livepatch/elfpatch"
	"livepatch/internal/testkit/vm"
)

// arm64Args are those of a compiler for Debian's arm64 kernels.
var arm64Args = []string{"-c", "-O2", "-std=gnu11", "-ffreestanding", "-fno-pic", "-mgeneral-regs-only", "-fno-stack-protector", "-fno-common",
	"-fno-asynchronous-unwind-tables", "-ffunction-sections", "-fdata-sections", "-falign-functions=8", "-fpatchable-function-entry=4,2", "-mbranch-protection=pac-ret"}

// TestARM64Kernel loads a module on Debian's arm64 kernel, which has no
// livepatch core: strlen stands in for klp_enable_patch, and counts the bytes
// of struct klp_patch up to the first that is zero. All else is as it will be:
// sections, symbol versions, relocations, init and exit, ftrace sites.
func TestARM64Kernel(t *testing.T) {
	k := opened(t, vm.Fetched(t, "--arch", "arm64", "6.12"))
	for name, s := range handABI().Structs {
		if name != "module" {
			k.abi.Structs[name] = s
		}
	}
	k.exports = maps.Clone(k.exports)
	k.exports[enablePatch] = k.exports["strlen"]
	parts := []Part{
		{Name: "cmdline.c", Cut: compiled(t, "aarch64-linux-gnu-gcc", arm64Args, "testdata/kernel/cmdline.c", "new_cmdline")},
		{Name: "helper.c", Cut: compiled(t, "aarch64-linux-gnu-gcc", arm64Args, "testdata/kernel/helper.c")},
	}
	for i := range parts {
		k.bind(t, &parts[i], nil)
		for j, b := range parts[i].Bindings {
			if b.Kind == KLP {
				parts[i].Bindings[j] = k.export("jiffies") // of no matter: the replacement is not called
			}
		}
	}
	m, err := Merge(elf.EM_AARCH64, parts)
	if err != nil {
		t.Fatal(err)
	}
	s := k.spec("kmod_test", m)
	s.Objects = []Object{{Funcs: []Func{{Name: "cmdline_proc_show", Replacement: "new_cmdline"}}}}
	b, err := Emit(s)
	if err != nil {
		t.Fatal(err)
	}
	r, err := vm.Run(t.Context(), vm.Config{Kernel: k.Kernel, Files: []vm.File{{Name: "/root/kmod_test.ko", Data: standIn(t, b)}}, Steps: []vm.Step{
		{Name: "load", Script: "insmod kmod_test.ko && cd /sys/kernel/tracing && echo 'helper new_cmdline' >set_ftrace_filter && cat set_ftrace_filter && echo function >current_tracer && " +
			"grep -c kmod_test enabled_functions; echo nop >current_tracer"},
		{Name: "unload", Script: "echo >/sys/kernel/tracing/set_ftrace_filter; rmmod kmod_test && grep -c kmod_test /proc/modules"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if load := r.Steps[0]; load.Output != "new_cmdline [kmod_test]\nhelper [kmod_test]\n2\n" || !hasText(load.Log, "'kmod_test'->init suspiciously returned") || hasText(load.Log, "ftrace bug") {
		t.Errorf("load: %q\n%v", load.Output, load.Log)
	}
	if unload := r.Steps[1]; unload.Output != "0\n" || len(unload.Log) > 0 {
		t.Errorf("unload: %q\n%v", unload.Output, unload.Log)
	}
}

// standIn makes a module that a kernel without a livepatch core loads.
func standIn(t testing.TB, module []byte) []byte {
	t.Helper()
	f, err := elfpatch.Parse(module)
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Symbols {
		if f.Symbols[i].Name == enablePatch {
			f.Symbols[i].Name = "strlen"
		}
	}
	versions, info := f.Section("__versions"), f.Section(".modinfo")
	versions.Data = bytes.Replace(versions.Data, []byte(enablePatch), append([]byte("strlen"), make([]byte, 10)...), 1)
	info.Data = bytes.Replace(info.Data, []byte("livepatch=Y"), []byte("livepatch-Y"), 1)
	out, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hasText(lines []vm.Line, text string) bool {
	for _, l := range lines {
		if bytes.Contains([]byte(l.Text), []byte(text)) {
			return true
		}
	}
	return false
}
