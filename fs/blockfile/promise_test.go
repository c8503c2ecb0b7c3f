package blockfile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"golang.org/x/sys/unix"
)

// ledger knows which pages of a backing file have space, and what was written
// where there was none: on a full disk that would have failed.
type ledger struct {
	backing.File
	mu     sync.Mutex
	pages  map[int64]bool
	armed  bool // the file is created
	beyond []string
}

func (l *ledger) Allocate(mode uint32, off, n int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mode&unix.FALLOC_FL_PUNCH_HOLE != 0 {
		for p := (off + 4095) / 4096; p < (off+n)/4096; p++ {
			delete(l.pages, p)
		}
	} else {
		for p := off / 4096; p*4096 < off+n; p++ {
			l.pages[p] = true
		}
	}
	return l.File.Allocate(mode, off, n)
}

func (l *ledger) Truncate(size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	st, err := l.File.Stat()
	for p := range l.pages {
		if p*4096 >= size && size <= st.Size { // longer frees nothing, on ext4 and xfs
			delete(l.pages, p)
		}
	}
	return errors.Join(err, l.File.Truncate(size))
}

func (l *ledger) WriteAt(b []byte, off int64) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := off / 4096; p*4096 < off+int64(len(b)); p++ {
		if !l.pages[p] && l.armed {
			l.beyond = append(l.beyond, fmt.Sprintf("page %d, by a write of %d at %d", p, len(b), off))
		}
		l.pages[p] = true
	}
	return l.File.WriteAt(b, off)
}

func (l *ledger) Accessed() error { return l.File.(backing.Accessor).Accessed() }

// TestSpaceAtHomeStaysPromised does everything that takes and gives back space,
// with checkpoints before, after and meanwhile: none of them may need space that
// was not allocated for the writer, who alone is told that the disk is full.
func TestSpaceAtHomeStaysPromised(t *testing.T) {
	for _, bs := range []int{4096, 16384} {
		for seed := range uint64(6) {
			t.Run(fmt.Sprint(bs, " ", seed), func(t *testing.T) {
				t.Parallel()
				d := newDisk(t, cipher.SuiteDouble, bs)
				d.withJournal()
				l := &ledger{File: d.backing("f", unix.O_CREAT|unix.O_EXCL), pages: map[int64]bool{}}
				f, err := Create(l, d.c)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				d.journal.add(f)
				l.mu.Lock()
				l.armed = true
				l.mu.Unlock()
				stop := make(chan struct{})
				var wg sync.WaitGroup
				if seed%2 > 0 { // checkpoints meanwhile
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
								d.journal.j.Drain()
							}
						}
					})
				}
				spend(t, f, rand.New(rand.NewPCG(seed, 5)), d)
				close(stop)
				wg.Wait()
				d.drain()
				l.mu.Lock()
				defer l.mu.Unlock()
				for i, b := range l.beyond {
					if i == 5 {
						break
					}
					t.Errorf("home needed space that nobody had allocated: %s", b)
				}
			})
		}
	}
}

// spend makes random changes of f.
func spend(t *testing.T, f *File, r *rand.Rand, d *disk) {
	t.Helper()
	p := make([]byte, 40_000)
	for range 150 {
		off, n := r.Int64N(600_000), r.IntN(len(p)-1)+1
		if r.IntN(3) == 0 {
			off = f.Size()
		}
		var err error
		switch k := r.IntN(20); {
		case k < 11:
			_, err = f.WriteAt(p[:n], off)
		case k < 13:
			err = f.Truncate(off)
		case k < 14:
			err = f.Truncate(0)
		case k < 16:
			err = f.PunchHole(off, int64(n)*3)
		case k < 17:
			err = f.Allocate(off, int64(n), r.IntN(2) == 0)
		default:
			err = d.journal.j.Drain()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// promised makes an empty file whose space is accounted for.
func promised(t *testing.T) (*disk, *ledger, *File) {
	t.Helper()
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.quietJournal()
	l := &ledger{File: d.backing("f", unix.O_CREAT|unix.O_EXCL), pages: map[int64]bool{}}
	f, err := Create(l, d.c)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	d.journal.add(f)
	l.armed = true
	return d, l, f
}

func (l *ledger) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.beyond {
		t.Errorf("home needed space that nobody had allocated: %s", b)
	}
}

// TestSpaceAfterAStreamThatFailed cuts off, with what a request of a stream left,
// space that the user had asked for beyond the end.
func TestSpaceAfterAStreamThatFailed(t *testing.T) {
	d, l, f := promised(t)
	must(t, f.Allocate(0, 4<<20, true))
	for f.inlined.Load() < f.streamFrom {
		write(t, f, pattern(1, 8*4096), f.Size())
	}
	end := f.layout.PhysicalSize(f.Size())
	failed := false
	d.hook = func(op string, off, n int64) (int64, error) {
		if op == "write" && off >= end && !failed {
			failed = true
			return n / 2, unix.ENOSPC
		}
		return 0, nil
	}
	if _, err := f.WriteAt(pattern(2, 100*4096), f.Size()); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	d.hook = allowAll
	f.streamFrom = -1
	write(t, f, pattern(3, 8*4096), f.Size())
	write(t, f, pattern(3, 8*4096), f.Size()+70*4096)
	d.drain()
	l.check(t)
}

// TestSpaceInAHoleThatWasCut asks for space after the file was cut, and has a
// checkpoint cut home afterwards.
func TestSpaceInAHoleThatWasCut(t *testing.T) {
	d, l, f := promised(t)
	f.streamFrom = -1
	for range 40 {
		write(t, f, pattern(1, 10*4096), f.Size())
	}
	d.drain()
	must(t, f.Truncate(4096))
	must(t, f.Allocate(0, 2<<20, true))
	write(t, f, pattern(2, 4096), 300*4096)
	d.drain()
	write(t, f, pattern(3, 4096), 150*4096)
	d.drain()
	l.check(t)
}

// TestSpaceOfWhatWasCut writes and truncates before any checkpoint: the space that
// was allocated home for it is freed by the next.
func TestSpaceOfWhatWasCut(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.quietJournal()
	f := d.create("f")
	f.streamFrom = -1
	for range 16 {
		write(t, f, pattern(1, 64*4096), f.Size())
	}
	must(t, f.Truncate(0))
	d.drain()
	st, err := f.b.Stat()
	must(t, err)
	if taken := st.Blocks * 512; taken > 1<<20 {
		t.Errorf("an empty file that is home takes %d bytes", taken)
	}
}
