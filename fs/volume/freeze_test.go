package volume

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
	"github.com/plyfs/plyfs/fs/journal"
)

// filesBelow lists the files below dir with their contents.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		tree[path[len(dir):]] = string(b)
		return err
	})
	must(t, err)
	return tree
}

// TestFrozenDirectoryStays has every kind of change wait while the volume is
// frozen, and read go on, and looks whether the directory stays as it is.
func TestFrozenDirectoryStays(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("f", bytes.Repeat([]byte("content "), 4000))
	defer h.Close()
	e, err := v.Mkdir(RootID, "dir", Creator{Mode: 0o700})
	must(t, err)
	v.Forget(e.ID, 1)
	before := h.file.Size()
	f, err := v.Freeze(context.Background())
	must(t, err)
	if !f.Clean {
		t.Error("frozen, and not clean")
	}
	if _, err := v.Freeze(context.Background()); !errors.Is(err, ErrFrozen) {
		t.Errorf("a second freeze: %v, want ErrFrozen", err)
	}
	was := filesBelow(t, v.back)

	changes := map[string]func() error{
		"write":    func() error { _, err := h.WriteAt([]byte("x"), before, Writer{}); return err },
		"allocate": func() error { return h.Allocate(0, 0, before+10_000, Writer{}) },
		"create":   func() error { return v.makeFile("new", []byte("x")).Close() },
		"mkdir":    func() error { _, err := v.Mkdir(RootID, "d", Creator{Mode: 0o700}); return err },
		"mknod":    func() error { _, err := v.Mknod(RootID, "p", Creator{Mode: 0o600}, unix.S_IFIFO, 0); return err },
		"symlink":  func() error { _, err := v.Symlink(RootID, "s", "to", Creator{}); return err },
		"link":     func() error { _, err := v.Link(h.Node(), RootID, "l"); return err },
		"rename":   func() error { return v.Rename(RootID, "f", RootID, "g", 0) },
		"rmdir":    func() error { return v.Rmdir(RootID, "dir") },
		"chmod":    func() error { _, err := v.SetAttr(h.Node(), Change{Mask: ChangeMode, Mode: 0o640}); return err },
		"xattr":    func() error { return v.SetXattr(h.Node(), "user.x", []byte("1"), 0, false) },
		"tmpfile": func() error {
			_, h, err := v.Tmpfile(RootID, Creator{Mode: 0o600}, OpenOptions{})
			h.Close()
			return err
		},
		"no xattr": func() error { v.RemoveXattr(h.Node(), "user.y"); return nil },
		"truncate": func() error {
			h, err := v.Open(h.Node(), OpenOptions{Truncate: true})
			if err == nil {
				h.Close()
			}
			return err
		},
	}
	var all sync.WaitGroup
	done := make(chan string, len(changes))
	for name, change := range changes {
		all.Go(func() {
			if err := change(); err != nil {
				t.Errorf("%s, after the thaw: %v", name, err)
			}
			done <- name
		})
	}
	p := make([]byte, 100)
	if n, err := h.ReadAt(p, 0); n != len(p) || err != nil {
		t.Errorf("read while frozen: %d, %v", n, err)
	}
	must(t, h.Sync(false))
	must(t, v.journal.Drain())
	select {
	case name := <-done:
		t.Errorf("%s was not kept waiting", name)
	case <-time.After(300 * time.Millisecond): // a moment in which they would
	}
	now := filesBelow(t, v.back)
	for name, content := range now {
		if old, ok := was[name]; !ok || old != content {
			t.Errorf("%s changed while frozen", name)
		}
	}
	if len(now) != len(was) {
		t.Errorf("%d files, %d when it was frozen", len(now), len(was))
	}
	must(t, v.Thaw())
	all.Wait()
	if err := v.Thaw(); !errors.Is(err, ErrThawed) {
		t.Errorf("a second thaw: %v, want ErrThawed", err)
	}
	v.reopen()
	if st := v.stat("g"); st.Mode&0o777 != 0o640 {
		t.Errorf("mode %o after all changes", st.Mode)
	}
}

// TestEndFreezeEndsNoOther thaws what was thawed by another, and frozen anew.
func TestEndFreezeEndsNoOther(t *testing.T) {
	v := newVolume(t, 4096)
	if err := v.EndFreeze(time.Time{}); !errors.Is(err, ErrThawed) {
		t.Errorf("the end of no freeze: %v, want ErrThawed", err)
	}
	first, err := v.Freeze(context.Background())
	must(t, err)
	must(t, v.Thaw())
	second, err := v.Freeze(context.Background())
	must(t, err)
	if err := v.EndFreeze(first.Since); !errors.Is(err, ErrThawed) {
		t.Errorf("the end of the first freeze: %v, want ErrThawed", err)
	}
	if now, ok := v.Frozen(); !ok || !now.Since.Equal(second.Since) {
		t.Errorf("frozen: %v, since %v, want %v", ok, now.Since, second.Since)
	}
	must(t, v.EndFreeze(second.Since))
	if _, ok := v.Frozen(); ok {
		t.Error("frozen after the end")
	}
}

// TestCopyOfFrozen opens a copy of the directory, without the journal's
// segments, that was made while the volume was frozen, and one of it as it goes on.
func TestCopyOfFrozen(t *testing.T) {
	v := newVolume(t, 4096)
	want := bytes.Repeat([]byte("frozen "), 30_000)
	h := v.makeFile("f", want)
	defer func() { h.Close() }()
	gone := v.makeFile("gone", want)
	must(t, v.Unlink(RootID, "gone"))
	defer func() { gone.Close() }()
	_, err := v.Freeze(context.Background())
	must(t, err)
	at := filepath.Join(t.TempDir(), "copy")
	out, err := exec.Command("cp", "-a", v.back, at).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	segments, err := filepath.Glob(filepath.Join(at, metaName, journalName, "segment-*"))
	must(t, err)
	if len(segments) == 0 {
		t.Fatal("no segments in the copy")
	}
	for _, s := range segments {
		must(t, os.Remove(s))
	}
	must(t, v.Thaw())
	_, err = h.WriteAt([]byte("thawed"), 0, Writer{})
	must(t, err)
	must(t, h.Sync(true))

	root, err := backing.OpenDir(at)
	must(t, err)
	c, err := Open(Config{Root: root, Cipher: v.cipher, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)})
	must(t, err)
	if c.unclean.Load() {
		t.Error("the copy is not clean")
	}
	if got, err := contentAt(c, "f"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy has %d bytes, %v", len(got), err)
	}
	must(t, c.Close())

	killed := filepath.Join(t.TempDir(), "killed")
	if out, err := exec.Command("cp", "-a", v.back, killed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root, err = backing.OpenDir(killed)
	must(t, err)
	k, err := Open(Config{Root: root, Cipher: v.cipher, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)})
	must(t, err)
	copy(want, "thawed")
	if got, err := contentAt(k, "f"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a copy after the thaw has %d bytes, %v", len(got), err)
	}
	must(t, k.Close())
}

// TestCloseFrozen unmounts a frozen volume.
func TestCloseFrozen(t *testing.T) {
	v := newVolume(t, 4096)
	must(t, v.makeFile("f", []byte("x")).Close())
	_, err := v.Freeze(context.Background())
	must(t, err)
	v.reopen()
	if v.unclean.Load() {
		t.Error("unclean")
	}
	if st := v.stat("f"); st.Size != 1 {
		t.Errorf("size %d", st.Size)
	}
}

// TestFreezeBroken freezes what an error made read-only.
func TestFreezeBroken(t *testing.T) {
	v := newVolume(t, 4096)
	v.fail(journal.ErrHome)
	if _, err := v.Freeze(context.Background()); !errors.Is(err, unix.EROFS) {
		t.Errorf("freeze: %v, want EROFS", err)
	}
	if _, ok := v.Frozen(); ok {
		t.Error("it is frozen")
	}
	v.close()
}

// TestCloseWhileFrozenAndNotClean closes a frozen volume of which something could
// not go home at the freeze, and can now.
func TestCloseWhileFrozenAndNotClean(t *testing.T) {
	r := newCrashRun(t, crashCipher(t))
	r.prepare()
	r.checkpointAll()
	r.stick("a")
	r.write("a", 0, 9000)
	r.sync("a", true)
	f, err := r.v.Freeze(context.Background())
	check(t, err)
	if f.Clean {
		t.Fatal("clean, with records that cannot go home")
	}
	r.heal()
	r.close("a")
	r.close("b")
	check(t, r.v.Close())
	v, err := Open(crashConfig(r.fs, r.v.cipher))
	check(t, err)
	if v.unclean.Load() {
		t.Error("unclean after a clean end")
	}
	check(t, r.o.judge(v))
	check(t, v.Close())
}

// TestFreezeHearsOfFailedWriteback fails the sync of a freeze: a failure of
// writeback is told once, and neither the next freeze nor the end will hear of it.
func TestFreezeHearsOfFailedWriteback(t *testing.T) {
	r := newFaultRun(t, crashCipher(t))
	r.create("x") // its header is not durable
	r.close("x")
	r.faults.Set(faultfs.Plan{Kind: faultfs.DirSync, Times: 1, Err: unix.EIO})
	if _, err := r.v.Freeze(context.Background()); err == nil {
		t.Fatal("frozen")
	}
	for end := time.Now().Add(time.Minute); !r.v.broken.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the volume goes on")
		}
	}
	if f, err := r.v.Freeze(context.Background()); err == nil {
		if f.Clean {
			t.Error("frozen, and said to be clean")
		}
		check(t, r.v.Thaw())
	}
	r.close("a")
	r.close("b")
	r.v.Close() // fails, as it may
	if r.v.super.Clean() {
		t.Error("closed, and said to be clean")
	}
}

// TestFreezeAfterAFailedDrain fails the sync in its first step, in which removed
// files are dropped.
func TestFreezeAfterAFailedDrain(t *testing.T) {
	r := newFaultRun(t, crashCipher(t))
	r.write("a", 0, 5000)
	r.close("a")
	r.unlink("a")
	r.close("b")
	r.create("x")
	r.close("x")
	r.faults.Set(faultfs.Plan{Kind: faultfs.DirSync, Times: 1, Err: unix.EIO})
	r.v.freeze.gate.Lock() // as Freeze does
	clean, err := r.v.quiesce()
	r.v.freeze.gate.Unlock()
	if r.faults.Hits() != 1 {
		t.Fatalf("%d syncs failed, want 1", r.faults.Hits())
	}
	if clean && err == nil {
		t.Error("clean, though a sync failed")
	}
}
