package fs

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
)

// The volume under test is served by another process, this test binary run
// with the variable set: a process that faults on a mapping of its own mount
// waits for itself.
const serveVar = "PLYFS_FS_TEST_SERVE"

func TestMain(m *testing.M) {
	unix.Umask(0o022)
	if back := os.Getenv(serveVar); back != "" {
		if err := serve(back, os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve mounts the volume in back, says so and waits for the end of the mount.
func serve(back, dir, blockSize, mode string) error {
	n, err := strconv.Atoi(blockSize)
	if err != nil {
		return err
	}
	c, err := testCipher(n)
	if err != nil {
		return err
	}
	root, err := backing.OpenDir(back)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("PLYFS_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	ro := mode == "ro"
	v, err := volume.Open(volume.Config{Root: root, Cipher: c, ReadOnly: ro, Log: log})
	if err != nil {
		return err
	}
	server, err := Mount(dir, v, Options{
		Source: back, AllowOther: os.Geteuid() == 0, Suid: true, Dev: true, ReadOnly: ro, Log: log,
	})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	go obey(server)
	return server.Wait()
}

// obey does what standard input says, a line each, and answers with a line.
func obey(server *Server) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var err error
		switch in.Text() {
		case "suspend":
			err = server.Suspend()
		case "resume":
			err = server.Resume(testKeys)
		case "resume otherwise":
			err = server.Resume(cipher.Keys{Data: [32]byte{3}, Infra: [32]byte{4}})
		}
		fmt.Println(err)
	}
}

var testKeys = cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}

func testCipher(blockSize int) (*cipher.Volume, error) {
	return cipher.NewVolume(cipher.Params{
		Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2,
		BlockSize: uint32(blockSize), VolumeID: cipher.VolumeID{1},
	}, 1, testKeys, nil)
}

// testMount is a volume that a test mounts, perhaps several times.
type testMount struct {
	t         *testing.T
	blockSize int
	back      string // ciphertext
	dir       string // mount point
	mode      string // "rw" or "ro"
	server    *exec.Cmd
	in        io.Writer     // of the server
	out       *bufio.Reader // of the server
}

// newMount formats a volume with the block size and mounts it until the test
// ends.
func newMount(t *testing.T, blockSize int) *testMount {
	t.Helper()
	m := &testMount{t: t, blockSize: blockSize, back: filepath.Join(t.TempDir(), "back"), dir: t.TempDir(), mode: "rw"}
	if err := os.Mkdir(m.back, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := backing.OpenDir(m.back)
	if err != nil {
		t.Fatal(err)
	}
	c, err := testCipher(blockSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Format(root, c); err != nil {
		t.Fatal(err)
	}
	root.Close()
	t.Cleanup(func() {
		if m.server == nil {
			return
		}
		unix.Unmount(m.dir, unix.MNT_DETACH)
		if err := m.wait(); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	m.mount()
	return m
}

func (m *testMount) mount() {
	m.t.Helper()
	cmd := exec.Command(os.Args[0], m.dir, strconv.Itoa(m.blockSize), m.mode)
	cmd.Env = append(os.Environ(), serveVar+"="+m.back)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.in = in
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.server = cmd
	m.out = bufio.NewReader(out)
	if line, _ := m.out.ReadString('\n'); line != "serving\n" {
		m.t.Fatal("the server did not start")
	}
}

// tell has the server do something and returns what it answers, "<nil>" for no
// error.
func (m *testMount) tell(what string) string {
	m.t.Helper()
	fmt.Fprintln(m.in, what)
	line, err := m.out.ReadString('\n')
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// wait waits for the server to have closed the volume. One that does not end
// is killed, so that the test ends.
func (m *testMount) wait() error {
	late := time.AfterFunc(90*time.Second, func() { m.server.Process.Kill() })
	defer late.Stop()
	err := m.server.Wait()
	m.server = nil
	return err
}

func (m *testMount) unmount() {
	m.t.Helper()
	if err := unix.Unmount(m.dir, 0); err != nil {
		m.t.Fatalf("unmount: %v", err)
	}
	if err := m.wait(); err != nil {
		m.t.Fatalf("server: %v", err)
	}
}

func (m *testMount) remount() {
	m.t.Helper()
	m.unmount()
	m.mount()
}

func (m *testMount) path(name string) string { return filepath.Join(m.dir, name) }

// endOf detaches an in-process mount and waits for its end, not for ever: a
// test that failed may have left something open in it.
func endOf(t *testing.T, dir string, server *Server) {
	t.Helper()
	unix.Unmount(dir, unix.MNT_DETACH)
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("closing the volume: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the mount does not end: something is open in it")
	}
}
