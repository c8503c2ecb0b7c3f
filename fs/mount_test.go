package fs

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
)

func TestMain(m *testing.M) {
	unix.Umask(0o022)
	os.Exit(m.Run())
}

// testMount is a volume that a test mounts, perhaps several times.
type testMount struct {
	t      *testing.T
	cipher *cipher.Volume
	back   string // ciphertext
	dir    string // mount point
	server *Server
	opts   Options
}

// newMount formats a volume with the block size and mounts it until the test
// ends.
func newMount(t *testing.T, blockSize int) *testMount {
	t.Helper()
	m := &testMount{t: t, back: filepath.Join(t.TempDir(), "back"), dir: t.TempDir()}
	m.cipher = testCipher(t, blockSize)
	m.opts = Options{Source: m.back, AllowOther: os.Geteuid() == 0, Suid: true, Dev: true}
	if err := os.Mkdir(m.back, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := backing.OpenDir(m.back)
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Format(root, m.cipher); err != nil {
		t.Fatal(err)
	}
	root.Close()
	m.mount()
	t.Cleanup(func() {
		if m.server != nil {
			unix.Unmount(m.dir, unix.MNT_DETACH)
			if err := m.server.Wait(); err != nil {
				t.Errorf("closing the volume: %v", err)
			}
		}
	})
	return m
}

func testCipher(t *testing.T, blockSize int) *cipher.Volume {
	t.Helper()
	v, err := cipher.NewVolume(cipher.Params{
		Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2,
		BlockSize: uint32(blockSize), VolumeID: cipher.VolumeID{1},
	}, 1, cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (m *testMount) mount() {
	m.t.Helper()
	root, err := backing.OpenDir(m.back)
	if err != nil {
		m.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{m.t}, nil))
	v, err := volume.Open(volume.Config{Root: root, Cipher: m.cipher, ReadOnly: m.opts.ReadOnly, Log: log})
	if err != nil {
		m.t.Fatal(err)
	}
	m.opts.Log = log
	if m.server, err = Mount(m.dir, v, m.opts); err != nil {
		m.t.Fatal(err)
	}
}

func (m *testMount) unmount() {
	m.t.Helper()
	if err := m.server.Unmount(); err != nil {
		m.t.Fatalf("unmount: %v", err)
	}
	if err := m.server.Wait(); err != nil {
		m.t.Fatalf("closing the volume: %v", err)
	}
	m.server = nil
}

func (m *testMount) remount() {
	m.t.Helper()
	m.unmount()
	m.mount()
}

func (m *testMount) path(name string) string { return filepath.Join(m.dir, name) }

// testWriter is for log lines, which may come after the test's end.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if os.Getenv("PLYFS_TEST_LOG") != "" {
		return os.Stderr.Write(b)
	}
	return io.Discard.Write(b)
}
