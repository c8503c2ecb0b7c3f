package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/dockervolume"
)

// pluginBench is a volume plugin as a process of its own, and its caller.
type pluginBench struct {
	*bench
	state, socket, allow string
	cmd                  *exec.Cmd
	log                  *os.File
	client               *http.Client
}

func newPluginBench(t *testing.T, keystoreArgs ...string) *pluginBench {
	t.Helper()
	needMounts(t)
	b := &pluginBench{bench: newBench(t)}
	b.state, b.socket, b.allow = filepath.Join(b.dir, "volumes"), filepath.Join(b.dir, "run/plyfs.sock"), filepath.Join(b.dir, "allow")
	b.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", b.socket)
		},
	}}
	if err := os.Mkdir(b.allow, 0o755); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, append([]string{"keystore", "init"}, keystoreArgs...)...)
	if len(keystoreArgs) == 0 {
		b.start()
	}
	t.Cleanup(func() {
		b.end(unix.SIGTERM)
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(b.dir, "plugin.log"))
			t.Logf("plugin's log:\n%s", text)
		}
		mounts, _ := readMounts() // bind mounts; sweep does those of volumes
		for _, m := range mounts {
			if strings.HasPrefix(m.Target, b.state+"/adopted/") {
				unix.Unmount(m.Target, unix.MNT_DETACH)
			}
		}
	})
	return b
}

// start starts the plugin and returns when it serves.
func (b *pluginBench) start(args ...string) {
	b.t.Helper()
	log, err := os.OpenFile(filepath.Join(b.dir, "plugin.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.dir, "notify"), Net: "unixgram"})
	if err != nil {
		b.t.Fatal(err)
	}
	defer os.Remove(filepath.Join(b.dir, "notify"))
	defer notify.Close()
	b.cmd = b.command("plyfs", append([]string{"docker-plugin", "--state-dir", b.state, "--socket", b.socket, "--allow-dir", b.allow}, args...)...)
	b.cmd.Env = append(b.cmd.Env, "NOTIFY_SOCKET="+filepath.Join(b.dir, "notify"))
	b.cmd.Stderr = log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	notify.SetReadDeadline(time.Now().Add(time.Minute))
	said := make([]byte, 64)
	n, err := notify.Read(said)
	if err != nil || string(said[:n]) != "READY=1" {
		b.t.Fatalf("systemd would hear %q, %v", said[:n], err)
	}
}

// end ends the plugin with a signal.
func (b *pluginBench) end(s unix.Signal) {
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Signal(s)
	err := b.cmd.Wait()
	if s == unix.SIGTERM && err != nil {
		b.t.Errorf("the plugin ended with %v", err)
	}
	b.cmd = nil
}

// ask sends a request; the error is the plugin's.
func (b *pluginBench) ask(request string, args, result any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return err
	}
	resp, err := b.client.Post("http://plugin/VolumeDriver."+request, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Err string }
		json.Unmarshal(text, &e)
		return fmt.Errorf("%s: %s", request, e.Err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(text, result)
}

func (b *pluginBench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *pluginBench) wantErr(err error, parts ...string) {
	b.t.Helper()
	if err == nil {
		b.t.Errorf("no error, want one with %q", parts)
		return
	}
	wantText(b.t, "error", err.Error(), parts...)
}

type dockerArgs struct {
	Name, ID string            `json:",omitempty"`
	Opts     map[string]string `json:",omitempty"`
}

// use mounts a volume for an ID and returns where.
func (b *pluginBench) use(name, id string) string {
	b.t.Helper()
	var at struct{ Mountpoint string }
	b.must(b.ask("Mount", dockerArgs{Name: name, ID: id}, &at))
	return at.Mountpoint
}

// daemonOf is the daemon of a mountpoint.
func (b *pluginBench) daemonOf(at string) *runFile {
	b.t.Helper()
	r := readRunFile("/run/plyfs", at)
	if r == nil {
		b.t.Fatalf("no run file of %s", at)
	}
	return r
}

func writeAndRead(t *testing.T, dir, text string) {
	t.Helper()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Fatalf("read %q, %v", got, err)
	}
}

func wantRead(t *testing.T, dir, text string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != text {
		t.Errorf("read %q, %v; want %q", got, err, text)
	}
}

func isMounted(t *testing.T, at string) bool {
	t.Helper()
	mounts, err := readMounts()
	if err != nil {
		t.Fatal(err)
	}
	_, ok := mountedAt(mounts, at)
	return ok
}

// A volume's life: made, used by two, over a kill of the plugin and one of the
// daemon, and removed.
func TestDockerPluginVolume(t *testing.T) {
	b := newPluginBench(t)
	b.must(b.ask("Create", dockerArgs{Name: "db", Opts: map[string]string{"block-size": "16384"}}, nil))
	at := b.use("db", "one")
	if at != filepath.Join(b.state, "mnt/db") {
		t.Errorf("mounted at %s", at)
	}
	writeAndRead(t, at, "first")
	daemon := b.daemonOf(at)

	b.end(unix.SIGKILL)
	wantRead(t, at, "first")
	b.start()
	if again := b.use("db", "two"); again != at || b.daemonOf(at).PID != daemon.PID {
		t.Errorf("mounted anew after a kill of the plugin")
	}
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "one"}, nil))
	wantRead(t, at, "first")
	b.wantErr(b.ask("Remove", dockerArgs{Name: "db"}, nil), "in use")

	f, err := os.OpenFile(filepath.Join(at, "synced"), os.O_CREATE|os.O_RDWR, 0o644)
	b.must(err)
	_, err = f.WriteString("x")
	b.must(err)
	b.must(f.Sync())
	b.must(unix.Kill(daemon.PID, unix.SIGKILL))
	// At once: the plugin sees for itself that the daemon is on its way out.
	if again := b.use("db", "three"); again != at {
		t.Errorf("mounted at %s", again)
	}
	f.Close()
	if now := b.daemonOf(at); now.PID == daemon.PID || !now.alive() {
		t.Errorf("daemon %d, alive %v", now.PID, now.alive())
	}
	if got, err := os.ReadFile(filepath.Join(at, "synced")); err != nil || string(got) != "x" {
		t.Errorf("synced file: %q, %v", got, err)
	}
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "two"}, nil))
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "three"}, nil))
	if isMounted(t, at) {
		t.Error("mounted for nobody")
	}
	b.must(b.ask("Remove", dockerArgs{Name: "db"}, nil))
	if left, _ := os.ReadDir(filepath.Join(b.state, "data")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	if in, _ := filepath.Glob("/run/plyfs/*"); len(in) > 0 {
		for _, path := range in {
			if text, _ := os.ReadFile(path); bytes.Contains(text, []byte(b.state)) {
				t.Errorf("left %s", path)
			}
		}
	}
}

// A mount namespace with copies of all mounts, such as that of a container which
// watches the host, keeps a volume mounted: it neither holds up Docker nor keeps
// the volume from the next container, and when it is gone the volume goes too.
func TestDockerPluginMountedElsewhereToo(t *testing.T) {
	b := newPluginBench(t)
	b.part()
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil))
	at := b.use("db", "one")
	writeAndRead(t, at, "content")
	daemon := b.daemonOf(at)
	before, err := mountedVolume(at)
	b.must(err)
	watcher := exec.Command("sleep", "3600")
	b.elsewhere(watcher)
	b.client.Timeout = 2 * time.Minute
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "one"}, nil))
	if !daemon.alive() {
		t.Fatal("its daemon has ended")
	}
	wantRead(t, b.use("db", "two"), "content")
	writeAndRead(t, at, "more")
	if after, err := mountedVolume(at); after != before {
		t.Errorf("mounted as %v, then as %v, %v", before, after, err)
	}
	if now := b.daemonOf(at); now.PID != daemon.PID {
		t.Error("another daemon serves")
	}
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "two"}, nil))
	b.wantErr(b.ask("Remove", dockerArgs{Name: "db"}, nil), "mount namespace")
	watcher.Process.Kill()
	watcher.Wait()
	awaitTrue(t, "Remove", func() bool { return b.ask("Remove", dockerArgs{Name: "db"}, nil) == nil })
	b.awaitEnd(daemon)
	if isMounted(t, at) {
		t.Error("mounted for nobody")
	}
}

// The paths that the plugin was given lead to theirs over symbolic links, while
// the kernel tells of mounts without.
func TestDockerPluginBehindSymlinks(t *testing.T) {
	b := newPluginBench(t, "--cluster", "default") // not started yet
	real := filepath.Join(b.dir, "disk")
	b.must(os.MkdirAll(filepath.Join(real, "mounts"), 0o700))
	b.must(os.Symlink(real, b.state))
	b.start("--mount-dir", filepath.Join(b.state, "mounts"))
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil))
	at := b.use("db", "one")
	if at != filepath.Join(real, "mounts/db") {
		t.Errorf("mounted at %s", at)
	}
	writeAndRead(t, at, "content")
	b.use("db", "two")

	for _, id := range []string{"one", "two"} {
		b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: id}, nil))
	}
	if isMounted(t, at) {
		t.Error("mounted for nobody")
	}

	// One that was mounted by another name of its ciphertext is known again.
	b.run(exitOK, "mount", filepath.Join(b.state, "data/db"), at)
	wantRead(t, b.use("db", "three"), "content")
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "three"}, nil))
	b.must(b.ask("Remove", dockerArgs{Name: "db"}, nil))
}

// A kill of the plugin in the middle of a mount leaves no use, and Docker's
// second try works.
func TestDockerPluginKilledWhileMounting(t *testing.T) {
	b := newPluginBench(t)
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil))
	lock, err := os.OpenFile(filepath.Join(b.state, "data/db/.plyfs/lock"), os.O_RDWR|os.O_CREATE, 0o600)
	b.must(err)
	defer lock.Close()
	b.must(unix.Flock(int(lock.Fd()), unix.LOCK_EX)) // the mount waits for it
	failed := make(chan error, 1)
	go func() { failed <- b.ask("Mount", dockerArgs{Name: "db", ID: "one"}, nil) }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(filepath.Join(b.dir, "state/plyfs", strings.ReplaceAll(strings.Trim(b.state+"/mnt/db", "/"), "/", "-")+".log")); text != nil {
			break // its daemon runs
		}
		if time.Now().After(end) {
			t.Fatal("no daemon was started")
		}
	}
	b.end(unix.SIGKILL)
	if err := <-failed; err == nil {
		t.Error("mounted under the lock")
	}
	lock.Close()
	b.start()
	at := b.use("db", "one")
	writeAndRead(t, at, "x")
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "one"}, nil))
	if isMounted(t, at) {
		t.Error("mounted for nobody")
	}
}

func TestDockerPluginAdopts(t *testing.T) {
	b := newPluginBench(t)
	dir := filepath.Join(b.allow, "vol")
	b.run(exitOK, "init", "--single-layer", dir)
	opts := map[string]string{"cipherdir": dir}
	b.wantErr(b.ask("Create", dockerArgs{Name: "old", Opts: opts}, nil), "layers 1, not 2")
	opts["layers"] = "1"
	b.must(b.ask("Create", dockerArgs{Name: "old", Opts: opts}, nil))
	b.wantErr(b.ask("Create", dockerArgs{Name: "x", Opts: map[string]string{"cipherdir": b.cipher}}, nil), "not below")
	at := b.use("old", "one")
	writeAndRead(t, at, "kept")
	if r := b.as("plyfs", "mount", "-o", "layers=1", dir, b.mnt); r.code != int(exitBusy) {
		t.Errorf("a second mount: %v", r)
	}
	b.end(unix.SIGTERM)
	b.start()
	wantRead(t, at, "kept")
	b.must(b.ask("Unmount", dockerArgs{Name: "old", ID: "one"}, nil))
	b.must(b.ask("Remove", dockerArgs{Name: "old"}, nil))
	b.run(exitOK, "mount", "-o", "layers=1", dir, b.mnt)
	b.wantFile("file", "kept")
	b.run(exitOK, "umount", b.mnt)
}

func TestDockerPluginManyAtOnce(t *testing.T) {
	b := newPluginBench(t)
	var wg sync.WaitGroup
	for v := range 4 {
		wg.Go(func() {
			name := fmt.Sprintf("v%d", v)
			if err := b.ask("Create", dockerArgs{Name: name}, nil); err != nil {
				t.Error(err)
				return
			}
			for _, id := range []string{"a", "b"} {
				if err := b.ask("Mount", dockerArgs{Name: name, ID: id}, nil); err != nil {
					t.Error(err)
				}
			}
			if err := os.WriteFile(filepath.Join(b.state, "mnt", name, "file"), []byte(name), 0o600); err != nil {
				t.Error(err)
			}
			for _, id := range []string{"a", "b"} {
				if err := b.ask("Unmount", dockerArgs{Name: name, ID: id}, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var all struct{ Volumes []dockervolume.Volume }
	b.must(b.ask("List", struct{}{}, &all))
	if len(all.Volumes) != 4 {
		t.Errorf("volumes: %v", all)
	}
	for _, v := range all.Volumes {
		if isMounted(t, filepath.Join(b.state, "mnt", v.Name)) {
			t.Errorf("%s is still mounted", v.Name)
		}
	}
}

// A name that looks like a flag is a name.
func TestDockerPluginNamesAreNoFlags(t *testing.T) {
	b := newPluginBench(t)
	b.wantErr(b.ask("Create", dockerArgs{Name: "db", Opts: map[string]string{"group": "--single-layer"}}, nil),
		`unknown group "--single-layer"`, "it holds: default")
	b.wantErr(b.ask("Create", dockerArgs{Name: "db", Opts: map[string]string{"cluster": "-f"}}, nil), `unknown cluster "-f"`)
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil)) // nothing was left in the way
}

func TestDockerPluginRefuses(t *testing.T) {
	b := newPluginBench(t)
	r := b.run(exitBusy, "docker-plugin", "--state-dir", b.state, "--socket", b.socket+".2")
	wantText(t, "standard error", r.stderr, "another plugin process")
	r = b.run(exitBusy, "docker-plugin", "--state-dir", b.state+"2", "--socket", b.socket)
	wantText(t, "standard error", r.stderr, "another plugin process")
	r = b.run(exitUsage, "docker-plugin", "--data-passphrase-file", "fd:7")
	wantText(t, "standard error", r.stderr, "descriptor")
	b.run(exitUsage, "docker-plugin", "--group", "A B")
	b.run(exitUsage, "docker-plugin", "--allow-dir", "")
	b.run(exitUsage, "docker-plugin", "--revalidate", "soon")
	b.run(exitUsage, "docker-plugin", "--audit", "")
	b.run(exitUsage, "docker-plugin", "--provider", "A/B")
	b.run(exitUsage, "docker-plugin", "--config-dir", "")
	r = b.run(exitFailure, "docker-plugin", "--journal-dir", b.dir+"/none")
	wantText(t, "standard error", r.stderr, "--journal-dir", "mkdir")
	b.run(exitUsage, "docker-plugin", "argument")
}
