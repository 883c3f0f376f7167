package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"livepatch/internal/check"
	"livepatch/internal/pack"
	"livepatch/internal/sign"
	"livepatch/internal/trust"
)

func keygenCommand() *cli.Command {
	return &cli.Command{
		Name: "keygen", Usage: "make a key to sign packages with", Category: groupBuild,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Required: true, Usage: "`FILE` of the private key; the public one goes beside it, with the suffix .pub"},
			jsonFlag(),
		},
		Description: `
Makes an Ed25519 key. The private key is for the machine that builds packages,
with mode 0600, the public one for those that apply them. Both are PEM as
openssl reads and writes it. A file that is there already is not overwritten.

Examples:
  livepatch keygen -o release.key
  livepatch sign --key release.key fix.lpatch
  livepatch apply fix.lpatch --pid 4182 --require-key release.key.pub`,
		Action: keygen,
	}
}

func keygen(c *cli.Context) error {
	if _, err := takeArgs(c, 0, 0); err != nil {
		return err
	}
	p := newPrinter(c)
	path := c.String("output")
	key, err := sign.Generate(rand.Reader)
	if err != nil {
		return err
	}
	if err := trust.WriteNew(path, key); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return hinted(err, "keys are never overwritten: choose another name")
		}
		return err
	}
	if p.json {
		return p.JSON(madeKey{path, path + ".pub", key.Public().ID()})
	}
	p.Printf("key %s\nprivate  %s\npublic   %s.pub\n", key.Public().ID(), path, path)
	return nil
}

// madeKey is what keygen --json prints.
type madeKey struct {
	Private string `json:"private"` // file
	Public  string `json:"public"`  // file
	ID      string `json:"id"`
}

func signCommand() *cli.Command {
	return &cli.Command{
		Name: "sign", Usage: "sign a package", ArgsUsage: "PKG", Category: groupBuild,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Required: true, Usage: "private key `FILE`"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "package `FILE` to write (default: the package itself)"},
			jsonFlag(),
		},
		Description: `
Adds a signature of the manifest, which covers all of the package. Signatures
with other keys stay; signing again with the same key changes nothing.

Examples:
  livepatch sign --key release.key fix.lpatch
  livepatch sign --key release.key fix.lpatch -o signed/fix.lpatch`,
		Action: signAction,
	}
}

func signAction(c *cli.Context) error {
	args, err := takeArgs(c, 1, 1)
	if err != nil {
		return err
	}
	p := newPrinter(c)
	key, err := trust.ReadPrivate(c.String("key"))
	if err != nil {
		return err
	}
	pkg, _, err := readPackage(args[0])
	if err != nil {
		return err
	}
	if err := pkg.Sign(key); err != nil {
		return err
	}
	b, err := pack.Write(pkg)
	if err != nil {
		return err
	}
	output := args[0]
	if c.IsSet("output") {
		output = c.String("output")
	}
	if err := writeFile(output, b); err != nil {
		return err
	}
	if p.json {
		return p.JSON(signedPackage{output, len(b), pack.Digest(b), check.Signers(pkg, sign.Policy{})})
	}
	p.Printf("signed %s with key %s: %d bytes, digest %s\n", output, key.Public().ID(), len(b), pack.Digest(b)[:16])
	return nil
}

// signedPackage is what sign --json prints.
type signedPackage struct {
	Package    string         `json:"package"`
	Bytes      int            `json:"bytes"`
	Digest     string         `json:"digest"`
	Signatures []check.Signer `json:"signatures"`
}

// signFlag is the --key of commands that make packages.
func signFlag() cli.Flag {
	return &cli.StringFlag{Name: "key", Usage: "sign the package with the private key `FILE`"}
}

// signingKey reads the key of signFlag, before anything takes time.
func signingKey(c *cli.Context) (key sign.PrivateKey, err error) {
	if c.IsSet("key") {
		return trust.ReadPrivate(c.String("key"))
	}
	return key, nil
}

// trustDirVariable names the trust directory for commands without --trust-dir.
const trustDirVariable = "LIVEPATCH_TRUST_DIR"

// trustDirFlag chooses the trust directory.
func trustDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "trust-dir", DefaultText: "$" + trustDirVariable + ", or " + trust.DefaultDir,
		Usage: "`DIR` of public keys, one of which must have signed the package if the directory is there"}
}

// requireFlags say which signatures a package has to have to be applied.
func requireFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "require-key", Usage: "public key `FILE` that must have signed the package; repeatable, all of them must have"},
		trustDirFlag(),
	}
}

// trustPolicy reads the keys that are demanded: those of the option, and those
// of the trust directory. One that was asked for by name has to be there.
func trustPolicy(c *cli.Context, option string) (policy sign.Policy, err error) {
	for _, path := range c.StringSlice(option) {
		key, err := trust.ReadPublic(path)
		if err != nil {
			return policy, err
		}
		policy.Required = append(policy.Required, key)
	}
	if c.IsSet("trust-dir") && c.String("trust-dir") == "" {
		return policy, hintHelp(usageErrorf("--trust-dir needs a directory"), c.Command)
	}
	named := cmp.Or(c.String("trust-dir"), os.Getenv(trustDirVariable))
	policy.Trusted, err = trust.ReadDir(cmp.Or(named, trust.DefaultDir))
	if err == nil && policy.Trusted == nil && named != "" {
		err = fmt.Errorf("read %s: %w", named, fs.ErrNotExist)
	}
	return policy, err
}

// demandArgs are the options by which another run of livepatch makes the same
// demands as this one, from whatever directory it is started.
func demandArgs(c *cli.Context) (out []string, err error) {
	add := func(option, path string) {
		abs, e := filepath.Abs(path)
		if e != nil && err == nil {
			err = fmt.Errorf("find %s: %w", path, e)
		}
		out = append(out, "--"+option, abs)
	}
	for _, path := range c.StringSlice("require-key") {
		add("require-key", path)
	}
	if dir := cmp.Or(c.String("trust-dir"), os.Getenv(trustDirVariable)); dir != "" {
		add("trust-dir", dir)
	}
	return out, err
}

// readTrusted reads a package that has the signatures that the command line and
// the machine demand. Nothing was touched when it is refused.
func readTrusted(c *cli.Context, path string) (*pack.Package, error) {
	policy, err := trustPolicy(c, "require-key")
	if err != nil {
		return nil, err
	}
	pkg, _, err := readPackage(path)
	if err != nil {
		return nil, err
	}
	if list := policy.Judge(pkg.Signatures); len(list) > 0 {
		return nil, inFile(path, list.Err())
	}
	return pkg, nil
}
