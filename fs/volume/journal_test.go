package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/journal"
)

// makeFile writes a file through the volume and returns its node's handle.
func (v *testVolume) makeFile(name string, content []byte) *Handle {
	v.t.Helper()
	e, h, err := v.Create(RootID, name, Creator{Mode: 0o600}, OpenOptions{})
	must(v.t, err)
	v.Forget(e.ID, 1)
	_, err = h.WriteAt(content, 0, Writer{})
	must(v.t, err)
	return h
}

func (v *testVolume) stat(name string) Stat {
	v.t.Helper()
	e, err := v.Lookup(RootID, name)
	must(v.t, err)
	v.Forget(e.ID, 1)
	return e.Attr
}

// TestClosedFileIsKnownByTheJournal asks for size and times of a file that
// nobody has open and that is not home yet.
func TestClosedFileIsKnownByTheJournal(t *testing.T) {
	v := newVolume(t, 4096)
	before := time.Now()
	must(t, v.makeFile("f", make([]byte, 30_000)).Close())
	st := v.stat("f")
	if mtime := time.Unix(st.Mtim.Unix()); st.Size != 30_000 || mtime.Before(before) {
		t.Errorf("size %d, mtime %v; written after %v", st.Size, mtime, before)
	}
	if n := v.files.idleCount(); n != 1 {
		t.Errorf("%d idle files, want 1", n)
	}
	must(t, v.journal.Drain())
	after := v.stat("f")
	if after.Size != st.Size || after.Mtim != st.Mtim {
		t.Errorf("after the checkpoint size %d, mtime %v; before %d, %v", after.Size, after.Mtim, st.Size, st.Mtim)
	}
	if n := v.files.idleCount(); n != 0 {
		t.Errorf("%d idle files after the checkpoint, want none", n)
	}
}

// TestSetTimesLast sees to it that no record brings back an older time.
func TestSetTimesLast(t *testing.T) {
	want := unix.Timespec{Sec: 1_000_000_000, Nsec: 123_456_789}
	for _, closed := range []bool{false, true} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("closed %v, killed %v", closed, killed), func(t *testing.T) {
				v := newVolume(t, 4096)
				h := v.makeFile("f", []byte("content"))
				node := h.Node()
				if closed {
					e, err := v.Lookup(RootID, "f")
					must(t, err)
					node = e.ID
					must(t, h.Close())
				}
				_, err := v.SetAttr(node, Change{Mask: ChangeMtime, Mtime: want})
				must(t, err)
				if got := v.stat("f").Mtim; got != want {
					t.Errorf("mtime %v, want %v", got, want)
				}
				if killed {
					must(t, v.journal.Commit(v.journal.Stats().Next-1))
					v.abandon()
					v.open()
				} else {
					must(t, v.journal.Drain())
				}
				if got := v.stat("f").Mtim; got != want {
					t.Errorf("mtime %v afterwards, want %v", got, want)
				}
				if killed || closed {
					return
				}
				must(t, h.Close())
			})
		}
	}
}

// TestRemovedFilesAreGivenUp removes files whose records are not home: their
// space and their records go soon, and nothing is written for them.
func TestRemovedFilesAreGivenUp(t *testing.T) {
	v := newVolume(t, 4096)
	for i := range 20 {
		must(t, v.makeFile(fmt.Sprint("f", i), make([]byte, 10_000)).Close())
	}
	open := v.makeFile("open", []byte("content"))
	for i := range 20 {
		must(t, v.Unlink(RootID, fmt.Sprint("f", i)))
	}
	must(t, v.Unlink(RootID, "open"))
	deadline := time.Now().Add(10 * time.Second)
	for len(v.journal.LiveFiles()) > 1 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := v.files.idleCount(); n > 0 {
		t.Errorf("%d removed files are kept", n)
	}
	if live := v.journal.LiveFiles(); len(live) != 1 {
		t.Errorf("%d files have records, want that which is open", len(live))
	}
	must(t, v.journal.Drain())
	p := make([]byte, 10)
	if n, err := open.ReadAt(p, 0); string(p[:n]) != "content" || err != nil {
		t.Errorf("read %q of a removed file that is open, %v", p[:n], err)
	}
	_, err := open.WriteAt([]byte("more"), 5000, Writer{})
	must(t, err)
	must(t, open.Close())
}

// TestManySmallFiles makes more files than may be open for the journal.
func TestManySmallFiles(t *testing.T) {
	v := newVolume(t, 4096)
	const n = 3 * maxIdle
	for i := range n {
		must(t, v.makeFile(fmt.Sprint(i), fmt.Append(nil, "content ", i)).Close())
		if idle := v.files.idleCount(); idle > maxIdle+1 {
			t.Fatalf("%d idle files, want at most %d", idle, maxIdle)
		}
	}
	v.abandon()
	v.open()
	for i := range n {
		got, err := contentAt(v.Volume, fmt.Sprint(i))
		if want := fmt.Append(nil, "content ", i); !bytes.Equal(got, want) || err != nil {
			t.Fatalf("file %d: %q, %v", i, got, err)
		}
	}
}

// TestMovedDuringTheWalk moves files from where the walk has not been to where
// it was: their records must not be taken for those of a lost file.
func TestMovedDuringTheWalk(t *testing.T) {
	v := newVolume(t, 4096)
	e := engine{v}
	must(t, e.Mkdir("a", 0o700))
	must(t, e.Mkdir("z", 0o700))
	for i := range 40 {
		must(t, v.makeFile(fmt.Sprint("f", i), fmt.Append(nil, i)).Close())
		must(t, e.Rename(fmt.Sprint("f", i), fmt.Sprint("z/f", i), 0))
	}
	must(t, v.journal.Commit(v.journal.Stats().Next-1))
	v.abandon()
	v.open()
	for i := range 40 {
		must(t, e.Rename(fmt.Sprint("z/f", i), fmt.Sprint("a/f", i), 0))
	}
	v.walk.Wait()
	must(t, v.journal.Drain())
	for i := range 40 {
		st, err := e.Stat(fmt.Sprint("a/f", i))
		if err != nil || st.Size != int64(len(fmt.Append(nil, i))) {
			t.Errorf("file %d: size %d, %v", i, st.Size, err)
		}
	}
}

// TestWrongJournal opens a volume that was not unmounted cleanly without its
// journal, and with another's.
func TestWrongJournal(t *testing.T) {
	v := newVolume(t, 4096)
	place, err := backing.OpenDir(t.TempDir())
	must(t, err)
	defer place.Close()
	v.close()
	v.config.JournalDir = place
	v.open()
	h := v.makeFile("f", []byte("content"))
	must(t, h.Sync(false))
	v.abandon()

	for _, readOnly := range []bool{true, false} {
		c := Config{Root: v.root(), Cipher: v.cipher, ReadOnly: readOnly, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)}
		if _, err := Open(c); !errors.Is(err, journal.ErrMissing) {
			t.Errorf("forgotten journal, read-only %v: %v, want ErrMissing", readOnly, err)
		}
		c.Root.Close()
	}

	other, err := backing.OpenDir(t.TempDir())
	must(t, err)
	defer other.Close()
	c := Config{Root: v.root(), Cipher: v.cipher, JournalDir: other, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)}
	if _, err := Open(c); !errors.Is(err, journal.ErrMissing) {
		t.Errorf("journal in another place: %v, want ErrMissing", err)
	}
	c.Root.Close()

	v.open()
	if got, err := contentAt(v.Volume, "f"); string(got) != "content" || err != nil {
		t.Errorf("with its journal: %q, %v", got, err)
	}
	v.walk.Wait() // without which no end is clean
	v.close()
	v.config.JournalDir = nil // after a clean end any place will do
	v.open()
	if got, err := contentAt(v.Volume, "f"); string(got) != "content" || err != nil {
		t.Errorf("with a journal elsewhere after a clean end: %q, %v", got, err)
	}
}

func TestForeignSegmentIsRefused(t *testing.T) {
	v, w := newVolume(t, 4096), newVolume(t, 4096)
	h := v.makeFile("f", []byte("content"))
	must(t, h.Sync(false))
	must(t, w.makeFile("g", []byte("other")).Sync(false))
	v.abandon()
	w.abandon()
	from := filepath.Join(w.back, metaName, journalName, "segment-0000")
	to := filepath.Join(v.back, metaName, journalName, "segment-0000")
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
	c := Config{Root: v.root(), Cipher: v.cipher, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)}
	if _, err := Open(c); !errors.Is(err, journal.ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
	c.Root.Close()
	w.open()
}

// TestOlderJournal puts back, beside newer files, what the journal was.
func TestOlderJournal(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("f", make([]byte, 300_000))
	must(t, h.Sync(false))
	v.abandon()
	dir := filepath.Join(v.back, metaName, journalName)
	old := t.TempDir()
	must(t, os.CopyFS(filepath.Join(old, "j"), os.DirFS(dir)))
	v.open()
	must(t, v.journal.Drain())
	e, err := v.Lookup(RootID, "f")
	must(t, err)
	h, err = v.Open(e.ID, OpenOptions{})
	must(t, err)
	_, err = h.WriteAt([]byte("newer"), 100_000, Writer{})
	must(t, err)
	must(t, h.Sync(false))
	must(t, v.journal.Drain())
	v.abandon()
	must(t, os.RemoveAll(dir))
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join(old, "j"))))
	c := Config{Root: v.root(), Cipher: v.cipher, ReadOnly: true}
	w, err := Open(c)
	must(t, err)
	defer w.Close()
	if _, err := contentAt(w, "f"); err == nil {
		t.Error("a file newer than the journal reads without an error")
	}
}

// BenchmarkAppendSync is the commit path, with the journal and without.
func BenchmarkAppendSync(b *testing.B) {
	for _, unjournaled := range []bool{false, true} {
		b.Run(fmt.Sprint("journal ", !unjournaled), func(b *testing.B) {
			root, err := backing.OpenDir(b.TempDir())
			check(b, err)
			c, err := cipher.NewVolume(cipher.Params{
				Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: 4096,
			}, 1, cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}, nil)
			check(b, err)
			check(b, Format(root, c))
			v, err := Open(Config{Root: root, Cipher: c, unjournaled: unjournaled})
			check(b, err)
			_, h, err := v.Create(RootID, "f", Creator{Mode: 0o600}, OpenOptions{})
			check(b, err)
			p := make([]byte, 4096)
			b.SetBytes(int64(len(p)))
			for i := 0; b.Loop(); i++ {
				_, err := h.WriteAt(p, int64(i)*4096, Writer{})
				check(b, err)
				check(b, h.Sync(true))
			}
			check(b, h.Close())
			check(b, v.Close())
		})
	}
}
