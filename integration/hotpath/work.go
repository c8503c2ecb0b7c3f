package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// workload is what one target after another is given to do.
type workload struct {
	Name    string
	Bytes   int // of one operation
	Threads int
	// ops bounds a slice, beside the time it may take; 0 does not.
	ops int
	// whole slices take all their operations, however long that takes. They are
	// in each seventh round, and the target may finish before the next one.
	whole bool
	// prepare makes what the workload needs in the target; nil if nothing.
	prepare func(t *target) error
	// open makes one thread's part in the target.
	open func(t *target, thread int) (*runner, error)
}

// runner is one thread's part of a workload in one target. Only op and end are
// on the clock; all but op may be nil.
type runner struct {
	begin func() error // of a slice
	op    func() error
	every int          // operations that belong together, at least 1
	end   func() error // of a slice
	after func() error
	close func() error
}

const (
	kib = 1 << 10
	mib = 1 << 20

	pagesFile = 64 * mib // that pages are read from and written to
	seqOps    = 32       // writes of 1 MiB to each new file
	groupOps  = 32       // page writes before an fsync
)

func workloads() []workload {
	ws := []workload{}
	for _, threads := range []int{1, 4} {
		for _, n := range []int{4 * kib, 512} {
			ws = append(ws, workload{
				Name:  fmt.Sprintf("append %s + fdatasync, %d thread%s", size(n), threads, plural(threads)),
				Bytes: n, Threads: threads,
				open: func(t *target, thread int) (*runner, error) { return openAppend(t, n, threads, thread) },
			})
		}
	}
	return append(ws,
		workload{Name: "overwrite 16 KiB random, O_DIRECT, fsync each 32", Bytes: 16 * kib, Threads: 1,
			prepare: func(t *target) error { return makePages(t, overwriteFile) }, open: openOverwrite},
		workload{Name: "read 16 KiB random, O_DIRECT, from disk", Bytes: 16 * kib, Threads: 1, ops: 512,
			prepare: func(t *target) error { return makePages(t, readFile) }, open: openRead},
		workload{Name: "write 32 x 1 MiB new, buffered, fsync at end", Bytes: mib, Threads: 1, ops: seqOps, whole: true,
			open: func(t *target, _ int) (*runner, error) { return openSequential(t, 0) }},
		workload{Name: "write 32 x 1 MiB new, O_DIRECT, fsync at end", Bytes: mib, Threads: 1, ops: seqOps, whole: true,
			open: func(t *target, _ int) (*runner, error) { return openSequential(t, unix.O_DIRECT) }},
	)
}

func size(n int) string {
	if n >= kib {
		return fmt.Sprintf("%d KiB", n/kib)
	}
	return fmt.Sprintf("%d B", n)
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// buffer is random bytes at an address that O_DIRECT takes.
func buffer(n int) []byte {
	b := make([]byte, n+4096)
	b = b[-uintptr(unsafe.Pointer(&b[0]))&4095:][:n]
	rand.Read(b)
	return b
}

// pwrite writes all of p.
func pwrite(f *os.File, p []byte, off int64) error {
	n, err := unix.Pwrite(int(f.Fd()), p, off)
	if err == nil && n < len(p) {
		err = fmt.Errorf("%s: %d of %d bytes written", f.Name(), n, len(p))
	}
	return err
}

// openAppend grows one file by n bytes at a time, as a log of transactions.
func openAppend(t *target, n, threads, thread int) (*runner, error) {
	f, err := os.Create(filepath.Join(t.dir, fmt.Sprintf("append-%d-%d-%d", n, threads, thread)))
	if err != nil {
		return nil, err
	}
	p, off := buffer(n), int64(0)
	return &runner{every: 1, close: f.Close, op: func() error {
		if err := pwrite(f, p, off); err != nil {
			return err
		}
		off += int64(n)
		return unix.Fdatasync(int(f.Fd()))
	}}, nil
}

const readFile, overwriteFile = "read", "overwrite"

// makePages makes a file of pages, all written.
func makePages(t *target, name string) error {
	f, err := os.Create(filepath.Join(t.dir, name))
	if err != nil {
		return err
	}
	p := buffer(mib)
	for off := int64(0); off < pagesFile && err == nil; off += mib {
		err = pwrite(f, p, off)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func openPages(t *target, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(t.dir, name), os.O_RDWR|unix.O_DIRECT, 0)
}

func randomPage() int64 { return mathrand.Int64N(pagesFile/(16*kib)) * 16 * kib }

// openOverwrite writes pages of a file as a page cleaner does.
func openOverwrite(t *target, _ int) (*runner, error) {
	f, err := openPages(t, overwriteFile)
	if err != nil {
		return nil, err
	}
	p, n := buffer(16*kib), 0
	return &runner{every: groupOps, close: f.Close, op: func() error {
		if err := pwrite(f, p, randomPage()); err != nil {
			return err
		}
		if n++; n%groupOps != 0 {
			return nil
		}
		return f.Sync()
	}}, nil
}

// openRead reads pages of a file that is not in any page cache.
func openRead(t *target, _ int) (*runner, error) {
	f, err := openPages(t, readFile)
	if err != nil {
		return nil, err
	}
	p := buffer(16 * kib)
	return &runner{every: 1, close: f.Close, begin: func() error { return t.evict(f) }, op: func() error {
		n, err := unix.Pread(int(f.Fd()), p, randomPage())
		if err == nil && n < len(p) {
			err = fmt.Errorf("%s: %d of %d bytes read", f.Name(), n, len(p))
		}
		return err
	}}, nil
}

// openSequential writes a new file in each slice. They stay until the end: to
// free their blocks costs time, in somebody's slice.
func openSequential(t *target, flags int) (*runner, error) {
	var f *os.File
	var off int64
	p, n := buffer(mib), 0
	return &runner{
		every: 1,
		begin: func() (err error) {
			n, off = n+1, 0
			f, err = os.OpenFile(filepath.Join(t.dir, fmt.Sprintf("seq-%x-%d", flags, n)), os.O_RDWR|os.O_CREATE|os.O_EXCL|flags, 0o644)
			return err
		},
		op: func() error {
			err := pwrite(f, p, off)
			off += mib
			return err
		},
		end:   func() error { return f.Sync() },
		after: func() error { return f.Close() },
	}, nil
}

// slice is what one target did of a workload in one round.
type slice struct {
	ops   int
	wall  time.Duration
	cpu   time.Duration   // of the target's daemon
	times []time.Duration // of each operation
}

// perOp is the wall time of an operation: of all threads together, what goes
// by between two of them.
func (s *slice) perOp() float64 { return float64(s.wall) / float64(max(s.ops, 1)) }

// run runs a slice of about length on all runners of a workload.
func run(w *workload, t *target, runners []*runner, length time.Duration) (s slice, err error) {
	for _, r := range runners {
		if r.begin != nil {
			if err := r.begin(); err != nil {
				return s, err
			}
		}
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		cpu    = t.cpu()
		start  = time.Now()
		finish = start.Add(length)
	)
	for _, r := range runners {
		wg.Go(func() {
			times, e := r.slice(w, finish)
			mu.Lock()
			defer mu.Unlock()
			s.times, s.ops, err = append(s.times, times...), s.ops+len(times), errors.Join(err, e)
		})
	}
	wg.Wait()
	s.wall, s.cpu = time.Since(start), t.cpu()-cpu
	for _, r := range runners {
		if r.after != nil {
			err = errors.Join(err, r.after())
		}
	}
	return s, err
}

// slice is one thread's part of run.
func (r *runner) slice(w *workload, finish time.Time) (times []time.Duration, err error) {
	times = make([]time.Duration, 0, 4096)
	for last := time.Now(); err == nil; {
		for range r.every {
			if err = r.op(); err != nil {
				return times, err
			}
			now := time.Now()
			times = append(times, now.Sub(last))
			last = now
		}
		if w.ops > 0 && len(times) >= w.ops || !w.whole && last.After(finish) {
			break
		}
	}
	if r.end != nil {
		err = r.end()
	}
	return times, err
}
