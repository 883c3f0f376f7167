package distro

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"livepatch/internal/child"
)

// fetcher fetches the parts of one kernel.
type fetcher struct {
	name     name
	cache    string
	parts    []string
	progress func(what string)

	apt    string // directory of our own apt configuration
	native string // this machine as dpkg calls it
	choice *choice
	dir    string // of the kernel
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// fetch looks up the packages and unpacks what is not there.
func (f *fetcher) fetch(ctx context.Context) error {
	for _, tool := range []string{"apt-get", "dpkg", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			return ErrNotDebian
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("%w: there is no %s", ErrNotDebian, keyring)
	}
	native, err := f.run(ctx, "dpkg", "--print-architecture")
	if err != nil {
		return err
	}
	f.native = native
	if err := f.configure(); err != nil {
		return err
	}
	f.progress("look up the kernel's packages")
	if _, err := f.run(ctx, "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return err
	}
	t, err := f.table(ctx)
	if err != nil {
		return err
	}
	c, why := t.choose(&f.name)
	if c == nil {
		if len(why) == 0 {
			return errors.New("there are no headers of it; what was replaced by a newer version has to be given with --kernel-src")
		}
		return fmt.Errorf("image, headers and source of one version are not there: %s", strings.Join(why, "; "))
	}
	f.choice, f.dir = c, filepath.Join(f.cache, c.release)
	if err := f.begin(); err != nil {
		return err
	}
	get := map[string]func(context.Context) error{"image": f.image, "headers": f.headers, "source": f.source, "dbg": f.debug, "compiler": f.compiler}
	for _, part := range f.parts {
		done := filepath.Join(f.dir, ".done", part)
		if _, err := os.Stat(done); err == nil {
			continue
		}
		f.progress("fetch " + part + " of " + c.release)
		if err := get[part](ctx); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			return err
		}
	}
	return relink(c.release, f.link())
}

// begin makes the directory of the kernel; one of another version goes.
func (f *fetcher) begin() error {
	b, err := os.ReadFile(filepath.Join(f.dir, "version"))
	if err == nil && strings.TrimSpace(string(b)) == f.choice.version {
		return nil
	}
	if err := os.RemoveAll(f.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(f.dir, ".done"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "release"), []byte(f.choice.release+"\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.dir, "version"), []byte(f.choice.version+"\n"), 0o644)
}

// run runs a program with our apt configuration.
func (f *fetcher) run(ctx context.Context, argv ...string) (string, error) {
	p := child.Program{Dir: f.cache, Argv: argv, Env: []string{"APT_CONFIG=" + filepath.Join(f.apt, "apt.conf")}}
	return p.Run(ctx)
}

// configure writes an apt configuration of our own, for both machines: only
// Debian's archive, signed with its keys.
func (f *fetcher) configure() error {
	f.apt = filepath.Join(f.cache, "apt-"+f.name.suite)
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(f.apt, dir), 0o755); err != nil {
			return err
		}
	}
	sources := fmt.Sprintf("deb [arch=amd64,arm64 signed-by=%s] http://deb.debian.org/debian %s main\n", keyring, f.name.suite)
	switch f.name.suite {
	case newest, "sid", "experimental":
	default:
		sources += fmt.Sprintf("deb [arch=amd64,arm64 signed-by=%s] http://deb.debian.org/debian-security %s-security main\n", keyring, f.name.suite)
	}
	if err := os.WriteFile(filepath.Join(f.apt, "sources.list"), []byte(sources), 0o644); err != nil {
		return err
	}
	conf := fmt.Sprintf(`APT::Architecture "%s";
APT::Architectures { "amd64"; "arm64"; };
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
Dir::Etc::sourcelist "%[2]s/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "%[2]s/lists";
Dir::State::status "/dev/null";
Dir::Cache "%[2]s/cache";
APT::Sandbox::User "%[3]s";
`, f.native, f.apt, userName())
	return os.WriteFile(filepath.Join(f.apt, "apt.conf"), []byte(conf), 0o644)
}

// userName is who runs this: apt would become another user, who cannot write
// here.
func userName() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	for _, v := range []string{"USER", "LOGNAME"} {
		if name := os.Getenv(v); regexp.MustCompile(`^[a-z_][\w-]*$`).MatchString(name) {
			return name
		}
	}
	return ""
}

// table reads the lists that apt has fetched and checked.
func (f *fetcher) table(ctx context.Context) (all table, err error) {
	lists, err := filepath.Glob(filepath.Join(f.apt, "lists", "*_Packages*"))
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		var b strings.Builder
		p := child.Program{Argv: []string{"/usr/lib/apt/apt-helper", "cat-file", list}, Output: func(line string) {
			if line == "" || line[0] != ' ' { // what goes on over several lines is not read
				b.WriteString(line)
				b.WriteByte('\n')
			}
		}}
		if _, err := p.Run(ctx); err != nil {
			return nil, fmt.Errorf("read the list of packages: %w", err)
		}
		t, err := readTable(strings.NewReader(b.String()))
		if err != nil {
			return nil, fmt.Errorf("read the list of packages: %w", err)
		}
		all = append(all, t...)
	}
	return all, nil
}

// unpack fetches packages and unpacks them into a directory of the kernel,
// which appears only when it is complete.
func (f *fetcher) unpack(ctx context.Context, name string, packages ...string) (err error) {
	dir := filepath.Join(f.dir, name)
	fresh, debs := dir+".new", dir+".new/debs"
	for _, old := range []string{dir, fresh} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(fresh))
		}
	}()
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	// apt-get compares each file with the digest of the signed list.
	p := child.Program{Dir: debs, Argv: append([]string{"apt-get", "-q", "download"}, packages...), Env: []string{"APT_CONFIG=" + filepath.Join(f.apt, "apt.conf")}}
	if _, err := p.Run(ctx); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) != len(packages) {
		return fmt.Errorf("apt-get fetched %d packages of %d", len(files), len(packages))
	}
	for _, deb := range files {
		if _, err := f.run(ctx, "dpkg", "-x", deb, fresh); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(debs); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

// relink makes a link, or replaces it.
func relink(to, link string) error {
	tmp := link + ".new"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(to, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, link); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}
