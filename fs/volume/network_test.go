package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// lacking opens a volume whose backing filesystem will fail calls that change
// names as plans say.
func lacking(t *testing.T, plans ...faultfs.Plan) (engine, func() []string) {
	t.Helper()
	v := &testVolume{t: t, back: filepath.Join(t.TempDir(), "back"), cipher: newCipher(t, 4096)}
	must(t, os.Mkdir(v.back, 0o755))
	root := v.root()
	must(t, Format(root, v.cipher))
	faults := faultfs.New(root)
	var err error
	v.Volume, err = Open(Config{Root: faults.Root(), Cipher: v.cipher, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)})
	must(t, err)
	t.Cleanup(func() { must(t, v.Close()) })
	v.grow("file", "dir/", "dir/inside", "empty/")
	for _, p := range plans {
		faults.Set(p)
	}
	return engine{v}, func() []string {
		left, err := os.ReadDir(filepath.Join(v.back, ".plyfs/tmp"))
		must(t, err)
		var names []string
		for _, e := range left {
			names = append(names, e.Name())
		}
		return names
	}
}

// A network filesystem exchanges no names. A directory takes an empty one's
// place all the same.
func TestRenameOverDirWithoutExchange(t *testing.T) {
	for _, no := range []unix.Errno{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP} {
		e, left := lacking(t, faultfs.Plan{Kind: faultfs.Name, Times: 1, Err: no})
		must(t, e.Rename("dir", "empty", 0))
		if got := strings.Join(treeOf(e, ""), " "); strings.Contains(got, "dir:") || !strings.Contains(got, "empty/ins") {
			t.Errorf("%v: afterwards there is %s", no, got)
		}
		if names := left(); len(names) > 0 {
			t.Errorf("%v: left %v", no, names)
		}
		must(t, e.Mkdir("dir", 0o755)) // the old name is free
	}
}

func TestRenameOverDirInStepsThatFails(t *testing.T) {
	e, left := lacking(t,
		faultfs.Plan{Kind: faultfs.Name, Times: 1, Err: unix.EINVAL},
		faultfs.Plan{Kind: faultfs.Name, Skip: 1, Times: 1, Err: unix.ENOSPC})
	before := strings.Join(treeOf(e, ""), " ")
	if err := e.Rename("dir", "empty", 0); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("rename: %v, want ENOSPC", err)
	}
	if after := strings.Join(treeOf(e, ""), " "); after != before {
		t.Errorf("afterwards there is %s, before %s", after, before)
	}
	if names := left(); len(names) > 0 {
		t.Errorf("left %v", names)
	}
}

// An exchange that somebody asked for is refused, and nothing has changed.
func TestExchangeThatIsNotThere(t *testing.T) {
	e, _ := lacking(t, faultfs.Plan{Kind: faultfs.Name, Err: unix.EINVAL})
	before := strings.Join(treeOf(e, ""), " ")
	if err := e.Rename("file", "dir", unix.RENAME_EXCHANGE); !errors.Is(err, unix.EINVAL) {
		t.Errorf("exchange: %v, want EINVAL", err)
	}
	if after := strings.Join(treeOf(e, ""), " "); after != before {
		t.Errorf("afterwards there is %s, before %s", after, before)
	}
}
