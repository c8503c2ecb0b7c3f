package volume

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
)

var theKeys = cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}

// calls tries every call that a suspended volume refuses.
func (v *testVolume) calls(file *Handle, dir *DirHandle) map[string]error {
	id := file.Node()
	errs := map[string]error{}
	note := func(name string, err error) { errs[name] = err }
	var err error
	_, _, err = v.Create(RootID, "new", Creator{}, OpenOptions{})
	note("Create", err)
	_, _, err = v.Tmpfile(RootID, Creator{}, OpenOptions{})
	note("Tmpfile", err)
	_, err = v.Mknod(RootID, "node", Creator{}, 0o10000, 0)
	note("Mknod", err)
	_, err = v.Link(id, RootID, "link")
	note("Link", err)
	_, err = v.Open(id, OpenOptions{})
	note("Open", err)
	_, err = v.OpenDir(RootID)
	note("OpenDir", err)
	_, err = v.Lookup(RootID, "f")
	note("Lookup", err)
	_, err = v.Mkdir(RootID, "made", Creator{})
	note("Mkdir", err)
	_, err = v.GetAttr(id)
	note("GetAttr", err)
	_, err = v.SetAttr(id, Change{})
	note("SetAttr", err)
	note("Unlink", v.Unlink(RootID, "f"))
	note("Rmdir", v.Rmdir(RootID, "d"))
	note("Rename", v.Rename(RootID, "f", RootID, "g", 0))
	_, err = v.Symlink(RootID, "sym", "target", Creator{})
	note("Symlink", err)
	_, err = v.Readlink(id)
	note("Readlink", err)
	_, err = v.GetXattr(id, "user.a")
	note("GetXattr", err)
	note("SetXattr", v.SetXattr(id, "user.a", nil, 0, false))
	note("RemoveXattr", v.RemoveXattr(id, "user.a"))
	_, err = v.ListXattr(id)
	note("ListXattr", err)
	_, err = file.ReadAt(make([]byte, 10), 0)
	note("ReadAt", err)
	_, err = file.WriteAt([]byte("x"), 0, Writer{})
	note("WriteAt", err)
	_, err = file.WriteAt([]byte("x"), 0, Writer{Writeback: true})
	note("WriteAt of a page", err)
	note("Allocate", file.Allocate(0, 0, 1, Writer{}))
	_, err = file.Seek(0, 3)
	note("Seek", err)
	note("Sync", file.Sync(false))
	note("DirHandle.Read", dir.Read(0, func(DirEntry) bool { return true }))
	_, err = dir.Enter(DirEntry{back: "x"})
	note("Enter", err)
	note("DirHandle.Sync", dir.Sync())
	return errs
}

func TestSuspendedVolume(t *testing.T) {
	v := newVolume(t, 4096)
	content := bytes.Repeat([]byte("content"), 10_000)
	f := v.makeFile("f", content)
	e, err := v.Mkdir(RootID, "d", Creator{Mode: 0o700})
	must(t, err)
	v.Forget(e.ID, 1)
	dir, err := v.OpenDir(RootID)
	must(t, err)

	asked := false
	must(t, v.Suspend(func() {
		asked = true
		// What the kernel sends while it drops its pages.
		_, err := f.WriteAt([]byte("CONTENT"), 0, Writer{Writeback: true})
		must(t, err)
		must(t, f.Sync(true))
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrInaccessible) {
			t.Errorf("read while the kernel drops its pages: %v, want %v", err, ErrInaccessible)
		}
	}))
	if !asked || !v.Inaccessible() {
		t.Error("the volume is not inaccessible")
	}
	if s, _ := v.Journal(); s.Durable+1 != s.Next {
		t.Errorf("record %d is durable, %d is the next", s.Durable, s.Next)
	}
	for name, err := range v.calls(f, dir) {
		if !errors.Is(err, ErrInaccessible) {
			t.Errorf("%s: %v, want %v", name, err, ErrInaccessible)
		}
	}
	if _, err := v.GetAttr(RootID); err != nil {
		t.Errorf("attributes of the root: %v", err)
	}
	if err := v.Resume(cipher.Keys{Data: theKeys.Data}); !errors.Is(err, cipher.ErrOtherKeys) {
		t.Errorf("with other keys: %v, want %v", err, cipher.ErrOtherKeys)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrInaccessible) {
		t.Errorf("read after other keys: %v, want %v", err, ErrInaccessible)
	}
	must(t, v.Resume(theKeys))

	copy(content, "CONTENT")
	got := make([]byte, len(content))
	if n, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got[:n], content) {
		t.Errorf("open file after all: %d bytes, %v", n, err)
	}
	names := map[string]bool{}
	must(t, dir.Read(0, func(e DirEntry) bool { names[e.Name] = true; return true }))
	if !names["f"] || !names["d"] {
		t.Errorf("open directory after all: %v", names)
	}
	_, err = f.WriteAt([]byte("new"), 0, Writer{})
	must(t, err)
	must(t, f.Sync(false))
	must(t, v.journal.Drain())
	must(t, f.Close())
	must(t, dir.Close())
}

// A volume that is closed without its keys keeps in its journal what was written.
func TestCloseWhileSuspended(t *testing.T) {
	v := newVolume(t, 4096)
	content := bytes.Repeat([]byte("content"), 10_000)
	must(t, v.makeFile("closed", content).Close())
	h := v.makeFile("open", content)
	must(t, v.Suspend(nil))
	must(t, h.Close())
	must(t, v.Close())
	must(t, v.cipher.Restore(theKeys))
	d, err := backing.OpenDir(filepath.Join(v.back, metaName, journalName))
	must(t, err)
	super, err := journal.OpenSuper(d, v.cipher.Authenticator(journalLabel))
	must(t, err)
	if super.Clean() {
		t.Error("the volume counts as clean")
	}
	must(t, super.Close())
	d.Close()
	v.open()
	for _, name := range []string{"closed", "open"} {
		e, err := v.Lookup(RootID, name)
		must(t, err)
		h, err := v.Open(e.ID, OpenOptions{})
		must(t, err)
		got := make([]byte, len(content)+1)
		if n, err := h.ReadAt(got, 0); err != nil || !bytes.Equal(got[:n], content) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		must(t, h.Close())
		v.Forget(e.ID, 1)
	}
}

// Files that are closed or removed while a volume is suspended are dealt with
// once it is not.
func TestRemovedWhileSuspended(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("gone", make([]byte, 50_000))
	must(t, v.Unlink(RootID, "gone"))
	must(t, v.Suspend(nil))
	must(t, h.Close())
	time.Sleep(reapDelay / 4) // whoever would drop it has begun to wait
	must(t, v.Resume(theKeys))
	for end := time.Now().Add(time.Minute); v.files.idleCount() > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a removed file is never given up")
		}
	}
}

// A walk that a suspension ends is begun anew.
func TestSuspendDuringTheWalk(t *testing.T) {
	v := newVolume(t, 4096)
	for i := range 50 {
		must(t, v.makeFile("f"+string(rune('A'+i)), make([]byte, 100)).Close())
	}
	must(t, v.Suspend(nil)) // closed like this it is unclean
	must(t, v.Close())
	must(t, v.cipher.Restore(theKeys))
	v.open()
	must(t, v.Suspend(nil))
	must(t, v.Resume(theKeys))
	v.walk.Wait()
	if v.unclean.Load() {
		t.Error("the volume is unclean after the walk")
	}
}

// TestSuspendUnderLoad takes the keys away from goroutines that do everything,
// again and again. None may see anything but that.
func TestSuspendUnderLoad(t *testing.T) {
	v := newVolume(t, 4096)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	var stop atomic.Bool
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for !stop.Load() {
				if err := v.anything(r); err != nil && !isHarmless(err) && !errors.Is(err, ErrInaccessible) {
					t.Errorf("seed %d: %v", seed, err)
					return
				}
			}
		})
	}
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		time.Sleep(10 * time.Millisecond)
		must(t, v.Suspend(func() { v.Known() }))
		must(t, v.Resume(theKeys))
	}
	stop.Store(true)
	wg.Wait()
	v.reopen()
}

// After a suspension no key is left in what can be overwritten, and the journal
// is durable in the backing directory: a copy of it opens with all there was.
func TestSuspendedVolumeIsDurable(t *testing.T) {
	v := newVolume(t, 4096)
	content := bytes.Repeat([]byte("content"), 10_000)
	h := v.makeFile("f", content)
	must(t, v.Suspend(nil))
	image := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(image, os.DirFS(v.back)))
	must(t, v.Resume(theKeys))
	must(t, h.Close())

	c := &testVolume{t: t, back: image, cipher: newCipher(t, 4096)}
	c.open()
	defer c.Close()
	if st := c.stat("f"); st.Size != int64(len(content)) {
		t.Errorf("the copy's file has %d bytes, want %d", st.Size, len(content))
	}
}

// The keys go although the volume is frozen and a writer waits for the end of
// that; the freeze is over, and says so.
func TestSuspendEndsAFreeze(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("f", make([]byte, 30_000))
	_, err := v.Freeze(context.Background())
	must(t, err)
	wrote := make(chan error, 1)
	go func() {
		_, err := h.WriteAt([]byte("x"), 0, Writer{})
		wrote <- err
	}()
	must(t, v.Suspend(func() {
		_, err := h.WriteAt([]byte("page"), 0, Writer{Writeback: true})
		must(t, err)
	}))
	if err := <-wrote; !errors.Is(err, ErrInaccessible) {
		t.Errorf("the writer that waited: %v, want %v", err, ErrInaccessible)
	}
	if err := v.Thaw(); !errors.Is(err, ErrThawed) {
		t.Errorf("thaw: %v, want %v", err, ErrThawed)
	}
	if _, err := v.Freeze(context.Background()); !errors.Is(err, ErrInaccessible) {
		t.Errorf("freeze of a suspended volume: %v, want %v", err, ErrInaccessible)
	}
	must(t, v.Resume(theKeys))
	got := make([]byte, 4)
	_, err = h.ReadAt(got, 0)
	must(t, err)
	if string(got) != "page" {
		t.Errorf("read %q", got)
	}
	must(t, h.Close())
}

// What a stream wrote straight home, and no record says of yet, is as durable.
func TestStreamIsDurableBeforeTheKeysGo(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("f", nil)
	part := bytes.Repeat([]byte("content."), 1<<13)
	const parts = 64 // 4 MiB, of which the last three stream
	for i := range int64(parts) {
		_, err := h.WriteAt(part, i*int64(len(part)), Writer{})
		must(t, err)
	}
	must(t, v.Suspend(nil))
	must(t, h.Close())
	must(t, v.Close())
	must(t, v.cipher.Restore(theKeys))
	v.open()
	e, err := v.Lookup(RootID, "f")
	must(t, err)
	defer v.Forget(e.ID, 1)
	h, err = v.Open(e.ID, OpenOptions{})
	must(t, err)
	defer h.Close()
	if n := h.Size(); n != parts*int64(len(part)) {
		t.Fatalf("%d bytes, want %d", n, parts*len(part))
	}
	got := make([]byte, len(part))
	for i := range int64(parts) {
		if _, err := h.ReadAt(got, i*int64(len(part))); err != nil || !bytes.Equal(got, part) {
			t.Fatalf("part %d: %v", i, err)
		}
	}
}
