package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// patience bounds a mount, an unmount, and a daemon's end.
const patience = 3 * time.Minute

// target is what is under test.
type target struct {
	fstype    string // the file system on the disk
	plyfs     bool   // a plyfs volume on it, or it alone, which is the control
	blockSize int    // of the volume
	small     bool   // the smallest journal, so that it is checkpointed and recycled all the time
}

func (t target) String() string {
	if t.plyfs && t.small {
		return fmt.Sprintf("plyfs-%d-small-%s", t.blockSize, t.fstype)
	}
	if t.plyfs {
		return fmt.Sprintf("plyfs-%d-%s", t.blockSize, t.fstype)
	}
	return t.fstype
}

// rig is a directory with one target in it. Not for use by several goroutines.
type rig struct {
	target
	dir string
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// newRig makes the base image: a file system of so many bytes, and on it a
// volume.
func newRig(dir string, tg target, size int64) (*rig, error) {
	r := &rig{target: tg, dir: dir}
	for _, d := range []string{dir, r.path("back"), r.path("mnt"), r.path("dev")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(r.path("base"), nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(r.path("base"), size); err != nil {
		return nil, err
	}
	mkfs := []string{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-O", "^resize_inode", r.path("base")}
	if tg.fstype == "xfs" {
		mkfs = []string{"mkfs.xfs", "-q", "-f", r.path("base")}
	}
	if err := do(mkfs...); err != nil {
		return nil, err
	}
	if !tg.plyfs {
		return r, nil
	}
	if err := do(env.bin, "keystore", "init", "--keystore", r.path("keys")); err != nil {
		return nil, err
	}
	s := &stack{rig: r}
	if err := s.mountDisk(r.path("base"), false); err != nil {
		return nil, err
	}
	err := do(env.bin, "init", "--keystore", r.path("keys"), "--block-size", fmt.Sprint(tg.blockSize), r.path("back/cipher"))
	return r, errors.Join(err, s.down())
}

// do runs a command; an error has its output.
func do(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// stack is a target's file systems while they are mounted.
type stack struct {
	*rig
	daemon *process.Process // nil when not mounted
	logAt  int64            // where its part of the log begins
}

// top is the directory under test.
func (s *stack) top() string {
	if s.plyfs {
		return s.path("mnt")
	}
	return s.path("back")
}

// up mounts a target from a disk. With direct, the loop device has no cache of
// its own. On an error nothing stays mounted.
func (r *rig) up(disk string, direct bool) (*stack, error) {
	s := &stack{rig: r}
	if err := s.mountDisk(disk, direct); err != nil {
		return nil, err
	}
	if r.plyfs {
		if err := s.mountPlyfs(); err != nil {
			s.kill()
			return nil, err
		}
	}
	return s, nil
}

func (s *stack) mountDisk(disk string, direct bool) error {
	args := []string{"losetup", "-f", "--show"}
	if direct {
		args = append(args, "--direct-io=on")
	}
	out, err := exec.Command(args[0], append(args[1:], disk)...).Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			err = fmt.Errorf("%w: %s", err, e.Stderr)
		}
		return fmt.Errorf("losetup: %w", err)
	}
	dev := strings.TrimSpace(string(out))
	opt := "nodiscard"
	if s.fstype == "xfs" {
		opt = "nouuid"
	}
	err = do("mount", "-t", s.fstype, "-o", opt, dev, s.path("back"))
	// Detached at once, so that the kernel frees it with the unmount.
	return errors.Join(err, do("losetup", "-d", dev))
}

func (s *stack) mountPlyfs() error {
	log, err := os.OpenFile(s.path("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if s.logAt, err = log.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	// The host forgets: what it is shown next is, on purpose, older than what it saw last.
	if err := os.RemoveAll(s.path("xdg/plyfs/hosts.json")); err != nil {
		return err
	}
	args := []string{"mount", "--keystore", s.path("keys"), "-f"}
	if s.small {
		args = append(args, "-o", "journal-size=16M")
	}
	cmd := exec.Command(env.bin, append(args, s.path("back/cipher"), s.path("mnt"))...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+s.path("xdg"))
	if s.daemon, err = process.Start(cmd); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(3 * time.Millisecond) {
		if isMount(s.path("mnt")) {
			return nil
		}
		if s.daemon.Exited() {
			return fmt.Errorf("plyfs mount: %v: %s", s.daemon.Cmd.ProcessState, s.log())
		}
		if time.Now().After(end) {
			s.daemon.Dump()
			return fmt.Errorf("plyfs does not mount in %v: %s", patience, s.log())
		}
	}
}

// log is what the daemon wrote since its mount, its end if that is long.
func (s *stack) log() string {
	b, err := os.ReadFile(s.path("daemon.log"))
	if err != nil || int64(len(b)) < s.logAt {
		return ""
	}
	b = b[s.logAt:]
	const limit = 4000
	if at := bytes.Index(b, []byte("SIGQUIT")); at >= 0 { // it hung: which goroutines wait for what comes first
		return string(b[max(0, at-limit):min(len(b), at+16*limit)])
	}
	if len(b) > limit {
		return "[...]" + string(b[len(b)-limit:])
	}
	return string(b)
}

func isMount(path string) bool {
	var outer, inner unix.Stat_t
	if unix.Stat(filepath.Dir(path), &outer) != nil || unix.Stat(path, &inner) != nil {
		return false
	}
	return outer.Dev != inner.Dev
}

// unmount waits out EBUSY, which lasts as long as the kernel still drops what
// was open.
func unmount(path string) error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(path, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("umount %s: %w", path, err)
		}
	}
}

// downPlyfs unmounts the volume and waits for its daemon, which must end well.
func (s *stack) downPlyfs() error {
	if s.daemon == nil {
		return nil
	}
	if err := unmount(s.path("mnt")); err != nil {
		return err
	}
	if !s.daemon.Wait(patience) {
		s.daemon.Dump()
		return fmt.Errorf("the daemon does not end in %v: %s", patience, s.log())
	}
	state := s.daemon.Cmd.ProcessState
	s.daemon = nil
	if !state.Success() {
		return fmt.Errorf("the daemon ended with %v: %s", state, s.log())
	}
	return nil
}

// killPlyfs ends the daemon by SIGKILL.
func (s *stack) killPlyfs() {
	if s.daemon == nil {
		return
	}
	s.daemon.Kill()
	s.daemon = nil
	for scratch.IsMount(s.path("mnt")) {
		if unix.Unmount(s.path("mnt"), unix.MNT_DETACH) != nil {
			return
		}
	}
}

// hang ends a daemon that does not answer, from beside the test's goroutine:
// its stacks go to its log, and whoever waits for it goes on with an error.
func (s *stack) hang() {
	if d := s.daemon; d != nil {
		d.Dump()
		unix.Unmount(s.path("mnt"), unix.MNT_FORCE)
	}
}

// down unmounts everything in good order.
func (s *stack) down() error {
	if err := s.downPlyfs(); err != nil {
		s.kill()
		return err
	}
	return unmount(s.path("back"))
}

// kill takes everything away, whatever state it is in.
func (s *stack) kill() {
	s.killPlyfs()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(s.path("back"), 0)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return
		}
		if time.Now().After(end) {
			unix.Unmount(s.path("back"), unix.MNT_DETACH)
			return
		}
	}
}
