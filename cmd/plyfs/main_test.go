package main

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
)

// The test program is plyfs itself when this variable is set, so that daemons
// and mount helpers run for real.
const asPlyfs = "PLYFS_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asKeyProgram) != "" {
		keyProgram()
	}
	if os.Getenv(asPlyfs) != "" {
		main()
	}
	os.Exit(m.Run())
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// inProcess runs a command line here, without a terminal and without an
// environment but for what vars say (NAME=VALUE).
func inProcess(vars []string, args ...string) result {
	var out, errs bytes.Buffer
	con := &console{
		stdout: &out, stderr: &errs,
		tty: func() (*os.File, error) { return nil, errors.New("no terminal in tests") },
		getenv: func(name string) string {
			for _, v := range vars {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		},
	}
	code := run(con, append([]string{"plyfs"}, args...))
	return result{code, out.String(), errs.String()}
}

// bench is a place for one volume: key stores, ciphertext, mountpoint.
type bench struct {
	t                      *testing.T
	dir, keys, cipher, mnt string
	stdin                  *os.File // of the next command
	inherit                []*os.File
}

// newBench makes the directories. Whatever is mounted below them at the end
// is taken away.
func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, keys: filepath.Join(dir, "keys"), cipher: filepath.Join(dir, "cipher"), mnt: filepath.Join(dir, "mnt")}
	if err := os.Mkdir(b.mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.sweep)
	return b
}

// withVolume is a bench with a volume, made with initArgs, for a test that mounts.
func withVolume(t *testing.T, initArgs ...string) *bench {
	t.Helper()
	needMounts(t)
	b := newBench(t)
	b.volume(initArgs...)
	return b
}

// parted is withVolume in a directory whose mounts reach no other namespace, see part.
func parted(t *testing.T) *bench {
	t.Helper()
	needMounts(t)
	b := newBench(t)
	b.part()
	b.volume()
	return b
}

// mounted is a bench with a volume that is mounted, with mountArgs.
func mounted(t *testing.T, mountArgs ...string) *bench {
	t.Helper()
	b := withVolume(t)
	b.mount(mountArgs...)
	return b
}

// needMounts fails the test where nothing can be mounted: the commands are
// for mounting, and a test that skips that tests nothing.
func needMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) sweep() {
	mounts, _ := readMounts()
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i]
		if !strings.HasPrefix(m.Target, b.dir+"/") {
			continue
		}
		run := readRunFile("/run/plyfs", m.Target)
		unix.Unmount(m.Target, unix.MNT_DETACH)
		if run != nil {
			b.awaitEnd(run)
		}
	}
	if b.t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(b.dir, "state/plyfs/*"))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			b.t.Logf("%s:\n%s", filepath.Base(l), text)
		}
	}
}

func (b *bench) awaitEnd(run *runFile) {
	for end := time.Now().Add(60 * time.Second); run.alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Errorf("daemon %d does not end", run.PID)
			unix.Kill(run.PID, unix.SIGKILL)
			return
		}
	}
}

// command prepares a run of the program in a process of its own, called name.
func (b *bench) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = name
	cmd.Env = []string{asPlyfs + "=1", "PATH=" + filepath.Join(b.dir, "bin") + ":" + os.Getenv("PATH"),
		"PLYFS_KEYSTORE=" + b.keys, "PLYFS_PROVIDERS=" + filepath.Join(b.dir, "providers"),
		"HOME=" + b.dir, "XDG_STATE_HOME=" + filepath.Join(b.dir, "state")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
	cmd.ExtraFiles = b.inherit
	if b.stdin != nil {
		cmd.Stdin = b.stdin
	}
	return cmd
}

// as runs the program under a name to its end.
func (b *bench) as(name string, args ...string) result {
	b.t.Helper()
	var out, errs bytes.Buffer
	cmd := b.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second // a daemon that kept the pipes would be found so
	err := cmd.Run()
	r := result{stdout: out.String(), stderr: errs.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, r.stderr)
	}
	return r
}

// run runs plyfs; want is the exit code.
func (b *bench) run(want exitCode, args ...string) result {
	b.t.Helper()
	r := b.as("plyfs", args...)
	if r.code != int(want) {
		b.t.Fatalf("plyfs %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, want, r.stdout, r.stderr)
	}
	if want != exitOK && !strings.Contains(r.stderr, "plyfs: error: ") {
		b.t.Errorf("plyfs %s failed with %d and no error line: %q", strings.Join(args, " "), r.code, r.stderr)
	}
	return r
}

// volume makes a volume with its key stores.
func (b *bench) volume(initArgs ...string) {
	b.t.Helper()
	b.run(exitOK, append(append([]string{"init"}, initArgs...), b.cipher)...)
}

// mount mounts the volume.
func (b *bench) mount(args ...string) {
	b.t.Helper()
	b.run(exitOK, append(append([]string{"mount"}, args...), b.cipher, b.mnt)...)
}

// entry is the mount at the mountpoint.
func (b *bench) entry() (mountEntry, bool) {
	b.t.Helper()
	mounts, err := readMounts()
	if err != nil {
		b.t.Fatal(err)
	}
	return mountedAt(mounts, b.mnt)
}

// daemon is the run file of the mount, which must be there.
func (b *bench) daemon() *runFile {
	b.t.Helper()
	r := readRunFile("/run/plyfs", b.mnt)
	if r == nil {
		b.t.Fatal("the mount has no run file")
	}
	return r
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	f, err := os.Create(filepath.Join(b.mnt, name))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		b.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) wantFile(name, want string) {
	b.t.Helper()
	got, err := os.ReadFile(filepath.Join(b.mnt, name))
	if err != nil {
		b.t.Fatal(err)
	}
	if string(got) != want {
		b.t.Errorf("%s holds %q, want %q", name, got, want)
	}
}

// wantText fails unless text holds every part.
func wantText(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}

// file writes a file below the bench's directory and returns its path.
func (b *bench) file(name, content string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (r result) String() string { return fmt.Sprintf("%d\n%s%s", r.code, r.stdout, r.stderr) }
