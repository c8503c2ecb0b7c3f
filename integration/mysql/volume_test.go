package mysql

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/process"
	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// volume is a plyfs volume of its own, with its key stores, and its mount
// while it is mounted. Not for use by several goroutines at once.
type volume struct {
	root   string // holds all of the below
	keys   string
	cipher string
	mnt    string
	opts   []string // of mount

	daemon *process.Process // nil when not mounted
	logs   string           // what every daemon of this volume wrote, one after another
}

var volumeCount atomic.Int32

// group names the machine group whose keys open a volume.
type group struct{ cluster, name string }

// newVolume makes key stores of a group and a volume, and mounts it until the
// end of the test, which fails when the volume does not unmount cleanly or its
// daemon logged an error. initArgs are given to `plyfs init`.
func newVolume(t testing.TB, g group, initArgs ...string) *volume {
	t.Helper()
	root := filepath.Join(env.scratch, fmt.Sprintf("v%d", volumeCount.Add(1)))
	v := &volume{root: root, keys: filepath.Join(root, "keys"), cipher: filepath.Join(root, "cipher"),
		mnt: filepath.Join(root, "mnt"), logs: filepath.Join(root, "log")}
	for _, d := range []string{root, v.cipher, v.mnt} {
		check(t, os.Mkdir(d, 0o755))
	}
	keys := []string{"--keystore", v.keys}
	if g.name != "" {
		keys = append(keys, "--cluster", g.cluster, "--group", g.name)
		v.opts = []string{"-o", "cluster=" + g.cluster + ",group=" + g.name}
	}
	if slices.Contains(initArgs, "--single-layer") {
		v.opts = append(v.opts, "-o", "layers=1")
	}
	command(t, v.plyfs(append([]string{"keystore", "init"}, keys...)...))
	args := append(append([]string{"init"}, keys...), initArgs...)
	command(t, v.plyfs(append(args, v.cipher)...))
	v.mustMount(t)
	t.Cleanup(func() { v.close(t) })
	return v
}

// plyfs is a call of the program, away from the state of the machine.
func (v *volume) plyfs(args ...string) *exec.Cmd {
	cmd := exec.Command(env.bin, args...)
	cmd.Env = scratch.Environ(env.scratch)
	return cmd
}

// mount starts a daemon in the foreground and returns when its mount serves.
func (v *volume) mount() error {
	log, err := os.OpenFile(v.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"mount", "--keystore", v.keys, "-f"}, v.opts...)
	cmd := v.plyfs(append(args, v.cipher, v.mnt)...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := process.Start(cmd)
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if v.mounted() {
			v.daemon = p
			return nil
		}
		if p.Exited() {
			return fmt.Errorf("mount ended with %d: %s", p.Code(), tail(v.log(), 4000))
		}
		if time.Now().After(end) {
			p.Dump()
			return fmt.Errorf("no mount after %v:\n%s", patience, tail(v.log(), 8000))
		}
	}
}

// mounted says whether a filesystem serves at the mount point.
func (v *volume) mounted() bool {
	var outer, inner unix.Stat_t
	if unix.Stat(v.root, &outer) != nil || unix.Stat(v.mnt, &inner) != nil {
		return false
	}
	return outer.Dev != inner.Dev
}

func (v *volume) mustMount(t testing.TB) {
	t.Helper()
	check(t, v.mount())
}

// unmount unmounts and waits for the daemon, which must end with 0.
func (v *volume) unmount() error {
	if v.daemon == nil {
		return errors.New("not mounted")
	}
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		// EBUSY lasts as long as the kernel still drops what was open.
		if err = unix.Unmount(v.mnt, 0); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", v.mnt, err)
	}
	p := v.daemon
	v.daemon = nil
	if !p.Wait(patience) {
		p.Dump()
		return fmt.Errorf("daemon still runs %v after umount\n%s", patience, tail(v.log(), 8000))
	}
	if p.Code() != 0 {
		return fmt.Errorf("daemon ended with %d after umount\n%s", p.Code(), tail(v.log(), 8000))
	}
	return nil
}

func (v *volume) remount(t testing.TB) {
	t.Helper()
	check(t, v.unmount())
	v.mustMount(t)
}

// kill ends the daemon as the OOM killer would. Whatever had files open on the
// mount must be ended before clear.
func (v *volume) kill() { v.daemon.Signal(unix.SIGKILL) }

// clear takes away the mount of a daemon that was killed.
func (v *volume) clear(t testing.TB) {
	t.Helper()
	if !v.daemon.Wait(patience) {
		t.Fatal("daemon survives SIGKILL")
	}
	v.daemon = nil
	check(t, unix.Unmount(v.mnt, unix.MNT_DETACH))
}

// close ends the volume at the end of a test, whatever state it is in.
func (v *volume) close(t testing.TB) {
	if v.daemon != nil {
		p := v.daemon
		if err := v.unmount(); err != nil {
			t.Error(err)
			p.Signal(unix.SIGKILL)
			p.Wait(patience)
		}
	}
	for _, m := range scratch.Mounts(v.root) {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	if s := v.complaints(); s != "" {
		t.Errorf("errors in the daemon's log:\n%s", tail(s, 4000))
	}
	if t.Failed() {
		t.Logf("log of the daemon:\n%s", tail(v.log(), 4000))
	}
	if os.Getenv("PLYFS_KEEP") == "" {
		os.RemoveAll(v.root)
	}
}

// log is what this volume's daemons wrote so far.
func (v *volume) log() string {
	b, _ := os.ReadFile(v.logs)
	return string(b)
}

// complaints are the lines of the log that tell of an error.
func (v *volume) complaints() string {
	var bad []string
	for _, line := range strings.Split(v.log(), "\n") {
		if strings.Contains(line, "ERROR") || strings.Contains(line, "EIO") || strings.Contains(line, "panic") {
			bad = append(bad, line)
		}
	}
	return strings.Join(bad, "\n")
}
