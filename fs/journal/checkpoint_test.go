package journal

import (
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

// A cut and a write behind it come after a checkpoint has looked what is to be
// done, before or after it has copied.
func TestCutDuringCheckpoint(t *testing.T) {
	for _, late := range []bool{false, true} {
		_, w := newWorld(t, 1)
		mustWrite(t, w, 0, 5)
		var b uint64
		hook := func(id cipher.FileID) {
			w.beforeDone, w.beforeCopy = nil, nil
			_, err := w.truncate(id, 1)
			must(t, err)
			_, b = mustWrite(t, w, 0, 5)
		}
		if late {
			w.beforeDone = hook
		} else {
			w.beforeCopy = hook
		}
		for range 3 {
			must(t, w.j.Drain())
			wantBlock(t, w, 0, 5, b)
		}
	}
}

// Home never takes what is not durable.
func TestCheckpointSeesDurableRecords(t *testing.T) {
	_, w := newWorld(t, 1)
	f := w.files[fileID(0)].jf
	lsn, _ := mustWrite(t, w, 0, 5)
	d, err := f.Dirty(lsn)
	must(t, err)
	if d.Header != lsn || !w.j.Knows(lsn) {
		t.Errorf("Dirty gives the size of record %d, durable %v", d.Header, w.j.Knows(lsn))
	}
	lsn, _ = mustWrite(t, w, 0, 5)
	c, err := f.Copy(0)
	must(t, err)
	if c.LSN != lsn || !w.j.Knows(lsn) {
		t.Errorf("Copy gives record %d, durable %v", c.LSN, w.j.Knows(lsn))
	}
	if c, err := f.Copy(7); c != nil || err != nil {
		t.Errorf("a group without records: %v, %v", c, err)
	}
}

// A record that has its place and is not in the index yet holds its segment.
func TestPlacedRecordsHoldTheirSegment(t *testing.T) {
	_, w := newWorld(t, 1)
	in := recordInfo(0, 0, 0, 0)
	b, buf, pos, lsn, err := w.j.place(in)
	must(t, err)
	rec := &Record{File: fileID(0), Size: NoSize, Cut: NoCut}
	rec.encode(buf, lsn)
	b.pending.Done()
	for w.j.active() == pos.seg {
		mustWrite(t, w, 0, 1)
	}
	must(t, w.j.Drain())
	if n, _ := w.j.trimmable(); n != 0 || w.j.live[0] != pos.seg {
		t.Error("the segment of a record under way was freed")
	}
	b.seg.placed--
	must(t, w.j.Trim())
	if w.j.live[0] == pos.seg {
		t.Error("the segment stays")
	}
}

// What was looked up under a pin stays until it was read.
func TestPinHoldsSegments(t *testing.T) {
	_, w := newWorld(t, 1)
	mustWrite(t, w, 0, 1)
	pin := w.j.Pin()
	b, _ := w.files[fileID(0)].jf.Block(1)
	for w.j.active() == b.Body.seg {
		mustWrite(t, w, 0, 2)
	}
	done := make(chan error, 1)
	go func() { done <- w.j.Drain() }()
	select {
	case <-done:
		t.Error("the segment was freed under a pin")
	case <-time.After(30 * time.Millisecond):
	}
	must(t, w.j.ReadAt(make([]byte, testBlock), b.Body))
	pin.Unpin()
	must(t, <-done)
}

// What overrules the records of a freed segment is durable before it is freed.
func TestTrimCommitsFirst(t *testing.T) {
	fs, w := newWorld(t, 1)
	mustWrite(t, w, 0, 5)
	must(t, w.j.Drain()) // the size is home, what follows only overwrites
	lsn, a := mustWrite(t, w, 0, 5)
	must(t, w.j.Commit(lsn))
	for len(w.j.live) < 3 {
		mustWrite(t, w, 0, 5)
	}
	if n, _ := w.j.trimmable(); n == 0 {
		t.Fatal("nothing to trim")
	}
	must(t, w.j.Trim())
	w = mustMount(t, fs.Snapshot().Crash(crashfs.Lost).Root(), 1, nil)
	c, err := w.files[fileID(0)].content(fileID(0))
	must(t, err)
	if c.blocks[5] < a {
		t.Errorf("block 5 holds %d, %d was acknowledged", c.blocks[5], a)
	}
}

// The process was killed, what it had written unflushed was recovered, and then
// power fails.
func TestRecoveryMakesDurable(t *testing.T) {
	fs, w := newWorld(t, 1)
	_, a := mustWrite(t, w, 0, 5)
	must(t, w.j.writeQueueAll())
	w.abandon()
	w = mustMount(t, fs.Root(), 1, nil)
	wantBlock(t, w, 0, 5, a)
	im := fs.Snapshot()
	w.abandon()
	wantBlock(t, mustMount(t, im.Crash(crashfs.Lost).Root(), 1, nil), 0, 5, a)
}

// The next segment's header reached the disk, the end of the one before it did
// not: the run that follows goes on in that one, and comes to the next again.
func TestHeaderAheadOfTheEnd(t *testing.T) {
	fs, w := newWorld(t, 1)
	first := w.j.active()
	var stamps []uint64
	var last int64
	for w.j.active() == first {
		last = first.end
		_, s := mustWrite(t, w, 0, uint64(len(stamps)))
		stamps = append(stamps, s)
	}
	must(t, w.j.writeQueueAll())
	patch(t, fs.Root(), segName(first.number), last, flip(batchHead+50))
	fs, w = kill(t, fs, w, nil)
	if len(w.j.live) != 1 {
		t.Fatalf("%d live segments", len(w.j.live))
	}
	var b uint64
	for range 20 {
		var lsn LSN
		lsn, b = mustWrite(t, w, 0, 50)
		must(t, w.j.Commit(lsn))
		if len(w.j.live) == 3 {
			break
		}
	}
	_, w = kill(t, fs, w, nil)
	wantBlock(t, w, 0, 50, b)
	wantBlock(t, w, 0, 0, stamps[0])
}

// What is written while a checkpoint copies stays live.
func TestWriteDuringCheckpoint(t *testing.T) {
	fs, w := newWorld(t, 1)
	mustWrite(t, w, 0, 5)
	var b uint64
	w.beforeDone = func(id cipher.FileID) {
		w.beforeDone = nil
		_, b = mustWrite(t, w, 0, 5)
	}
	must(t, w.j.Drain())
	wantBlock(t, w, 0, 5, b)
	must(t, w.j.Commit(w.j.lastLSN()))
	im := fs.Snapshot()
	wantBlock(t, mustMount(t, im.Crash(crashfs.Lost).Root(), 1, nil), 0, 5, b)
}

// A later cut further out does not stand in for an earlier one further in.
func TestTwoCuts(t *testing.T) {
	fs, w := newWorld(t, 1)
	for i := range uint64(8) {
		mustWrite(t, w, 0, i)
	}
	must(t, w.j.Drain())
	for _, n := range []uint64{2, 30, 20} {
		_, err := w.truncate(fileID(0), n)
		must(t, err)
	}
	must(t, w.j.Commit(w.j.lastLSN()))
	check := func(w *world) {
		t.Helper()
		c, err := w.files[fileID(0)].content(fileID(0))
		must(t, err)
		if c.size != 20*testBlock || len(c.blocks) != 2 {
			t.Errorf("got %v, want 20 blocks of which two are there", c)
		}
	}
	check(w)
	if got := w.files[fileID(0)].jf.VoidFrom(); got != 2 {
		t.Errorf("void from %d, want 2", got)
	}
	fs, w = kill(t, fs, w, nil)
	check(w)
	must(t, w.j.Drain())
	check(w)
	fs, w = kill(t, fs, w, nil)
	check(w)
}
