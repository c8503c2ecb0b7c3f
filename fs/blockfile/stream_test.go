package blockfile

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// quietJournal gives d a journal that does nothing by itself, large enough for a
// stream's head.
func (d *disk) quietJournal() {
	d.withJournal()
	if err := d.journal.j.Close(false); err != nil {
		d.t.Fatal(err)
	}
	d.journal.c.Super.Close()
	d.journal.c.CommitInterval, d.journal.c.CheckpointInterval = time.Hour, time.Hour
	segment := int64(64 * 4 * d.c.Volume.BlockSize())
	d.journal.c.SegmentSize, d.journal.c.Size = segment, 64*segment
	d.openJournal()
}

// stream makes a file of size bytes whose last part is streamed, and returns
// where that begins.
func (d *disk) stream(f *File, n int, size int64) (from int64) {
	d.t.Helper()
	for f.Size() < size {
		was := f.Streaming()
		at := f.Size()
		write(d.t, f, pattern(int(at), n), at)
		if f.Streaming() && !was {
			from = at
		}
	}
	if !f.Streaming() {
		d.t.Fatalf("a file of %d bytes does not stream", f.Size())
	}
	return from
}

func streamed(n int, size int64) []byte {
	var all []byte
	for int64(len(all)) < size {
		all = append(all, pattern(len(all), n)...)
	}
	return all
}

func TestStreamGoesStraightHome(t *testing.T) {
	eachKind(t, func(t *testing.T, suite cipher.Suite, bs int) {
		for _, n := range []int{8 * bs, 3*bs + 100} {
			d := newDisk(t, suite, bs)
			d.c.Cache = NewCache(minCachedGroups * cipher.TagBlockSize)
			d.quietJournal()
			f := d.create("f")
			from := d.stream(f, n, int64(300*bs))
			want := streamed(n, int64(300*bs))
			if got := read(t, f, 0, len(want)+1); !bytes.Equal(got, want) {
				t.Fatal("content differs while it streams")
			}
			before := d.journal.j.Stats().Next
			if err := f.Sync(true); err != nil {
				t.Fatal(err)
			}
			if got := d.journal.j.Stats().Next - before; got != 1 || f.Streaming() {
				t.Errorf("the end of the stream took %d records, streams %v", got, f.Streaming())
			}
			if from > int64(120*bs) {
				t.Errorf("%d bytes came before the stream", from)
			}
			write(t, f, pattern(1, 5*bs), from-100)
			copy(want[from-100:], pattern(1, 5*bs))
			f.Close()
			d.recover()
			f = d.mustOpen("f")
			if got := read(t, f, 0, len(want)+1); !bytes.Equal(got, want) {
				t.Fatal("content differs after recovery")
			}
			d.drain()
			f.Close()
			d.checkChain("f")
			if d.log.Len() > 0 {
				t.Errorf("log: %s", d.log)
			}
		}
	})
}

// TestUncommittedStreamIsVoid has a stream lost with the process, whose bytes lie
// home still.
func TestUncommittedStreamIsVoid(t *testing.T) {
	for _, checkpointed := range []bool{false, true} {
		d := newDisk(t, cipher.SuiteDouble, 4096)
		d.quietJournal()
		f := d.create("f")
		from := d.stream(f, 8*4096, 700*4096)
		if checkpointed {
			c, err := f.Checkpoint(1 << 60)
			if err != nil {
				t.Fatal(err)
			}
			c.End(c.Sync() == nil)
		}
		f.Close() // with the stream, as if it had been killed
		d.recover()
		d.c.Unclean = true
		f = d.mustOpen("f")
		if f.Size() != from || f.physical > f.layout.PhysicalSize(from) && !checkpointed {
			t.Errorf("size %d, home %d, want %d, %d", f.Size(), f.physical, from, f.layout.PhysicalSize(from))
		}
		size := from + 800*4096
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		want := append(streamed(8*4096, size)[:from], make([]byte, size-from)...)
		if got := read(t, f, 0, len(want)+1); !bytes.Equal(got, want) {
			t.Error("what nobody committed came back")
		}
		d.drain()
		f.Close()
		d.checkChain("f")
	}
}

// TestFullDiskWhileStreaming has each write and allocation home fail for lack of
// space, in part.
func TestFullDiskWhileStreaming(t *testing.T) {
	for _, begun := range []bool{false, true} {
		for fail := range 5 {
			d := newDisk(t, cipher.SuiteDouble, 4096)
			d.quietJournal()
			f := d.create("f")
			var size int64 = 40 * 4096
			if begun {
				size = d.stream(f, 8*4096, 140*4096)
				size = f.Size()
			} else {
				for f.Size() < size {
					write(t, f, pattern(int(f.Size()), 8*4096), f.Size())
				}
			}
			calls, failed := 0, ""
			d.hook = func(op string, off, n int64) (int64, error) {
				if op != "write" && op != "allocate" {
					return 0, nil
				}
				if calls++; calls == fail+1 {
					failed = op
					return n / 2, unix.ENOSPC
				}
				return 0, nil
			}
			p := pattern(9, 100*4096)
			n, err := f.WriteAt(p, size)
			d.hook = allowAll
			// An allocation is tried again, with less.
			if failed == "write" && !errors.Is(err, unix.ENOSPC) || (n == len(p)) != (err == nil) {
				t.Fatalf("failure %d: wrote %d, %v", fail, n, err)
			}
			if err != nil {
				write(t, f, p[n:], size+int64(n))
			}
			want := append(streamed(8*4096, size), p...)
			if got := read(t, f, 0, len(want)+1); !bytes.Equal(got, want) {
				t.Fatalf("failure %d: content differs", fail)
			}
			if err := f.Sync(true); err != nil {
				t.Fatal(err)
			}
			d.drain()
			f.Close()
			d.checkChain("f")
			f = d.mustOpen("f")
			if got := read(t, f, 0, len(want)+1); !bytes.Equal(got, want) {
				t.Fatalf("failure %d: content differs at home", fail)
			}
		}
	}
}

// TestFailedFlushOfStream has a flush fail: what the stream wrote may be lost, and
// no later flush that succeeds may say otherwise.
func TestFailedFlushOfStream(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.quietJournal()
	f := d.create("f")
	d.stream(f, 8*4096, 300*4096)
	d.hook = func(op string, off, n int64) (int64, error) {
		if op == "datasync" || op == "sync" {
			return 0, unix.EIO
		}
		return 0, nil
	}
	if err := f.Sync(true); !errors.Is(err, unix.EIO) {
		t.Fatalf("sync: %v, want EIO", err)
	}
	d.hook = allowAll
	for range 2 {
		if err := f.Sync(true); !errors.Is(err, unix.EIO) {
			t.Fatalf("sync after that: %v, want EIO", err)
		}
	}
	if _, err := f.WriteAt([]byte{1}, f.Size()); !errors.Is(err, unix.EIO) {
		t.Errorf("write after that: %v, want EIO", err)
	}
	if err := d.journal.j.Drain(); !errors.Is(err, unix.EIO) {
		t.Errorf("drain after that: %v, want EIO", err)
	}
	if size, _, _, ok := f.j.Size(); ok && size == f.Size() {
		t.Error("the stream was committed")
	}
}

func TestStreamKeepsModificationTime(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.quietJournal()
	f := d.create("f")
	d.stream(f, 8*4096, 300*4096)
	if got, _ := f.Times(); time.Since(time.Unix(got.Unix())) > time.Hour {
		t.Errorf("time %v while it streams", got)
	}
	want := unix.Timespec{Sec: 1000, Nsec: 5}
	if err := f.SetMtime(want); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.Times(); got != want || !f.Streaming() {
		t.Errorf("time %v, streams %v, want %v and that it does", got, f.Streaming(), want)
	}
	if err := f.Sync(false); err != nil {
		t.Fatal(err)
	}
	d.drain()
	st, err := f.b.Stat()
	if err != nil || st.Mtim != want {
		t.Errorf("time at home %v, %v, want %v", st.Mtim, err, want)
	}
}

// TestOldStreamIsCommitted has nobody ask for it.
func TestOldStreamIsCommitted(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.withJournal() // commits each few milliseconds
	f := d.create("f")
	for end := time.Now().Add(time.Minute); !f.Streaming(); {
		if time.Now().After(end) {
			t.Fatal("it never streams")
		}
		write(t, f, pattern(1, 16*4096), f.Size())
	}
	for end := time.Now().Add(time.Minute); f.Streaming() || !d.journal.j.Durable(f.j.LSN()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the stream is not committed")
		}
	}
}

// TestStreamBesideOthers reads, syncs and checkpoints a file while it streams.
func TestStreamBesideOthers(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.withJournal()
	f := d.create("f")
	const n, size = 10_000, 3_000_000
	want := streamed(n, size)
	var wg sync.WaitGroup
	var stop atomic.Bool
	beside := func(do func(i int) error) {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := do(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	beside(func(i int) error {
		p := make([]byte, 50_000)
		off := int64(i) * 7919 % size
		m, err := f.ReadAt(p, off)
		if err == nil && !bytes.Equal(p[:m], want[off:off+int64(m)]) {
			err = errors.New("content differs")
		}
		return err
	})
	beside(func(i int) error {
		time.Sleep(time.Duration(i%7) * time.Millisecond)
		return f.Sync(i%2 == 0)
	})
	beside(func(int) error {
		c, err := f.Checkpoint(1 << 60)
		if c != nil {
			c.End(c.Sync() == nil)
		}
		return err
	})
	for f.Size() < size {
		write(t, f, want[f.Size():min(f.Size()+n, size)], f.Size())
	}
	stop.Store(true)
	wg.Wait()
	if err := f.Sync(true); err != nil {
		t.Fatal(err)
	}
	d.drain()
	f.Close()
	d.checkChain("f")
	f = d.mustOpen("f")
	if got := read(t, f, 0, size+1); !bytes.Equal(got, want[:size]) {
		t.Error("content differs at the end")
	}
}
