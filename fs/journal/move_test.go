package journal

import (
	"errors"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

// newStuckWorld has two files, a journal that works in the background, and
// records of every kind of file 0, which cannot go home. It returns what file 0
// holds.
func newStuckWorld(t *testing.T, segments int64) (*crashfs.FS, *world, content) {
	fs := crashfs.New()
	format(t, fs.Root(), 2)
	w := mustMount(t, fs.Root(), 2, func(c *Config) { c.Size = segments * testSegment })
	t.Cleanup(w.abandon)
	id := fileID(0)
	mustWrite(t, w, 0, 60)
	mustWrite(t, w, 0, 200)
	must(t, w.j.Drain())
	w.stuck = map[cipher.FileID]stuckness{id: stuckFile}
	_, err := w.truncate(id, 58)
	must(t, err)
	mustWrite(t, w, 0, 59)
	mustWrite(t, w, 0, 3)
	mustWrite(t, w, 0, 180)
	_, err = w.punch(id, 3, 1)
	must(t, err)
	want, err := w.files[id].content(id)
	must(t, err)
	w.j.Start(w)
	return fs, w, want
}

func wantContent(t *testing.T, w *world, id cipher.FileID, want content) {
	t.Helper()
	got, err := w.files[id].content(id)
	must(t, err)
	if got.String() != want.String() {
		t.Errorf("file %d: %v, want %v", id[15], got, want)
	}
}

// A file that cannot go home holds the oldest segment for ever; the others are
// written to as if it were not there, in any journal.
func TestStuckFileDoesNotStopOthers(t *testing.T) {
	for _, segments := range []int64{2, 3, 6} {
		fs, w, want := newStuckWorld(t, segments)
		for range 5 * segments { // several times the journal
			for i := range uint64(20) {
				mustWrite(t, w, 1, i)
			}
		}
		must(t, w.j.Commit(w.j.lastLSN()))
		wantContent(t, w, fileID(0), want)
		if s := w.j.Stats(); s.Size > (segments+2)*testSegment {
			t.Errorf("the journal of %d segments has grown to %d bytes", segments, s.Size)
		}
		other, err := w.files[fileID(1)].content(fileID(1))
		must(t, err)
		after := mustMount(t, fs.Snapshot().Crash(crashfs.Lost).Root(), 2, nil)
		wantContent(t, after, fileID(0), want)
		wantContent(t, after, fileID(1), other)
		must(t, after.j.Drain())
		wantContent(t, after, fileID(0), want)
		must(t, after.unmount())
	}
}

// A file that cannot go home gets no more space before it fills the journal,
// and is told why; the others do, and so does it once it is well.
func TestStuckFileIsRefusedGrowth(t *testing.T) {
	_, w, _ := newStuckWorld(t, 6)
	f := w.files[fileID(0)].jf
	var err error
	for i := uint64(0); i < 200 && err == nil; i++ {
		var r *Reservation
		if r, err = f.Reserve(Space(2, 1, 1, testBlock)); err == nil {
			r.Release()
			mustWrite(t, w, 0, 200+i) // new blocks
			mustWrite(t, w, 1, i%3)
		}
	}
	if !errors.Is(err, errStuck) || !errors.Is(err, errTestStuck) {
		t.Errorf("got %v, want that the file is stuck, and why", err)
	}
	for range 200 {
		mustWrite(t, w, 1, 5)
	}
	w.j.passMu.Lock()
	w.stuck = nil
	w.j.passMu.Unlock()
	must(t, w.j.Drain())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if r, err := f.Reserve(Space(2, 1, 1, testBlock)); err == nil {
			r.Release()
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("still refused: %v", err)
		}
	}
}

// Too many records that cannot go home are an error, not a wait for ever.
func TestStuckFilesFillTheJournal(t *testing.T) {
	_, w, _ := newStuckWorld(t, 3)
	var err error
	for i := uint64(0); i < 200 && err == nil; i++ {
		_, _, err = w.write(fileID(0), 200+i, 1)
	}
	if !errors.Is(err, errTestStuck) {
		t.Errorf("got %v, want why the file is stuck", err)
	}
	w.j.passMu.Lock()
	w.stuck = nil
	w.j.passMu.Unlock()
	must(t, w.j.Drain())
	mustWrite(t, w, 0, 1)
}
