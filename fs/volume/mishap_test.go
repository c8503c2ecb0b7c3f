package volume

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// mtime set by the user survives a checkpoint in two passes
func TestTimesOutlastSeveralPasses(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("f", make([]byte, 4096))
	must(t, v.journal.Commit(v.journal.Stats().Next-1))
	through := v.journal.Stats().Next - 1
	_, err := h.WriteAt(make([]byte, 4096), 1<<20, Writer{}) // another group
	must(t, err)
	want := unix.Timespec{Sec: 1_000_000_000}
	_, err = v.SetAttr(h.Node(), Change{Mask: ChangeMtime, Mtime: want})
	must(t, err)
	_, err = v.Checkpoint(v.journal.LiveFiles(), through)
	must(t, err)
	t.Log("after first", v.stat("f").Mtim, "live", h.file.Live())
	must(t, v.journal.Drain())
	if got := v.stat("f").Mtim; got != want {
		t.Errorf("mtime %v want %v", got, want)
	}
	must(t, h.Close())
}

// header synced before first body
func TestHeaderIsDurableBeforeBodies(t *testing.T) {
	c := crashCipher(t)
	fs := crashfs.New()
	check(t, Format(fs.Root(), c))
	v, err := Open(crashConfig(fs, c))
	check(t, err)
	e, h, err := v.Create(RootID, "touched", Creator{Mode: 0o600}, OpenOptions{})
	check(t, err)
	check(t, h.Close())
	d, err := v.OpenDir(RootID)
	check(t, err)
	check(t, d.Sync())
	d.Close()
	h, err = v.Open(e.ID, OpenOptions{})
	check(t, err)
	t.Log("HeaderNew", h.file.HeaderNew())
	_, err = h.WriteAt(bytes.Repeat([]byte{7}, 20000), 0, Writer{})
	check(t, err)
	check(t, v.journal.Commit(v.journal.Stats().Next-1))
	ck, err := h.file.Checkpoint(v.journal.Stats().Next)
	check(t, err)
	_ = ck
	im := fs.Snapshot()
	bad := map[string]int{}
	for seed := range uint64(60) {
		cr := im.Crash(crashfs.Seed(seed))
		w, err := Open(crashConfig(cr, c))
		if err != nil {
			bad["mount "+err.Error()]++
			continue
		}
		_, err = contentAt(w, "touched")
		if err != nil {
			bad[err.Error()]++
		}
		w.Close()
	}
	for k, n := range bad {
		t.Errorf("%d: %s", n, k)
	}
}

// A file that was never synced may come back without its header, and so without
// its ID, but with attributes: a crash, which is not to look like tampering.
func TestAttributesOfAFileWithoutHeader(t *testing.T) {
	c := crashCipher(t)
	fs := crashfs.New()
	check(t, Format(fs.Root(), c))
	v, err := Open(crashConfig(fs, c))
	check(t, err)
	e, h, err := v.Create(RootID, "f", Creator{Mode: 0o600}, OpenOptions{})
	check(t, err)
	check(t, h.Close())
	check(t, v.SetXattr(e.ID, "user.a", []byte("value"), 0, false))

	after := fs.Snapshot().Crash(crashfs.Only(crashfs.KindName, crashfs.KindAttr))
	config := crashConfig(after, c)
	var log bytes.Buffer
	config.Log = slog.New(slog.NewTextHandler(&log, nil))
	v, err = Open(config)
	check(t, err)
	e, err = v.Lookup(RootID, "f")
	check(t, err)
	if names, err := v.ListXattr(e.ID); err != nil || len(names) != 0 {
		t.Errorf("attributes %q, %v", names, err)
	}
	check(t, v.SetXattr(e.ID, "user.b", nil, 0, false))
	if names, err := v.ListXattr(e.ID); err != nil || !slices.Equal(names, []string{"user.b"}) {
		t.Errorf("attributes %q, %v, want user.b", names, err)
	}
	check(t, v.Close())
	if !strings.Contains(log.String(), "never synced") || strings.Contains(log.String(), "does not open") {
		t.Error("log:", log.String())
	}
}

// a file with a long name whose sidecar cannot be read at the walk
func TestWalkKeepsFilesWithoutReadableNames(t *testing.T) {
	v := newVolume(t, 4096)
	name := strings.Repeat("n", 230)
	h := v.makeFile(name, []byte("content"))
	must(t, h.Sync(false))
	v.abandon()
	// sidecar lost for the moment
	list, _ := filepath.Glob(filepath.Join(v.back, "*"))
	for _, p := range list {
		if strings.HasSuffix(p, sidecarTail) {
			must(t, os.Remove(p))
			t.Log("removed", p)
		}
	}
	v.open()
	v.walk.Wait()
	got, err := contentAt(v.Volume, name)
	if string(got) != "content" || err != nil {
		t.Errorf("acknowledged content is %q, %v", got, err)
	}
}

// descriptors of a read-only mount
func TestReadOnlyKeepsNoFileOpen(t *testing.T) {
	v := newVolume(t, 4096)
	for i := range 40 {
		h := v.makeFile(fmt.Sprint("f", i), []byte("x"))
		must(t, h.Close())
	}
	v.abandon()
	v.config.ReadOnly = true
	v.open()
	for i := range 40 {
		v.stat(fmt.Sprint("f", i))
	}
	if n := v.files.idleCount(); n > 0 {
		t.Errorf("%d files stay open in a read-only volume", n)
	}
}

func TestNoSpaceThenTruncate(t *testing.T) {
	c := crashCipher(t)
	for skip := range 8 {
		r := newFaultRun(t, c)
		check(t, r.v.journal.Drain())
		_, h := r.fileOf("a")
		for off := int64(20_480); off < 400_000; off += 16_384 {
			_, err := h.WriteAt(make([]byte, 16_384), off, Writer{})
			check(t, err)
		}
		check(t, r.v.journal.Commit(r.v.journal.Stats().Next-1))
		r.faults.Set(faultfs.Plan{Kind: faultfs.Write, Skip: skip, Times: 1, Err: unix.ENOSPC, Match: isHome})
		derr := r.v.journal.Drain()
		r.faults.Clear()
		_, err := r.v.SetAttr(h.Node(), Change{Mask: ChangeSize, Size: 20_000})
		check(t, err)
		check(t, h.Sync(false))
		derr2 := r.v.journal.Drain()
		st, _ := h.file.Backing().Stat()
		want := r.v.layout.PhysicalSize(20_000)
		if st.Size != want {
			t.Errorf("skip %d (%v, %v): home %d bytes, want %d", skip, derr, derr2, st.Size, want)
		}
		// grows again as a hole
		_, err = r.v.SetAttr(h.Node(), Change{Mask: ChangeSize, Size: 400_000})
		check(t, err)
		p := make([]byte, 400_000)
		if n, err := h.ReadAt(p, 0); err != nil {
			t.Errorf("skip %d: read %d, %v", skip, n, err)
		}
		_, err = r.v.SetAttr(h.Node(), Change{Mask: ChangeSize, Size: 20_000})
		check(t, err)
		for _, h := range r.handles {
			h.Close()
		}
		cerr := r.v.Close()
		config := crashConfig(r.fs, c)
		v, err := Open(config)
		check(t, err)
		if _, err := contentAt(v, "a"); err != nil {
			t.Errorf("skip %d: after a clean unmount (%v): %v", skip, cerr, err)
		}
		v.Close()
	}
}

func TestReadFailsOnce(t *testing.T) {
	c := crashCipher(t)
	for skip := range 3 {
		r := newFaultRun(t, c)
		check(t, r.v.journal.Drain())
		r.write("b", 4096, 4096)
		r.sync("b", false)
		close(r.v.stop)
		r.v.walk.Wait()
		r.v.workers.Wait()
		check(t, r.v.journal.Close(false))
		config := crashConfig(r.fs, c)
		config.Root = r.faults.Root()
		v, err := Open(config)
		check(t, err)
		v.walk.Wait()
		e, err := v.Lookup(RootID, "b")
		check(t, err)
		h, err := v.Open(e.ID, OpenOptions{})
		check(t, err)
		r.faults.Set(faultfs.Plan{Kind: faultfs.Read, Skip: skip, Times: 1, Err: unix.EIO, Match: isHome})
		derr := v.journal.Drain()
		hits := r.faults.Hits()
		r.faults.Clear()
		p := make([]byte, h.Size())
		n, rerr := h.ReadAt(p, 0)
		if rerr != nil {
			t.Errorf("skip %d, hits %d, drain %v: read %d %v", skip, hits, derr, n, rerr)
		}
		h.Close()
		cerr := v.Close()
		v, err = Open(crashConfig(r.fs, c))
		check(t, err)
		if _, err := contentAt(v, "b"); err != nil {
			t.Errorf("skip %d hits %d: after clean unmount (%v) %v", skip, hits, cerr, err)
		}
		v.Close()
	}
}

func TestLossOfSetIDIsSynced(t *testing.T) {
	c := crashCipher(t)
	r := newCrashRun(t, c)
	r.prepare()
	_, h := r.fileOf("a")
	_, err := r.v.SetAttr(h.Node(), Change{Mask: ChangeMode, Mode: 0o4777})
	check(t, err)
	check(t, h.Sync(false))
	_, err = h.WriteAt([]byte("evil"), 0, Writer{DropSetIDs: true})
	check(t, err)
	check(t, h.Sync(false))
	st, _ := h.file.Backing().Stat()
	v, err := Open(crashConfig(r.fs.Snapshot().Crash(crashfs.Lost), c))
	check(t, err)
	e, err := v.Lookup(RootID, "a")
	check(t, err)
	p, _ := contentAt(v, "a")
	t.Logf("before crash mode %o; after: mode %o, content %q", st.Mode, e.Attr.Mode, p[:4])
	if e.Attr.Mode&unix.S_ISUID != 0 && string(p[:4]) == "evil" {
		t.Error("set-user-ID with new content")
	}
	v.Close()
}

// a never-synced file that cannot be opened once during the walk
func TestWalkThatFailedIsDoneAgain(t *testing.T) {
	c := crashCipher(t)
	fs := crashfs.New()
	check(t, Format(fs.Root(), c))
	v, err := Open(crashConfig(fs, c))
	check(t, err)
	_, h, err := v.Create(RootID, "touched", Creator{Mode: 0o600}, OpenOptions{})
	check(t, err)
	h.Close()
	d, err := v.OpenDir(RootID)
	check(t, err)
	check(t, d.Sync())
	d.Close()
	cr := fs.Snapshot().Crash(crashfs.Lost)
	ff := faultfs.New(cr.Root())
	cfg := crashConfig(cr, c)
	cfg.Root = ff.Root()
	ff.Set(faultfs.Plan{Kind: faultfs.Open, Times: 2, Err: unix.ENOMEM, Match: func(n string) bool { return isHome(n) && len(n) > 15 && n[0] != '.' }})
	w, err := Open(cfg)
	check(t, err)
	w.walk.Wait()
	t.Log("hits", ff.Hits(), "unclean", w.unclean.Load())
	ff.Clear()
	_, err = contentAt(w, "touched")
	t.Log("in this mount:", err)
	t.Log("close:", w.Close())
	w, err = Open(crashConfig(cr, c))
	check(t, err)
	if _, err = contentAt(w, "touched"); err != nil {
		t.Error("after a clean unmount:", err)
	}
	w.Close()
}
