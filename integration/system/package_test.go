package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cleanEnv is this process's environment without what a make that called it
// left there.
func cleanEnv(more ...string) []string {
	var vars []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VERSION", "SOURCE_DATE_EPOCH", "ARGS", "LDFLAGS":
		default:
			vars = append(vars, v)
		}
	}
	return append(vars, more...)
}

func script(t *testing.T, dir, text string, more ...string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", text)
	cmd.Dir, cmd.Env = dir, cleanEnv(more...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
	return string(out)
}

// sourceCopy copies the repository's files, as they are here, without git.
func sourceCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(env.scratch, "source")
	check(t, err)
	script(t, env.source, `git -c safe.directory='*' ls-files -z | tar -c --null -T - | tar -x -C "$TO"`, "TO="+dir)
	return dir
}

// field returns a field of the package's control file.
func field(t *testing.T, deb, name string) string {
	t.Helper()
	return strings.TrimSpace(command(t, "dpkg-deb", "-f", deb, name))
}

// What is built elsewhere is the same to the byte; then an upgrade with a
// volume mounted, by a package built from there.
func TestReproducibleAndUpgrade(t *testing.T) {
	version := strings.TrimSuffix(field(t, env.deb, "Version"), "-1")
	epoch := strings.TrimSpace(script(t, env.source, "cmd/plyfs/packaging/version.sh epoch"))
	other := sourceCopy(t)
	script(t, other, "make deb", "VERSION="+version, "SOURCE_DATE_EPOCH="+epoch)
	command(t, "cmp", filepath.Join(env.source, "bin/plyfs"), filepath.Join(other, "bin/plyfs"))
	command(t, "cmp", env.deb, filepath.Join(other, "bin", filepath.Base(env.deb)))
	out := command(t, filepath.Join(other, "bin/plyfs"), "version")
	wantText(t, "version", out, "plyfs "+version+" ")
	if text := command(t, "file", "-b", filepath.Join(other, "bin/plyfs")); !strings.Contains(text, "statically linked") {
		t.Errorf("the program is not static: %s", text)
	}

	script(t, other, "rm bin/*.deb; make deb", "VERSION=99.0")
	next, err := filepath.Glob(filepath.Join(other, "bin/*.deb"))
	if err != nil || len(next) != 1 {
		t.Fatalf("packages: %q, %v", next, err)
	}
	m := installed(t)
	m.volume()
	m.run("mount -t plyfs /srv/v /mnt/v && echo before >/mnt/v/f")
	before := m.daemons()
	m.install(next[0])
	wantText(t, "the new program", m.run("plyfs version"), "plyfs 99.0 ")
	if after := m.daemons(); len(after) != 1 || after[0] != before[0] || ended(after[0], 0) {
		t.Errorf("the daemon was %v, and is %v", before, after)
	}
	m.run("echo after >>/mnt/v/f && mount -o remount,ro /mnt/v && mount -o remount,rw /mnt/v")
	wantText(t, "status", m.run("plyfs status /mnt/v"), "serving, process "+itoa(before[0]))
	m.run("umount /mnt/v && mount -t plyfs /srv/v /mnt/v && test \"$(cat /mnt/v/f)\" = \"$(printf 'before\\nafter')\"")

	// Removed with a volume mounted, and purged: no key is lost, nothing else stays.
	wantText(t, "removal", m.run("dpkg --force-unsafe-io -r plyfs"), "stay mounted until they are unmounted", "/mnt/v")
	m.run("echo gone >>/mnt/v/f && umount /mnt/v && flock /srv/v/.plyfs/lock true")
	for _, pid := range m.daemons() {
		ended(pid, time.Minute)
	}
	wantText(t, "purge", m.run("dpkg --force-unsafe-io -P plyfs"), "/etc/plyfs is kept")
	m.run("test -s /etc/plyfs/keystore/data.key && test -s /etc/plyfs/keystore/infra.store")
	if left := m.run("dpkg -l plyfs 2>/dev/null | grep ^ii || true; ls -d /usr/bin/plyfs /usr/sbin/*mount*.plyfs /var/log/plyfs /var/lib/plyfs /run/plyfs " +
		"/usr/share/doc/plyfs /lib/systemd/system/plyfs@.service /etc/plyfs/mounts 2>/dev/null || true"); left != "" {
		t.Errorf("left after the purge:\n%s", left)
	}
}

// The docker plugin runs the new program after an upgrade; a removal leaves no unit
// enabled, and stops no volume. systemctl(1) is told what it would be told.
func TestPackageAndItsServices(t *testing.T) {
	m := newMachine(t)
	m.write("/usr/local/sbin/systemctl", "#!/bin/sh\necho \"systemctl $*\" >>/srv/told\nexport SYSTEMD_OFFLINE=1\nexec /usr/bin/systemctl \"$@\"\n", 0o755)
	m.run("mkdir -p /run/systemd/system && rm -f /var/lib/man-db/auto-update /usr/sbin/policy-rc.d")
	told := func(what func()) string {
		t.Helper()
		m.write("/srv/told", "", 0o644)
		what()
		return m.read("/srv/told")
	}
	const restart, reload = "systemctl try-restart plyfs-docker.service\n", "systemctl --system daemon-reload\n"
	install := func() { m.install(env.deb) }
	if got := told(install); got != reload {
		t.Errorf("a first installation tells\n%s", got)
	}
	if got := told(install); got != reload+restart {
		t.Errorf("an upgrade tells\n%s", got)
	}
	m.run(`SYSTEMD_OFFLINE=1 systemctl enable plyfs-docker plyfs@mnt-v 'plyfs@srv-with\x20blank'`)
	const links = "find /etc/systemd -name '*plyfs*'"
	if n := strings.Count(m.run(links), "\n"); n != 4 {
		t.Fatalf("%d links enable the units:\n%s", n, m.run(links))
	}
	got := told(func() { m.run("dpkg --force-unsafe-io -r plyfs") })
	if want := "systemctl --system disable --now plyfs-docker.service\nsystemctl --system disable plyfs@.service\n" + reload; got != want {
		t.Errorf("a removal tells\n%s", got)
	}
	if left := m.run(links); left != "" {
		t.Errorf("left enabled:\n%s", left)
	}
}

// Without keys nothing stays at all.
func TestPurge(t *testing.T) {
	m := installed(t)
	m.run("dpkg --force-unsafe-io -P plyfs")
	if left := m.run("find /etc /usr/bin /usr/sbin /usr/lib/systemd /usr/share /var/lib/dpkg/info /run -name '*plyfs*'"); left != "" {
		t.Errorf("left after the purge:\n%s", left)
	}
}

// Volumes stay as they are: those of the docker plugin, mounted and not, and one
// from elsewhere that is seen below its directory.
func TestPurgeKeepsVolumes(t *testing.T) {
	m := installed(t)
	m.volume()
	m.run("mount -t plyfs /srv/v /mnt/v && echo elsewhere >/mnt/v/f && umount /mnt/v")
	m.run(`mkdir -p /srv/state /var/lib/plyfs /var/log/plyfs && mount --bind /srv/state /var/lib/plyfs
mkdir /var/lib/plyfs/volumes
cd /var/lib/plyfs/volumes
mkdir -p data adopted/v mnt/db mnt/idle
for v in db idle; do
	plyfs init data/$v
	plyfs mount data/$v mnt/$v
	echo $v >mnt/$v/f
done
mount --bind /srv/v adopted/v
echo '{}' >state.json
echo line >/var/log/plyfs/mnt-v.log`)
	sum := func() string {
		return m.run("find /srv/v /var/lib/plyfs/volumes/data/idle -type f -exec sha256sum {} + | sort")
	}
	m.run("plyfs umount /var/lib/plyfs/volumes/mnt/idle && test -s /var/lib/plyfs/hosts.json")
	before := sum()
	wantText(t, "purge", m.run("dpkg --force-unsafe-io -P plyfs"), "/var/lib/plyfs is kept", "/etc/plyfs is kept")
	if after := sum(); after != before {
		t.Errorf("volumes were\n%s\nand are\n%s", before, after)
	}
	if left := m.run("ls -d /var/log/plyfs /var/lib/plyfs/hosts.json* 2>/dev/null || true"); left != "" {
		t.Errorf("left after the purge:\n%s", left)
	}
	m.run(`cd /var/lib/plyfs/volumes
test "$(cat mnt/db/f)" = db && test -s data/db/plyfs.json && test -s state.json
echo more >>mnt/db/f && umount mnt/db && flock data/db/.plyfs/lock true`)
}

// The package in itself.
func TestPackage(t *testing.T) {
	version := field(t, env.deb, "Version")
	keys, err := filepath.Glob(filepath.Join(filepath.Dir(env.deb), "plyfs-key-*_"+version+"_*.deb"))
	check(t, err)
	if len(keys) < 2 {
		t.Errorf("packages of the programs for keys: %q", keys)
	}
	cmd := exec.Command("lintian", "--profile", "debian", "--fail-on", "error,warning", "--allow-root", env.deb)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	if d := field(t, env.deb, "Depends"); d != "fuse3" {
		t.Errorf("it depends on %q", d)
	}
	m := installed(t)
	for _, deb := range keys {
		m.install(deb)
		m.run("test -x /usr/bin/" + field(t, deb, "Package"))
	}
	for _, page := range []string{"1 plyfs", "5 plyfs-providers", "7 plyfs-mysql", "8 mount.plyfs", "8 mount.fuse.plyfs", "8 umount.fuse.plyfs"} {
		if out := m.run("man -P cat " + page + " 2>&1"); len(out) < 1000 {
			t.Errorf("man %s: %s", page, out)
		}
	}
	m.run("for f in mount.plyfs mount.fuse.plyfs umount.fuse.plyfs; do test \"$(readlink -f /sbin/$f)\" = /usr/bin/plyfs; done")
	wantText(t, "copyright", m.read("/usr/share/doc/plyfs/copyright"), "Apache-2.0", "github.com/hanwen/go-fuse", "github.com/urfave/cli", "golang.org/x/crypto")
	if out := m.run("dpkg -V plyfs"); out != "" {
		t.Errorf("dpkg -V: %s", out)
	}
}

// The version is that of the commit, in a clone and in a tarball of it, and
// sorts before the release that it leads to.
func TestVersionStamp(t *testing.T) {
	dir := filepath.Join(env.scratch, "stamp")
	check(t, os.MkdirAll(dir, 0o755))
	out := script(t, dir, `
mkdir -p r/cmd/plyfs
cp "$FROM/CHANGELOG.md" r/
cp -a "$FROM/cmd/plyfs/packaging" r/cmd/plyfs/
cd r
echo "bare $(cmd/plyfs/packaging/version.sh)"
git init -q . && git add -A
git -c user.name=a -c user.email=a@b commit -qm first --date 2026-01-31T23:59:59Z
export HASH=$(git rev-parse HEAD)
echo "commit $(cmd/plyfs/packaging/version.sh)"
echo "epoch $(cmd/plyfs/packaging/version.sh epoch)"
mkdir ../a && git archive HEAD | tar -x -C ../a
echo "archive $(../a/cmd/plyfs/packaging/version.sh)"
echo "archive-epoch $(../a/cmd/plyfs/packaging/version.sh epoch)"
echo >>CHANGELOG.md
echo "dirty $(cmd/plyfs/packaging/version.sh)"
git checkout -q CHANGELOG.md
git tag v1.2.3
echo "tag $(cmd/plyfs/packaging/version.sh)"
mkdir ../b && git archive HEAD | tar -x -C ../b
echo "tag-archive $(../b/cmd/plyfs/packaging/version.sh)"
echo "hash $HASH"
`, "FROM="+env.source, "GIT_COMMITTER_DATE=2026-01-31T23:59:59Z")
	got := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = value
	}
	base := got["bare"]
	commit := base + "~git20260131235959." + got["hash"][:8]
	want := map[string]string{"commit": commit, "archive": commit, "dirty": commit + "+dirty", "tag": "1.2.3", "tag-archive": "1.2.3",
		"epoch": "1769903999", "archive-epoch": "1769903999"}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %q, want %q", name, got[name], w)
		}
	}
	for _, pair := range [][2]string{{commit, base}, {commit, commit + "+dirty"}} {
		command(t, "dpkg", "--compare-versions", pair[0], "lt", pair[1])
	}
}
