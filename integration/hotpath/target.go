package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// target is a directory to be measured.
type target struct {
	name    string
	dir     string  // where the workloads run
	backing string  // where its bytes lie, the same for a plain directory
	below   *target // the mount that backing is in, nil if it is on the disk

	start  []string      // command that serves dir as a mount, nil for a plain directory
	daemon *exec.Cmd     // nil when not mounted
	ended  chan struct{} // closed when the daemon has
	output bytes.Buffer  // what it wrote; to be read once it has ended
	rig    *rig
}

// rig is the scratch directory with all targets.
type rig struct {
	path    string // directory of a key program, or empty
	scratch string
	targets []*target
	spawn   chan func()

	mu     sync.Mutex
	closed bool
}

// patience bounds a mount and an unmount.
const patience = 30 * time.Second

func newRig() *rig {
	r := &rig{spawn: make(chan func())}
	// Daemons die with the thread that started them, so this one stays.
	go func() {
		runtime.LockOSThread()
		for f := range r.spawn {
			f()
		}
	}()
	return r
}

// make makes the scratch directory below base. close removes it.
func (r *rig) make(base string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(base, &st); err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		return fmt.Errorf("%s is a tmpfs; --dir names a directory on a disk", base)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("interrupted")
	}
	var err error
	r.scratch, err = os.MkdirTemp(base, "plyfs-hotpath-")
	return err
}

// addPlain adds a plain directory.
func (r *rig) addPlain() error {
	dir := filepath.Join(r.scratch, "plain")
	r.targets = append(r.targets, &target{name: "plain", dir: dir, backing: dir, rig: r})
	return os.Mkdir(dir, 0o755)
}

// addPass adds a pass-through mount, served by this program in another process.
func (r *rig) addPass() error {
	t, err := r.add("pass-through")
	if err != nil {
		return err
	}
	t.start = []string{"/proc/self/exe", passCommand, t.backing, t.dir}
	return t.mount()
}

// addPlyfs adds a new volume of the plyfs program bin. What it writes is not
// read by anybody, so the keys may lie beside it.
func (r *rig) addPlyfs(name, bin string, init, mount []string) error {
	t, err := r.add(name)
	if err != nil {
		return err
	}
	// A copy, so that a build during the run changes nothing.
	b, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	copied, keys := t.root("plyfs"), t.root("keys")
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{{"keystore", "init", "--keystore", keys}, append(append([]string{"init", "--keystore", keys}, init...), t.backing)} {
		cmd := exec.Command(copied, args...)
		cmd.Env = r.env()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: plyfs %s: %w\n%s", name, args[0], err, out)
		}
	}
	t.start = append(append([]string{copied, "mount", "--keystore", keys, "-f"}, mount...), t.backing, t.dir)
	return t.mount()
}

func (r *rig) add(name string) (*target, error) {
	t := &target{name: name, rig: r}
	t.backing, t.dir = t.root("back"), t.root("mnt")
	r.targets = append(r.targets, t)
	return t, t.mkdirs()
}

func (t *target) mkdirs() error {
	return errors.Join(os.MkdirAll(t.backing, 0o755), os.MkdirAll(t.dir, 0o755))
}

// root is a path beside the target's mount point.
func (t *target) root(elem string) string { return filepath.Join(t.rig.scratch, t.name, elem) }

// env is for the programs under test, which may need more of a path.
func (r *rig) env() []string {
	env := scratch.Environ(r.scratch)
	if r.path != "" {
		env = append(env, "PATH="+os.Getenv("PATH")+":"+r.path) // the last one counts
	}
	return env
}

func (t *target) mount() error {
	if t.daemon != nil {
		return nil
	}
	if t.below != nil {
		if err := t.below.mount(); err != nil {
			return err
		}
	}
	cmd := exec.Command(t.start[0], t.start[1:]...)
	cmd.Env = t.rig.env()
	cmd.Stdout, cmd.Stderr = &t.output, &t.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	t.rig.spawn <- func() {
		t.rig.mu.Lock()
		defer t.rig.mu.Unlock()
		if t.rig.closed {
			started <- errors.New("interrupted")
			return
		}
		err := cmd.Start()
		if err == nil {
			t.daemon, t.ended = cmd, make(chan struct{})
		}
		started <- err
	}
	if err := <-started; err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	go func() { cmd.Wait(); close(t.ended) }()
	for end := time.Now().Add(patience); !t.mounted(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-t.ended:
			return fmt.Errorf("%s: its daemon ended: %s", t.name, t.output.Bytes())
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: no mount after %v", t.name, patience)
		}
	}
	return nil
}

func (t *target) mounted() bool {
	var outer, inner unix.Stat_t
	return unix.Stat(filepath.Dir(t.dir), &outer) == nil && unix.Stat(t.dir, &inner) == nil && outer.Dev != inner.Dev
}

// unmount ends the mount, waits for its daemon, and then does so with the one
// below.
func (t *target) unmount() error {
	if t.daemon == nil {
		return nil
	}
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		// EBUSY lasts as long as the kernel still drops what was open.
		if err = unix.Unmount(t.dir, 0); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s: umount: %w", t.name, err)
	}
	select {
	case <-t.ended:
	case <-time.After(patience):
		return fmt.Errorf("%s: its daemon runs %v after umount", t.name, patience)
	}
	code := t.daemon.ProcessState.ExitCode()
	t.daemon = nil
	if code != 0 {
		return fmt.Errorf("%s: its daemon ended with %d: %s", t.name, code, t.output.Bytes())
	}
	if t.below != nil {
		return t.below.unmount()
	}
	return nil
}

// remount writes all that a volume may keep back to its place.
func (t *target) remount() error {
	if t.daemon == nil {
		return nil
	}
	return errors.Join(t.unmount(), t.mount())
}

// close unmounts all and removes the scratch directory. With force it kills
// the daemons, whose state nobody needs, and does not wait for who uses them.
func (r *rig) close(force bool) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	for _, t := range r.targets {
		if !force {
			err = errors.Join(err, t.unmount())
		}
		for ; t != nil; t = t.below {
			if t.daemon != nil {
				t.daemon.Process.Kill()
				unix.Unmount(t.dir, unix.MNT_DETACH)
				<-t.ended
			}
		}
	}
	if r.scratch != "" {
		err = errors.Join(err, os.RemoveAll(r.scratch))
	}
	return err
}

// cpu is the processor time that the daemon has used, and the one below.
func (t *target) cpu() time.Duration {
	if t == nil || t.daemon == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.daemon.Process.Pid))
	if err != nil {
		return 0
	}
	const utime, stime, tick = 11, 12, 10 * time.Millisecond // fields after the name in parentheses
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) <= stime {
		return 0
	}
	u, _ := strconv.Atoi(fields[utime])
	s, _ := strconv.Atoi(fields[stime])
	return time.Duration(u+s)*tick + t.below.cpu()
}

// settle waits until the daemon does nothing any more, a second at most: work
// that it put off is not to slow down the next target.
func (t *target) settle() {
	if t.daemon == nil {
		return
	}
	for before, end := t.cpu(), time.Now().Add(time.Second); time.Now().Before(end); {
		time.Sleep(30 * time.Millisecond)
		now := t.cpu()
		if now == before {
			return
		}
		before = now
	}
}

// evict drops the page cache of the backing file of an open file, which has
// the same inode number, so that it is read from the disk.
func (t *target) evict(f *os.File) error {
	if t.below != nil {
		if err := t.below.evict(f); err != nil {
			return err
		}
	}
	var want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &want); err != nil {
		return err
	}
	found := false
	err := filepath.WalkDir(t.backing, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Ino != want.Ino {
			return err
		}
		found = true
		b, err := os.Open(path)
		if err != nil {
			return err
		}
		defer b.Close()
		return errors.Join(b.Sync(), unix.Fadvise(int(b.Fd()), 0, 0, unix.FADV_DONTNEED))
	})
	if err == nil && !found {
		err = fmt.Errorf("%s: no backing file of inode %d", t.name, want.Ino)
	}
	return err
}
