package keystore

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// watchFiles opens files; the function that it returns fails the test unless all were overwritten since.
func watchFiles(t testing.TB, paths ...string) func() {
	t.Helper()
	files := map[string]*os.File{}
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files[p] = f
	}
	return func() {
		t.Helper()
		for p, f := range files {
			if b, err := io.ReadAll(f); err != nil || len(b) == 0 || !allZero(b) {
				t.Errorf("%s was not overwritten: %d bytes, %v", p, len(b), err)
			}
		}
	}
}

// TestEraseConfigGoesOn leaves what an erasure that was cut short leaves, at each step.
func TestEraseConfigGoesOn(t *testing.T) {
	fleet := newFleet(t)
	old, _ := newVolumeOf(t, fleet, groupA)
	next := mustEdit(t, old, StoreAccess(fleet[0], fleet[1]), func(e *Editor) error { return e.Erase(cipher.LayerInfra) })
	zeros := make([]byte, len(old))
	for step, files := range []map[string][]byte{
		{"": old, ".bak": zeros, ".bak.tmp-1": next},
		{"": old, ".bak": next},
		{"": zeros, ".bak": next, ".tmp-1": next},
		{"": next, ".bak": next, ".bak.tmp-1": old},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, ConfigName)
		for name, b := range files {
			writeFile(t, path+name, b)
		}
		if err := EraseConfig(path, next); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		bothFiles(t, dir, next)
		onlyFiles(t, dir, ConfigName, ConfigName+backupSuffix, ConfigName+".lock")
	}
}

// TestOldConfigIsZeroedUnderItsName: it has a name until it is overwritten, so that a crash leaves it for the repeat.
func TestOldConfigIsZeroedUnderItsName(t *testing.T) {
	d, path := newFile(t, "old")
	overwritten := watchFiles(t, path)
	events := watchFolder(t, d.path)
	if err := d.replaceAndZero("file", []byte("new")); err != nil {
		t.Fatal(err)
	}
	zeroed, renamed := slices.Index(events(), "modify file"), slices.Index(events(), "moved-to file")
	if zeroed < 0 || renamed < zeroed {
		t.Errorf("events: %v", events())
	}
	overwritten()
	if got := readFile(t, path); string(got) != "new" {
		t.Errorf("it holds %q", got)
	}
	again := watchFolder(t, d.path)
	if err := d.replaceAndZero("file", []byte("new")); err != nil || len(again()) != 0 {
		t.Errorf("what is there already: %v, %v", err, again())
	}
}

// TestOldStoreKeepsAName: it has a second name before it is replaced, and none in the end.
func TestOldStoreKeepsAName(t *testing.T) {
	d, path := newFile(t, "old")
	overwritten := watchFiles(t, path)
	events := watchFolder(t, d.path)
	if err := d.replaceErasing("file", []byte("new")); err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, e := range events()[:slices.Index(events(), "moved-to file")] {
		if strings.HasPrefix(e, "create file"+tempInfix) {
			made++
		}
	}
	if made != 2 {
		t.Errorf("events: %v", events())
	}
	overwritten()
	onlyFiles(t, d.path, "file")
	if err := os.Link(path, path+".backup"); err != nil {
		t.Fatal(err)
	}
	if err := d.replaceErasing("file", []byte("newer")); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, d.path, "file", "file.backup")
	if got := readFile(t, path+".backup"); string(got) != "new" {
		t.Errorf("the backup holds %q", got)
	}
}

// newFile makes a file called file in a folder of its own.
func newFile(t *testing.T, content string) (*folder, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	writeFile(t, path, []byte(content))
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d, path
}

// watchFolder returns a function that tells what happened in a directory since, in order.
func watchFolder(t *testing.T, dir string) func() []string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	names := map[uint32]string{unix.IN_MODIFY: "modify", unix.IN_CREATE: "create", unix.IN_MOVED_TO: "moved-to"}
	var all []string
	return func() []string {
		b := make([]byte, 1<<16)
		n, _ := unix.Read(fd, b)
		for n = max(n, 0); n >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(e.Len)
			all = append(all, names[e.Mask]+" "+string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00")))
			b, n = b[end:], n-end
		}
		return all
	}
}

// TestDestroyRootOverwrites looks at the file that had the root, and at what a change that crashed left of it.
func TestDestroyRootOverwrites(t *testing.T) {
	s := newFleet(t)[0]
	if _, err := s.Rotate(Names{}); err != nil {
		t.Fatal(err)
	}
	leftover := s.Path() + tempInfix + "1"
	writeFile(t, leftover, readFile(t, s.Path()))
	overwritten := watchFiles(t, s.Path(), leftover)
	if err := s.DestroyRoot(1); err != nil {
		t.Fatal(err)
	}
	overwritten()
	writeFile(t, leftover, []byte("of a DestroyRoot that crashed"))
	overwritten = watchFiles(t, leftover)
	check(t, "destroyed twice", s.DestroyRoot(1), ErrRetired)
	overwritten()
	onlyStore(t, s.Path())
	again, err := OpenStore(s.Path(), s.Layer(), Opener{})
	if err != nil {
		t.Fatal(err)
	}
	again.Wipe()
}

func TestDropGroupOverwrites(t *testing.T) {
	fleet := newFleet(t)
	host := newHost(t, fleet, groupA)[0]
	if err := host.Import(newBundle(t, fleet[0], groupB), true); err != nil {
		t.Fatal(err)
	}
	overwritten := watchFiles(t, host.Path())
	if err := host.DropGroup(groupA); err != nil {
		t.Fatal(err)
	}
	overwritten()
	if _, err := host.GroupKey(groupB); err != nil {
		t.Errorf("the group that stays: %v", err)
	}
}

// onlyStore fails unless of a store's file there is nothing but itself and its lock.
func onlyStore(t *testing.T, path string) {
	t.Helper()
	found, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 || found[0] != path || found[1] != path+".lock" {
		t.Errorf("files: %v", found)
	}
}

func TestDestroyHostStore(t *testing.T) {
	fleet := newFleet(t)
	check(t, "a fleet's store", fleet[0].Destroy(Opener{}), ErrUsage)
	host := newHost(t, fleet, groupA)[0]
	store, key := host.Path(), DefaultKeyFile(host.Path())
	writeFile(t, store+".tmp-1", readFile(t, store)) // of a change that crashed
	// As after a crash when the key file had just got its name.
	if err := os.Link(key, key+".tmp-2"); err != nil {
		t.Fatal(err)
	}
	overwritten := watchFiles(t, store, key, store+".tmp-1")
	if err := host.Destroy(Opener{}); err != nil {
		t.Fatal(err)
	}
	overwritten()
	onlyFiles(t, filepath.Dir(store), "infra.key", "infra.store")
	_, err := host.GroupKey(groupA)
	if !errors.Is(err, cipher.ErrWiped) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestDestroySparesOtherLinks(t *testing.T) {
	host := newHost(t, newFleet(t), groupA)
	key := DefaultKeyFile(host[0].Path())
	before := readFile(t, key)
	if err := os.Link(key, key+".link"); err != nil {
		t.Fatal(err)
	}
	if err := host[0].Destroy(Opener{}); err == nil || !strings.Contains(err.Error(), "data.key was removed, but not overwritten") {
		t.Errorf("a key file with another link: %v", err)
	}
	if !bytes.Equal(readFile(t, key+".link"), before) {
		t.Error("the other link was overwritten")
	}
	onlyFiles(t, filepath.Dir(key), "data.key.link", "infra.key", "infra.store")
	key = DefaultKeyFile(host[1].Path())
	if err := errors.Join(os.Rename(key, key+".real"), os.Symlink(key+".real", key)); err != nil {
		t.Fatal(err)
	}
	check(t, "a symbolic link", host[1].Destroy(Opener{}), ErrUsage)
	if _, err := host[1].GroupKey(groupA); err != nil {
		t.Errorf("what was refused: %v", err)
	}
}

// TestFinishDestroy leaves what a Destroy that was cut short leaves, at each step.
func TestFinishDestroy(t *testing.T) {
	fleet := newFleet(t)
	for what, cut := range map[string]func(store, key string) error{
		"the key file is whole":       func(store, key string) error { return nil },
		"the key file is overwritten": func(store, key string) error { return os.WriteFile(key, make([]byte, 90), 0o600) },
		"the key file is gone":        func(store, key string) error { return os.Remove(key) },
		"the store is overwritten": func(store, key string) error {
			return errors.Join(os.Remove(key), os.WriteFile(store+destroyedSuffix, make([]byte, 900), 0o600))
		},
	} {
		host := newHost(t, fleet, groupA)[0]
		path := host.Path()
		if half, err := HalfDestroyed(path); half || err != nil {
			t.Errorf("a whole store: %v, %v", half, err)
		}
		nothing := filepath.Join(t.TempDir(), "directory")
		if err := os.MkdirAll(filepath.Join(nothing, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := host.Destroy(Opener{KeyFile: nothing}); err == nil {
			t.Fatal("a directory was destroyed as a key file")
		}
		if err := cut(path, DefaultKeyFile(path)); err != nil {
			t.Fatal(err)
		}
		if half, err := HalfDestroyed(path); !half || err != nil {
			t.Errorf("%s: %v, %v", what, half, err)
		}
		if err := FinishDestroy(path, host.Layer(), Opener{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		onlyFiles(t, filepath.Dir(path), "infra.key", "infra.store")
		if half, err := HalfDestroyed(path); half || err != nil {
			t.Errorf("%s, finished: %v, %v", what, half, err)
		}
	}
}

func TestFinishDestroySparesAnotherKeyFile(t *testing.T) {
	host := newHost(t, newFleet(t), groupA)
	path := host[0].Path()
	if err := os.Rename(path, path+destroyedSuffix); err != nil {
		t.Fatal(err)
	}
	other := DefaultKeyFile(host[1].Path())
	before := readFile(t, other)
	err := FinishDestroy(path, host[0].Layer(), Opener{KeyFile: other})
	check(t, "another store's key file", err, ErrWrongKey)
	if !bytes.Equal(readFile(t, other), before) {
		t.Error("it was overwritten")
	}
	if err := FinishDestroy(path, host[0].Layer(), Opener{}); err != nil {
		t.Error(err)
	}
	for _, h := range []string{path, "/none/" + path} {
		if half, err := HalfDestroyed(h); half || err != nil {
			t.Errorf("HalfDestroyed(%s): %v, %v", h, half, err)
		}
	}
}
