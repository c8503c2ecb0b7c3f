// Package cell runs a test program in namespaces of its own: mounts, processes
// and network. Servers that want fixed ports, /run, /var/lib and a mount table
// they may spoil get them there, and when the program ends, by whatever cause,
// the kernel ends every process that it left and the mounts go with them.
//
// It needs root and util-linux. Inside, the program is process 1, /run is empty,
// mounts are shared with each other as systemd has them, and lo is up. It works
// in a chroot, too.
package cell

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// These tell the program that it is inside, as process 1 or as its child; the
// value is the scratch directory.
const (
	initEnv   = "PLYFS_CELL_INIT"
	insideEnv = "PLYFS_CELL"
)

// Main runs inside in a cell and returns its exit code. scratch is a directory
// on a disk, named after name, that is removed at the end unless PLYFS_KEEP is
// set.
func Main(name string, inside func(scratch string) int) int {
	var code int
	var err error
	if scratch := os.Getenv(insideEnv); scratch != "" {
		os.Unsetenv(insideEnv)
		if err = prepare(scratch); err == nil {
			return inside(scratch)
		}
	} else if scratch := os.Getenv(initEnv); scratch != "" {
		os.Unsetenv(initEnv)
		code, err = reap(scratch)
	} else {
		code, err = enter(name)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return code
}

// enter starts this program once more, inside.
func enter(name string) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root (namespaces, mounts)")
	}
	base := os.Getenv("TMPDIR")
	if base == "" {
		base = "/var/tmp"
	}
	scratch, err := os.MkdirTemp(base, "plyfs-"+name+"-")
	if err != nil {
		return 0, err
	}
	if os.Getenv("PLYFS_KEEP") == "" {
		defer os.RemoveAll(scratch)
	} else {
		fmt.Fprintln(os.Stderr, name+": keeping", scratch)
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "unchanged", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--", exe}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), initEnv+"="+scratch)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// It must not outlive this process, which go test may kill.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(interrupted)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		if _, ok := <-interrupted; ok {
			cmd.Process.Kill() // --kill-child takes the cell along
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// reap is process 1: it starts this program once more and waits for whatever
// ends, until that does. A server whose process nobody waited for would seem
// alive to its successor.
func reap(scratch string) (int, error) {
	// The root directory is a thread's own from changeRoot on; the child gets
	// that of the thread which makes it.
	runtime.LockOSThread()
	if err := changeRoot(scratch); err != nil {
		return 0, fmt.Errorf("root: %w", err)
	}
	child, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env: append(os.Environ(), insideEnv+"="+scratch), Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 0, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case pid == child && status.Exited():
			return status.ExitStatus(), nil
		case pid == child && status.Signaled():
			return 0, fmt.Errorf("ended by %v", status.Signal())
		}
	}
}

// prepare furnishes the cell.
func prepare(scratch string) error {
	if err := dropForeign(); err != nil {
		return fmt.Errorf("mounts of others: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("/run: %w", err)
	}
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return err
	}
	if err := raiseLo(); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	return nil
}

// dropForeign takes the copies of mounts away that belong to others and that
// these keep from unmounting: of FUSE and of loop devices.
func dropForeign() error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i]
		if m.Target == "/" || !strings.HasPrefix(m.Type, "fuse") && !strings.HasPrefix(m.Source, "/dev/loop") {
			continue
		}
		if err := unix.Unmount(m.Target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", m.Target, err)
		}
	}
	return nil
}

// changeRoot makes the root directory of this thread the root of its mount
// namespace, and lets go of all mounts outside of it. In a chroot the two
// differ: pivot_root(2), with which runc makes a container, would fail, and
// setns(2), with which it enters one, would lead out of it.
func changeRoot(scratch string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	root := filepath.Join(scratch, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	ns, err := unix.Open("/proc/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	// Where mounts are shared with those outside, the bind mount must not be.
	if err := makePrivate(); err != nil {
		return err
	}
	if err := unix.Mount("/", root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a root directory of this thread's own", func() error { return unix.Unshare(unix.CLONE_FS) }},
		{"leave the chroot", func() error { return unix.Setns(ns, unix.CLONE_NEWNS) }},
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"go back", func() error { return unix.Fchdir(fd) }},
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"let go of the rest", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"working directory", func() error { return unix.Chdir(dir) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// makePrivate keeps what happens to mounts here from those outside. The root of
// a chroot need not be a mount, so each is told.
func makePrivate() error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		// EINVAL, ENOENT: what another mount covers is out of reach.
		err := unix.Mount("", m.Target, "", unix.MS_PRIVATE, "")
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make %s private: %w", m.Target, err)
		}
	}
	return nil
}

// Mount is a line of /proc/self/mountinfo. Blanks in paths are not undone:
// tests have none.
type Mount struct{ Target, Type, Source string }

// Mounts reads the mount table.
func Mounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Mount
	in := bufio.NewScanner(f)
	for in.Scan() {
		before, after, _ := strings.Cut(in.Text(), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) >= 5 && len(g) >= 2 {
			all = append(all, Mount{Target: f[4], Type: g[0], Source: g[1]})
		}
	}
	return all, in.Err()
}

// Cover mounts an empty directory below scratch over path, which is made where
// it is missing.
func Cover(scratch, path string) error {
	empty := filepath.Join(scratch, "cover", strings.ReplaceAll(strings.Trim(path, "/"), "/", "-"))
	for _, dir := range []string{empty, path} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount(empty, path, "", unix.MS_BIND, "")
}

// raiseLo brings the loopback interface up.
func raiseLo() error {
	return onInterface("lo", func(fd int, r *unix.Ifreq) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
			return err
		}
		r.SetUint16(r.Uint16() | unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	})
}

// AddAddress gives the loopback interface one more IPv4 address, for servers
// that want one other than 127.0.0.1.
func AddAddress(a [4]byte) error {
	return onInterface("lo:1", func(fd int, r *unix.Ifreq) error {
		if err := r.SetInet4Addr(a[:]); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r)
	})
}

func onInterface(name string, do func(fd int, r *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return do(fd, r)
}

// Cgroups mounts what dockerd and runc look for where nothing is mounted, as on
// a machine without systemd: the controllers that the kernel has in hierarchies
// of their own, or else the one hierarchy of version 2.
func Cgroups() error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	hasSys := false
	for _, m := range mounts {
		if strings.HasPrefix(m.Type, "cgroup") {
			return nil
		}
		hasSys = hasSys || m.Target == "/sys"
	}
	if !hasSys {
		if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("/sys: %w", err)
		}
	}
	const dir = "/sys/fs/cgroup"
	b, err := os.ReadFile("/proc/self/cgroup") // ID:CONTROLLERS:PATH
	if err != nil {
		return err
	}
	var controllers []string
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && f[1] != "" && !strings.Contains(f[1], "=") {
			controllers = append(controllers, f[1])
		}
	}
	if len(controllers) == 0 {
		return unix.Mount("cgroup2", dir, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, c := range controllers {
		at := filepath.Join(dir, c)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", at, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, c); err != nil {
			return fmt.Errorf("cgroup %s: %w", c, err)
		}
	}
	return nil
}
