package gluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/integration/cell"
	"github.com/plyfs/plyfs/integration/scratch"
)

// patience is how long anything may take on a loaded machine.
const patience = 2 * time.Minute

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin     string // plyfs
	scratch string
	log     string // of glusterd and its like
}

func TestMain(m *testing.M) {
	if os.Getenv("PLYFS_GLUSTER") == "" {
		fmt.Println("gluster: skipped, wants PLYFS_GLUSTER=1 (make gluster)")
		os.Exit(0)
	}
	os.Exit(cell.Main("gluster", func(scratch string) int {
		unix.Umask(0o022)
		env.scratch = scratch
		if err := setUp(); err != nil {
			fmt.Fprintln(os.Stderr, "gluster:", err)
			return 1
		}
		return m.Run() // what is left then ends with the cell
	}))
}

// address is that of the only server. Gluster refuses 127.0.0.1.
var address = [4]byte{10, 255, 0, 1}

// poolOptions keep a client from caching what another one may have changed. The
// README asks for them, and for the client's options below.
var poolOptions = [][2]string{
	{"performance.stat-prefetch", "off"}, {"performance.quick-read", "off"}, {"performance.io-cache", "off"},
	{"performance.read-ahead", "off"}, {"performance.open-behind", "off"}, {"performance.write-behind", "off"},
}

var clientOptions = []string{"--attribute-timeout=0", "--entry-timeout=0"}

// setUp starts glusterd and makes a pool of two bricks.
func setUp() error {
	var err error
	if env.bin, err = scratch.Plyfs(env.scratch); err != nil {
		return err
	}
	for _, name := range []string{"glusterd", "gluster", "glusterfs", "mount.glusterfs"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w; make deps brings it", err)
		}
	}
	if err := cell.AddAddress(address); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	for _, dir := range []string{"/var/lib/glusterd", "/var/log/glusterfs"} {
		if err := cell.Cover(env.scratch, dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/gluster", 0o755); err != nil {
		return err
	}
	env.log = path("glusterd.log")
	cmd := exec.Command("glusterd", "--no-daemon", "--log-file="+env.log)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := await("glusterd", func() error { return gluster("volume", "list") }); err != nil {
		return err
	}
	bricks := []string{path("brick1"), path("brick2")}
	args := []string{"volume", "create", "pool", "replica", "2"}
	for _, b := range bricks {
		if err := os.Mkdir(b, 0o755); err != nil {
			return err
		}
		args = append(args, "10.255.0.1:"+b)
	}
	// force: on a root filesystem, and with two bricks and no arbiter.
	if err := gluster(append(args, "force")...); err != nil {
		return err
	}
	for _, o := range poolOptions {
		if err := gluster("volume", "set", "pool", o[0], o[1]); err != nil {
			return err
		}
	}
	if err := gluster("volume", "start", "pool"); err != nil {
		return err
	}
	os.Setenv("PLYFS_KEYSTORE", path("keys"))
	return command(env.bin, "keystore", "init")
}

func path(name string) string { return filepath.Join(env.scratch, name) }

func gluster(args ...string) error {
	return command("gluster", append([]string{"--mode=script"}, args...)...)
}

// command runs a program; the error has what it said.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return nil
}

// await waits until ok.
func await(what string, ok func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ok()
		if err == nil || time.Now().After(end) {
			if err != nil {
				err = fmt.Errorf("%s is not ready: %w", what, err)
			}
			return err
		}
	}
}

// host is a client of the pool, and where it mounts the volume that lies there.
type host struct {
	t         *testing.T
	pool, mnt string
	client    *exec.Cmd // the process of the mounted pool
	log       string    // of volumes
}

// newHost mounts the pool.
func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{t: t, pool: path(name + "-pool"), mnt: path(name + "-mnt"), log: path(name + ".log")}
	for _, dir := range []string{h.pool, h.mnt} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"--no-daemon", "--process-name", "fuse", "--volfile-server=10.255.0.1", "--volfile-id=/pool",
		"--log-file=" + path(name+"-client.log")}, clientOptions...)
	h.client = exec.Command("glusterfs", append(args, h.pool)...)
	h.client.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := h.client.Start(); err != nil {
		t.Fatal(err)
	}
	if err := await("the pool's mount", func() error {
		mounts, err := cell.Mounts()
		for _, m := range mounts {
			if m.Target == h.pool && m.Type == "fuse.glusterfs" {
				// Mounted is not yet connected.
				_, err := os.ReadDir(h.pool)
				return err
			}
		}
		return errors.Join(err, errors.New("not mounted"))
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.leave)
	return h
}

// leave ends the host as a shutdown does.
func (h *host) leave() {
	if h.t.Failed() {
		text, _ := os.ReadFile(h.log)
		h.t.Logf("log of %s:\n%s", filepath.Base(h.log), text)
	}
	command(env.bin, "umount", h.mnt)
	unix.Unmount(h.mnt, unix.MNT_DETACH)
	unix.Unmount(h.pool, unix.MNT_DETACH)
	h.client.Process.Kill()
	h.client.Wait()
}

// volume is the ciphertext directory as the host sees it.
func (h *host) volume(name string) string { return filepath.Join(h.pool, name) }

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) mount(name string) {
	h.t.Helper()
	h.must(command(env.bin, "mount", "--log", h.log, h.volume(name), h.mnt))
}

func (h *host) umount() {
	h.t.Helper()
	h.must(command(env.bin, "umount", h.mnt))
}

// die ends the host as a power cut does: its volume's daemon and its client of
// the pool, at once.
func (h *host) die() {
	h.t.Helper()
	pid, err := daemonOf(h.mnt)
	h.must(err)
	h.client.Process.Kill()
	h.must(unix.Kill(pid, unix.SIGKILL))
	h.client.Wait()
	unix.Unmount(h.mnt, unix.MNT_DETACH)
	unix.Unmount(h.pool, unix.MNT_DETACH)
}
