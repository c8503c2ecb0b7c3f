package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// machine is a copy of this machine's root, to work in by chroot. /srv lies on
// the disk.
type machine struct {
	t     *testing.T
	root  string
	upper string              // where its changes lie
	user  *syscall.Credential // of the commands; nil: root
	vars  []string            // of their environment
}

// newMachine makes one without the package.
func newMachine(t *testing.T) *machine { return machineOn(t, "/") }

// installed makes one with the package. It is installed once a run; what that
// changed lies beneath each.
func installed(t *testing.T) *machine {
	t.Helper()
	if env.base == "" {
		m := machineOn(t, "/")
		// This machine may have used plyfs; that must not be in the way.
		for _, name := range []string{"/usr/local/bin/plyfs", "/usr/local/sbin/plyfs", "/etc/plyfs", "/var/log/plyfs", "/var/lib/plyfs",
			"/var/lib/man-db/auto-update"} {
			check(t, os.RemoveAll(m.path(name)))
		}
		m.install(env.deb)
		base := filepath.Join(env.scratch, "base")
		check(t, os.Mkdir(base, 0o755))
		check(t, unix.Mount("tmpfs", base, "tmpfs", 0, "mode=755"))
		command(t, "cp", "-a", m.upper+"/.", base)
		env.base = base
	}
	return machineOn(t, env.base+":/")
}

// machineOn makes one of what lies in the directories lower.
func machineOn(t *testing.T, lower string) *machine {
	t.Helper()
	dir, err := os.MkdirTemp(env.scratch, "m")
	check(t, err)
	check(t, os.Chmod(dir, 0o755))
	top, data := filepath.Join(dir, "top"), filepath.Join(dir, "data")
	m := &machine{t: t, root: filepath.Join(dir, "root"), upper: filepath.Join(top, "upper")}
	for _, d := range []string{m.root, top, data} {
		check(t, os.Mkdir(d, 0o755))
	}
	t.Cleanup(m.remove)
	mount := func(source, target, fstype string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(source, target, fstype, flags, data); err != nil {
			t.Fatalf("mount %s at %s: %v", source, target, err)
		}
	}
	mount("tmpfs", top, "tmpfs", 0, "mode=755")
	work := filepath.Join(top, "work")
	check(t, os.Mkdir(m.upper, 0o755))
	check(t, os.Mkdir(work, 0o755))
	mount("overlay", m.root, "overlay", 0, "lowerdir="+lower+",upperdir="+m.upper+",workdir="+work)
	mount("proc", m.path("/proc"), "proc", 0, "")
	mount("sysfs", m.path("/sys"), "sysfs", 0, "")
	mount("tmpfs", m.path("/run"), "tmpfs", 0, "mode=755")
	mount("tmpfs", m.path("/tmp"), "tmpfs", 0, "mode=1777")
	mount("tmpfs", m.path("/dev"), "tmpfs", 0, "mode=755")
	check(t, os.MkdirAll(m.path("/srv"), 0o755))
	mount(data, m.path("/srv"), "", unix.MS_BIND, "")
	for name, dev := range map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9),
		"tty": unix.Mkdev(5, 0), "ptmx": unix.Mkdev(5, 2), "fuse": unix.Mkdev(10, 229),
	} {
		check(t, unix.Mknod(m.path("/dev/"+name), unix.S_IFCHR|0o666, int(dev)))
		check(t, os.Chmod(m.path("/dev/"+name), 0o666))
	}
	check(t, os.Symlink("/proc/self/fd", m.path("/dev/fd")))
	check(t, os.Mkdir(m.path("/dev/pts"), 0o755))
	mount("/dev/pts", m.path("/dev/pts"), "", unix.MS_BIND, "")
	m.write("/etc/fstab", "", 0o644)
	return m
}

func (m *machine) install(deb string) {
	m.t.Helper()
	b, err := os.ReadFile(deb)
	check(m.t, err)
	m.write("/tmp/plyfs.deb", string(b), 0o644)
	m.run("dpkg --force-unsafe-io -i /tmp/plyfs.deb")
}

// remove takes the machine away. Volumes that a failed test left mounted come
// first, with their daemons.
func (m *machine) remove() {
	dir := filepath.Dir(m.root)
	for _, mnt := range scratch.Mounts(dir) {
		var st unix.Statfs_t
		if unix.Statfs(mnt, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			m.t.Errorf("left mounted: %s", mnt)
			unix.Unmount(mnt, unix.MNT_DETACH)
		}
	}
	for _, pid := range m.daemons() {
		if !ended(pid, 30*time.Second) {
			m.t.Errorf("daemon %d does not end", pid)
			unix.Kill(pid, unix.SIGKILL)
			ended(pid, 30*time.Second)
		}
	}
	if m.t.Failed() {
		logs, _ := filepath.Glob(m.path("/var/log/plyfs/*"))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			m.t.Logf("%s:\n%s", filepath.Base(l), text)
		}
	}
	if err := scratch.RemoveTree(dir); err != nil {
		m.t.Error(err)
	}
}

// daemons are the processes that serve mounts of root's.
func (m *machine) daemons() []int {
	var pids []int
	files, _ := filepath.Glob(m.path("/run/plyfs/*.json"))
	for _, f := range files {
		var run struct{ PID int }
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &run) == nil && run.PID > 0 {
			pids = append(pids, run.PID)
		}
	}
	return pids
}

// ended waits for a process that is no child of this one.
func ended(pid int, within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// path is where a path of the machine is on this one.
func (m *machine) path(p string) string { return filepath.Join(m.root, p) }

func (m *machine) write(path, text string, mode os.FileMode) {
	m.t.Helper()
	check(m.t, os.MkdirAll(filepath.Dir(m.path(path)), 0o755))
	check(m.t, os.WriteFile(m.path(path), []byte(text), mode))
	check(m.t, os.Chmod(m.path(path), mode))
}

func (m *machine) read(path string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(path))
	check(m.t, err)
	return string(b)
}

// sh prepares a shell script to be run on the machine, with nothing of this
// process's environment.
func (m *machine) sh(script string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive"}, m.vars...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.root, Credential: m.user, Setsid: true}
	return cmd
}

// try runs a script and returns its exit code and what it printed.
func (m *machine) try(script string) (code int, out string) {
	m.t.Helper()
	var b bytes.Buffer
	cmd := m.sh(script)
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.WaitDelay = 10 * time.Second // for a daemon that kept the pipe
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("%s: %v\n%s", script, err, &b)
	}
	return cmd.ProcessState.ExitCode(), b.String()
}

// run runs a script that must end with 0, and returns what it printed.
func (m *machine) run(script string) string {
	m.t.Helper()
	code, out := m.try("set -e\n" + script)
	if code != 0 {
		m.t.Fatalf("%s: exit code %d\n%s", script, code, out)
	}
	return out
}

// fails runs a script that must end with the code, and say the parts.
func (m *machine) fails(want int, script string, parts ...string) {
	m.t.Helper()
	code, out := m.try(script)
	if code != want {
		m.t.Errorf("%s: exit code %d, want %d\n%s", script, code, want, out)
	}
	wantText(m.t, script, out, parts...)
}

// mounts are the volumes that are mounted, "TARGET SOURCE OPTIONS" each.
func (m *machine) mounts() []string {
	m.t.Helper()
	_, out := m.try("findmnt -rno TARGET,SOURCE,OPTIONS -t fuse.plyfs")
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")[:strings.Count(out, "\n")]
}

// wantMounted fails unless just one volume is mounted: there, from there, with
// these options; with a "!", without.
func (m *machine) wantMounted(target, source string, options ...string) {
	m.t.Helper()
	have := m.mounts()
	if len(have) != 1 || !strings.HasPrefix(have[0], target+" "+source+" ") {
		m.t.Fatalf("mounted: %q, want %s at %s", have, source, target)
	}
	list := "," + have[0][strings.LastIndexByte(have[0], ' ')+1:] + ","
	for _, o := range options {
		name, not := strings.CutPrefix(o, "!")
		if strings.Contains(list, ","+name+",") == not {
			m.t.Errorf("options %s, want %s", list, o)
		}
	}
}

func (m *machine) wantNothingMounted() {
	m.t.Helper()
	if have := m.mounts(); len(have) > 0 {
		m.t.Fatalf("mounted: %q, want nothing", have)
	}
}

// wantClosed fails unless the volume is closed cleanly and nobody holds it:
// a copy made now is whole. It mounts the copy read-only to see.
func (m *machine) wantClosed(cipherdir string) {
	m.t.Helper()
	m.run("flock -n " + cipherdir + "/.plyfs/lock true")
	if n := len(m.daemons()); n > 0 {
		m.t.Errorf("%d run files are left", n)
	}
}

// volume makes key stores and a volume at /srv/v, and the mountpoint /mnt/v.
func (m *machine) volume() {
	m.t.Helper()
	m.run("plyfs keystore init && plyfs init /srv/v && mkdir -p /mnt/v")
}
