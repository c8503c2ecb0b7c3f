package blockfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

func TestRangeLocks(t *testing.T) {
	tests := []struct {
		name         string
		lo, hi       uint64
		excl         bool
		lo2, hi2     uint64
		excl2, waits bool
	}{
		{"readers share", 0, 9, false, 5, 20, false, false},
		{"writer waits for reader", 0, 9, false, 9, 20, true, true},
		{"reader waits for writer", 5, 9, true, 0, 5, false, true},
		{"neighbours do not meet", 0, 9, true, 10, 20, true, false},
		{"the end holds what may follow", 7, lastBlock, true, 1 << 50, 1 << 50, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r rangeLocks
			l := r.acquire(tt.lo, tt.hi, tt.excl)
			got := make(chan *rangeLock)
			go func() { got <- r.acquire(tt.lo2, tt.hi2, tt.excl2) }()
			select {
			case l2 := <-got:
				if tt.waits {
					t.Error("did not wait")
				}
				r.release(l2)
			case <-time.After(map[bool]time.Duration{true: 20 * time.Millisecond, false: 5 * time.Second}[tt.waits]):
				if !tt.waits {
					t.Fatal("waited")
				}
				r.release(l)
				r.release(<-got)
			}
		})
	}
}

// A writer is not starved by readers that keep coming.
func TestRangeLocksAreFair(t *testing.T) {
	var r rangeLocks
	first := r.acquire(0, 5, false)
	writer := make(chan *rangeLock)
	go func() { writer <- r.acquire(3, 3, true) }()
	for {
		r.mu.Lock()
		n := len(r.list)
		r.mu.Unlock()
		if n == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	reader := make(chan *rangeLock)
	go func() { reader <- r.acquire(3, 3, false) }()
	select {
	case <-reader:
		t.Fatal("a later reader overtook the writer")
	case <-time.After(20 * time.Millisecond):
	}
	r.release(first)
	r.release(<-writer)
	r.release(<-reader)
	if len(r.list) != 0 {
		t.Error("locks left over")
	}
}

// Writers of 8 KiB records fill each with one number, readers see no mixture;
// others grow, cut and punch the file beyond and search it for holes.
func TestConcurrent(t *testing.T) {
	const records, size = 200, 8192
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, bs := range []int{4096, 16384} {
		d := newDisk(t, cipher.SuiteDouble, bs)
		d.c.Cache = NewCache(1) // the smallest: groups are evicted all the time
		f := d.create("f")
		write(t, f, make([]byte, records*size), 0)
		var wg sync.WaitGroup
		stop := time.Now().Add(700 * time.Millisecond)
		var reads, writes atomic.Int64
		work := func(id uint64, step func(r *rand.Rand) error) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(seed, id))
				for time.Now().Before(stop) && !t.Failed() {
					if err := step(r); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		for id := range uint64(4) {
			work(id, func(r *rand.Rand) error {
				p := make([]byte, size)
				v := r.Uint64()
				for i := 0; i < size; i += 8 {
					binary.LittleEndian.PutUint64(p[i:], v)
				}
				writes.Add(1)
				_, err := f.WriteAt(p, int64(r.IntN(records))*size)
				return err
			})
			work(10+id, func(r *rand.Rand) error {
				p := make([]byte, size)
				if n, err := f.ReadAt(p, int64(r.IntN(records))*size); err != nil || n != size {
					return errors.Join(err, errors.New("short read"))
				}
				for i := 8; i < size; i += 8 {
					if !bytes.Equal(p[:8], p[i:i+8]) {
						return errors.New("a read saw two writes in one record")
					}
				}
				reads.Add(1)
				return nil
			})
		}
		tail := int64(records * size)
		work(20, func(r *rand.Rand) error { return f.Truncate(tail + r.Int64N(3<<20)) })
		work(21, func(r *rand.Rand) error {
			_, err := f.WriteAt(pattern(1, 30000), tail+r.Int64N(6<<20))
			return err
		})
		work(22, func(r *rand.Rand) error { return f.PunchHole(tail+r.Int64N(2<<20), 1<<20) })
		work(23, func(r *rand.Rand) error {
			for _, data := range []bool{true, false} {
				if at, err := f.seek(r.Int64N(tail), data); err != nil || at < 0 {
					return err
				}
			}
			return f.Sync(true)
		})
		work(24, func(r *rand.Rand) error {
			_, err := f.ReadAt(make([]byte, 100_000), tail+r.Int64N(4<<20))
			return err
		})
		wg.Wait()
		if reads.Load() < 10 || writes.Load() < 10 {
			t.Errorf("%d reads and %d writes only", reads.Load(), writes.Load())
		}
		f.Close()
		d.checkChain("f")
		if len(f.locks.list) != 0 {
			t.Error("locks left over")
		}
		if len(d.c.Cache.ring) != 0 {
			t.Errorf("%d groups left in the cache", len(d.c.Cache.ring))
		}
	}
}

// Writers that fill one hole from many sides agree on which groups there are.
func TestConcurrentFill(t *testing.T) {
	d := newDisk(t, cipher.SuiteSingle, 4096)
	f := d.create("f")
	const groups = 120
	end := int64(f.layout.FirstBlock(groups)) * 4096
	write(t, f, []byte("end"), end)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(uint64(w), 2))
			for range 60 {
				off := r.Int64N(end/4096) * 4096
				if r.IntN(3) == 0 {
					if _, err := f.ReadAt(make([]byte, 4096), off); err != nil {
						t.Error(err)
					}
				} else if _, err := f.WriteAt(pattern(w, 4096), off); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	f.Close()
	if n := d.checkChain("f"); n < 50 {
		t.Errorf("%d groups only", n)
	}
	if d.log.Len() > 0 {
		t.Errorf("log: %s", d.log)
	}
}

func TestLogLimit(t *testing.T) {
	var l logLimit
	a := allowance{burst: 50, interval: 200 * time.Millisecond}
	now := time.Now()
	lines, suppressed := 0, 0
	for range 1000 {
		if n, ok := l.take(a, now); ok {
			lines++
			suppressed += n
		}
		now = now.Add(time.Millisecond)
	}
	if lines < a.burst || lines > a.burst+6 {
		t.Errorf("%d lines within a second", lines)
	}
	now = now.Add(time.Hour)
	n, ok := l.take(a, now)
	if !ok || lines+suppressed+n != 1000 {
		t.Errorf("%d lines, %d and %d suppressed", lines, suppressed, n)
	}
}

// A write that waited while the file was cut locks the end that it now moves.
func TestLockFollowsSize(t *testing.T) {
	d := newDisk(t, cipher.SuiteSingle, 4096)
	f := d.create("f")
	write(t, f, pattern(1, 10*4096), 0)
	queued := func(n int) {
		for {
			f.locks.mu.Lock()
			have := len(f.locks.list)
			f.locks.mu.Unlock()
			if have == n {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	l := f.locks.acquire(5, 5, true)
	done := make(chan error, 2)
	go func() { done <- f.Truncate(5 * 4096) }()
	queued(2)
	go func() {
		_, err := f.WriteAt(pattern(2, 2*4096), 6*4096)
		done <- err
	}()
	queued(3)
	var cut atomic.Bool
	d.hook = func(op string, off, n int64) (int64, error) {
		f.locks.mu.Lock()
		defer f.locks.mu.Unlock()
		if cut.Load() && op == "write" && (len(f.locks.list) != 1 || f.locks.list[0].lo > 4 || f.locks.list[0].hi != lastBlock) {
			t.Errorf("a write that grows the file holds %+v", *f.locks.list[0])
		}
		if op == "truncate" {
			cut.Store(true)
		}
		return 0, nil
	}
	f.locks.release(l)
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	want := append(append(pattern(1, 5*4096), make([]byte, 4096)...), pattern(2, 2*4096)...)
	if got := read(t, f, 0, 1<<20); !bytes.Equal(got, want) {
		t.Error("content differs")
	}
}

// A change that makes groups keeps none pinned once others may drop them.
func TestCommitUnpinsUnderChain(t *testing.T) {
	d := newDisk(t, cipher.SuiteSingle, 4096)
	f := d.create("f")
	off := int64(f.layout.FirstBlock(9)) * 4096
	write(t, f, []byte("end"), off)
	ch := f.newChange(f.Size(), f.Size())
	defer f.releaseChange(ch)
	if err := f.sealRange(ch, pattern(1, 4096), 300*4096); err != nil {
		t.Fatal(err)
	}
	if err := f.commit(ch); err != nil {
		t.Fatal(err)
	}
	for n, g := range f.groups {
		if g.pins != 0 {
			t.Errorf("group %d is pinned", n)
		}
	}
}

func TestClosed(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	f := d.create("f")
	write(t, f, []byte("x"), 0)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("write: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("read: %v", err)
	}
	if err := f.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("second close: %v", err)
	}
}
