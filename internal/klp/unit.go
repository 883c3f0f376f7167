package klp

import (
	"fmt"
	"path/filepath"
	"strings"

	"livepatch/manifest"
)

// Unit returns a systemd service that applies a package at boot. It does
// nothing, and says so in the journal, on every kernel but the package's own;
// it is started as soon as the package can be read, before the services that
// would be in the way of a transition. Stopping it leaves the patch in place.
// The options are given to livepatch as they are.
func Unit(program, pkg string, m *manifest.Manifest, options []string) (string, error) {
	if m.Kernel == nil {
		return "", fmt.Errorf("%s patches programs, not the kernel", m.Name)
	}
	pkg, err := filepath.Abs(pkg)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", pkg, err)
	}
	for _, path := range append([]string{program, pkg}, options...) {
		if strings.ContainsAny(path, "\"\\\n\r") {
			return "", fmt.Errorf("%q cannot be written into a unit; use a path without quotes and backslashes", path)
		}
	}
	if strings.Contains(program, "$") {
		return "", fmt.Errorf("%q cannot be the program of a unit", program)
	}
	percent := func(s string) string { return strings.ReplaceAll(s, "%", "%%") }
	// In the words after the program $ is expanded, in quotes too.
	word := func(s string) string { return `"` + strings.ReplaceAll(percent(s), "$", "$$") + `"` }
	args := ""
	for _, o := range options {
		args += word(o) + " "
	}
	return fmt.Sprintf(`[Unit]
Description=Livepatch %s for kernel %s
Documentation=man:livepatch(1)
DefaultDependencies=no
RequiresMountsFor=%q
ConditionPathExists=/sys/kernel/livepatch
After=systemd-modules-load.service sys-kernel-tracing.mount sys-kernel-debug.mount
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%s apply --kernel --if-fits %s%s

[Install]
WantedBy=sysinit.target
`, percent(m.Name), percent(m.Kernel.Release), percent(pkg), word(program), args, word(pkg)), nil
}
