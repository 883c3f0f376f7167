package main

import (
	"crypto/sha256"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"livepatch/internal/build"
	"livepatch/internal/compose"
	"livepatch/internal/kmod"
	"livepatch/internal/pack"
)

func mergeCommand() *cli.Command {
	return &cli.Command{
		Name: "merge", Usage: "make one package of several", ArgsUsage: "PKG PKG...", Category: groupBuild,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "package `FILE` to write"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the patch (default: that of the package file)"},
			signFlag(), moduleKeyFlag(), moduleCertFlag(),
			demangleFlag(), jsonFlag(),
		},
		Description: `
Puts patches that were made apart into one package, which is applied and
reverted as one: patches of programs, or patches of one kernel. A function that
several packages replace by the same code is taken once; one that they replace
differently is refused, and so are variables that several of them bring. The
record of how each was made is kept. Signatures are not: sign what is merged.

Payloads of programs stay byte for byte what they are. The modules of a kernel
are taken apart and made into one module, whatever the order of the packages. A
module that livepatch has not made is refused, and so are packages with
callbacks for the same object. If one of the modules is signed, the merged one has to be
signed too, with --module-key and --module-cert.

Examples:
  livepatch merge -o all.lpatch fix-a.lpatch fix-b.lpatch
  livepatch merge -o all.lpatch --key release.key fix-*.lpatch
  livepatch verify all.lpatch --target /boot/vmlinuz-6.12.117+deb12-amd64`,
		Action: merge,
	}
}

func merge(c *cli.Context) error {
	args, err := takeArgs(c, 2, -1)
	if err != nil {
		return err
	}
	if err := checkName(c); err != nil {
		return err
	}
	p := newPrinter(c)
	key, err := signingKey(c)
	if err != nil {
		return err
	}
	parts, kernels, err := mergeParts(args)
	if err != nil {
		return err
	}
	o := compose.Options{Name: packageName(c), Version: version}
	if kernels == 0 && c.IsSet("module-key") {
		return hintHelp(usageErrorf("--module-key is for packages of kernels"), c.Command)
	}
	if o.Sign, err = moduleSigner(c, signatureHash(parts)); err != nil {
		return err
	}
	merged, err := compose.Merge(o, parts)
	if err != nil {
		return err
	}
	if !key.IsZero() {
		if err := merged.Package.Sign(key); err != nil {
			return err
		}
	}
	data, err := pack.Write(merged.Package)
	if err != nil {
		return err
	}
	if err := writeFile(c.String("output"), data); err != nil {
		return err
	}
	return printCreated(p, c.String("output"), &build.Result{Package: merged.Package}, data, merged.Once...)
}

// mergeParts reads the packages, and counts those of kernels.
func mergeParts(paths []string) (parts []compose.Part, kernels int, err error) {
	for _, path := range paths {
		pkg, b, err := readPackage(path)
		if err != nil {
			return nil, 0, err
		}
		sum := sha256.Sum256(b)
		parts = append(parts, compose.Part{File: filepath.Base(path), SHA256: sum[:], Package: pkg})
		if pkg.Manifest.Kernel != nil {
			kernels++
		}
	}
	return parts, kernels, nil
}

// signatureHash is the digest of the first module that is signed, which its
// kernel knows; "" if none is.
func signatureHash(parts []compose.Part) string {
	for _, p := range parts {
		if k := p.Package.Manifest.Kernel; k != nil && k.Signed {
			return kmod.SignatureHash(p.Package.Members[k.Payload.Member])
		}
	}
	return ""
}
