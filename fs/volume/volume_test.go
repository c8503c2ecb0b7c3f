package volume

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// testVolume is a volume in a temporary directory, open until the test ends.
type testVolume struct {
	*Volume
	t      *testing.T
	back   string
	cipher *cipher.Volume
	config Config
}

func newVolume(t *testing.T, blockSize int) *testVolume {
	t.Helper()
	v := &testVolume{t: t, back: filepath.Join(t.TempDir(), "back"), cipher: newCipher(t, blockSize)}
	if err := os.Mkdir(v.back, 0o755); err != nil {
		t.Fatal(err)
	}
	root := v.root()
	if err := Format(root, v.cipher); err != nil {
		t.Fatal(err)
	}
	root.Close()
	v.open()
	t.Cleanup(func() {
		if v.Volume != nil {
			if err := v.Close(); err != nil {
				t.Errorf("closing the volume: %v", err)
			}
		}
	})
	return v
}

func newCipher(t *testing.T, blockSize int) *cipher.Volume {
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

func (v *testVolume) root() backing.Dir {
	v.t.Helper()
	root, err := backing.OpenDir(v.back)
	if err != nil {
		v.t.Fatal(err)
	}
	return root
}

// testSegment is the size of small journal segments.
func testSegment(c *cipher.Volume) int64 { return int64(c.BlockSize() * 40) }

func (v *testVolume) open() {
	v.t.Helper()
	c := v.config
	c.Root, c.Cipher = v.root(), v.cipher
	c.JournalSegment, c.JournalSize = testSegment(v.cipher), 6*testSegment(v.cipher)
	if os.Getenv("PLYFS_TEST_LOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	if v.Volume, err = Open(c); err != nil {
		v.t.Fatal(err)
	}
}

func (v *testVolume) close() {
	v.t.Helper()
	if err := v.Close(); err != nil {
		v.t.Fatal(err)
	}
	v.Volume = nil
}

func (v *testVolume) reopen() {
	v.t.Helper()
	v.close()
	v.open()
}
