package docker

import (
	"bytes"
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
)

// patience is how long anything may take on a loaded machine.
const patience = 2 * time.Minute

// lab is a dockerd with a volume plugin.
type lab struct {
	dir     string // data of both
	docker  string // the client
	dockerd *server
	plugin  *server
}

// server is a process that the tests started.
type server struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // then
}

// start starts a process with a log file. It gets a session of its own.
func start(name, log string, args ...string) (*server, error) {
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &server{name: name, log: log, done: make(chan struct{}), cmd: exec.Command(args[0], args[1:]...)}
	s.cmd.Stdout, s.cmd.Stderr = f, f
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// end sends a signal and waits for the end of the process.
func (s *server) end(sig unix.Signal) error {
	s.cmd.Process.Signal(sig)
	select {
	case <-s.done:
	case <-time.After(patience):
		s.cmd.Process.Kill()
		<-s.done
		return fmt.Errorf("%s did not end on %v", s.name, sig)
	}
	if sig == unix.SIGTERM && s.err != nil {
		return fmt.Errorf("%s ended with %w", s.name, s.err)
	}
	return nil
}

// size is the length of the log so far.
func (s *server) size() int64 {
	st, err := os.Stat(s.log)
	if err != nil {
		return 0
	}
	return st.Size()
}

// tail is the end of the log, at most what came after an offset.
func (s *server) tail(from int64) string {
	b, _ := os.ReadFile(s.log)
	b = b[min(from, int64(len(b))):]
	if len(b) > 6000 {
		b = b[len(b)-6000:]
	}
	return string(b)
}

// await waits until ok, while the process lives.
func (s *server) await(ok func() error) error {
	for end := time.Now().Add(patience); ; {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended: %v\n%s", s.name, s.err, s.tail(0))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready: %w\n%s", s.name, err, s.tail(0))
		}
	}
}

func newLab(dir string) (*lab, error) {
	l := &lab{dir: dir, docker: "/usr/bin/docker"} // Debian's, whatever else there is
	for _, name := range []string{l.docker, "dockerd", "containerd", "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("%w; make deps brings it", err)
		}
	}
	// A client that looks at nobody's configuration.
	os.Setenv("DOCKER_HOST", "unix://"+l.path("docker.sock"))
	os.Setenv("DOCKER_CONFIG", l.path("client"))
	os.Setenv("PLYFS_KEYSTORE", l.path("keys"))
	if err := os.WriteFile(l.path("daemon.json"), []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command(env.bin, "keystore", "init").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("keystore init: %w\n%s", err, out)
	}
	if err := os.Mkdir(l.path("allow"), 0o755); err != nil {
		return nil, err
	}
	if err := errors.Join(l.startPlugin(), l.startDockerd()); err != nil {
		return nil, errors.Join(err, l.close())
	}
	if err := makeImage(l); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) startDockerd() (err error) {
	l.dockerd, err = start("dockerd", l.path("dockerd.log"), "dockerd",
		"--config-file", l.path("daemon.json"), "--host", "unix://"+l.path("docker.sock"),
		"--data-root", l.path("data"), "--exec-root", l.path("exec"), "--pidfile", l.path("docker.pid"),
		"--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
		"--cgroup-parent=/plyfs-test")
	if err != nil {
		return err
	}
	return l.dockerd.await(func() error {
		_, err := l.try("version")
		return err
	})
}

const pluginSocket = "/run/docker/plugins/plyfs.sock"

func (l *lab) startPlugin() (err error) {
	l.plugin, err = start("plugin", l.path("plugin.log"), env.bin, "docker-plugin",
		"--state-dir", l.path("volumes"), "--allow-dir", l.path("allow"))
	if err != nil {
		return err
	}
	return l.plugin.await(func() error {
		c, err := netDial(pluginSocket)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// close ends everything and reports what was left over.
func (l *lab) close() error {
	var errs []error
	if l.dockerd != nil {
		errs = append(errs, l.dockerd.end(unix.SIGTERM))
	}
	if l.plugin != nil {
		errs = append(errs, l.plugin.end(unix.SIGTERM))
	}
	mounts, err := cell.Mounts()
	errs = append(errs, err)
	for _, m := range mounts {
		if m.Type == "fuse.plyfs" || m.Type == "overlay" && strings.HasPrefix(m.Target, l.dir+"/") {
			errs = append(errs, fmt.Errorf("still mounted at the end: %v", m))
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/plyfs-test")
	for _, dir := range append(groups, "/sys/fs/cgroup/plyfs-test") {
		unix.Rmdir(dir)
	}
	return errors.Join(errs...)
}

// try runs the client and returns its standard output, trimmed. The error has
// what it said.
func (l *lab) try(args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(l.docker, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// bench is the lab in one test.
type bench struct {
	*lab
	t *testing.T
}

// newBench says at the end of a test that failed what servers said meanwhile.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{env.lab, t}
	plugin, dockerd := b.plugin.size(), b.dockerd.size()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("plugin's log:\n%s\ndockerd's log:\n%s", b.plugin.tail(plugin), b.dockerd.tail(dockerd))
		}
	})
	return b
}

// do runs the client, which must succeed.
func (b *bench) do(args ...string) string {
	b.t.Helper()
	out, err := b.try(args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// fails runs the client, which must fail and say each text.
func (b *bench) fails(args []string, texts ...string) {
	b.t.Helper()
	out, err := b.try(args...)
	if err == nil {
		b.t.Errorf("docker %s: no error\n%s", strings.Join(args, " "), out)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			b.t.Errorf("%v\nlacks %q", err, text)
		}
	}
}

func (b *bench) want(what, got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// run runs a shell line in a container that is removed afterwards.
func (b *bench) run(options []string, line string) string {
	b.t.Helper()
	args := append([]string{"run", "--rm", "--network=none"}, options...)
	return b.do(append(args, image, "sh", "-c", line)...)
}

// volume makes a volume that goes with the test.
func (b *bench) volume(name string, options ...string) {
	b.t.Helper()
	args := []string{"volume", "create", "-d", "plyfs"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	b.want("volume create", b.do(append(args, name)...), name)
	b.t.Cleanup(func() {
		if _, err := b.try("volume", "rm", name); err != nil && !strings.Contains(err.Error(), "o such volume") {
			b.t.Error(err)
		}
	})
}

// container starts one that stays, and goes with the test.
func (b *bench) container(name string, args ...string) {
	b.t.Helper()
	b.do(append([]string{"run", "-d", "--name", name, "--network=none"}, args...)...)
	b.t.Cleanup(func() { b.try("rm", "-f", name) })
}

// mountpoint is where a volume of the plugin is mounted.
func (b *bench) mountpoint(name string) string { return b.path("volumes/mnt/" + name) }

func (b *bench) isMounted(name string) bool {
	b.t.Helper()
	mounts, err := cell.Mounts()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range mounts {
		if m.Target == b.mountpoint(name) && m.Type == "fuse.plyfs" {
			return true
		}
	}
	return false
}

// killPlugin is kill -9.
func (b *bench) killPlugin() {
	b.t.Helper()
	if err := b.plugin.end(unix.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) restartPlugin() {
	b.t.Helper()
	if err := b.startPlugin(); err != nil {
		b.t.Fatal(err)
	}
}

// restartDockerd ends dockerd by a signal and starts it again.
func (b *bench) restartDockerd(sig unix.Signal) {
	b.t.Helper()
	if err := b.dockerd.end(sig); err != nil {
		b.t.Fatal(err)
	}
	if sig == unix.SIGKILL {
		os.Remove(b.path("docker.pid"))
	}
	if err := b.startDockerd(); err != nil {
		b.t.Fatal(err)
	}
}

// killDaemon kills the process that serves a volume.
func (b *bench) killDaemon(name string) {
	b.t.Helper()
	out, err := exec.Command(env.bin, "status", "--json", b.mountpoint(name)).Output()
	if err != nil {
		b.t.Fatalf("status: %v", err)
	}
	pid, err := pidOf(out)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
}
