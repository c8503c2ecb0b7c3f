package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// redoLog overwrites files round and round, as a redo log is written: pieces
// of 512 bytes to 64 KiB, each synced; often the last block once more, with
// more in it. One file by O_DIRECT, one buffered, one with O_DIRECT|O_DSYNC.
type redoLog struct {
	files [3]redoFile
}

type redoFile struct {
	name  string
	flags int
	steps []redoStep
}

type redoStep struct {
	step
	first, n int // sectors
}

// redoSectors is the length of each file.
const redoSectors = 2048

func newRedoLog() *redoLog {
	return &redoLog{[3]redoFile{
		{name: "direct", flags: unix.O_DIRECT},
		{name: "buffered"},
		{name: "direct-dsync", flags: unix.O_DIRECT | unix.O_DSYNC},
	}}
}

func (w *redoLog) name() string { return "redo" }

// redoSector is what step i, counted from 1, writes to a sector; step 0 is setup.
func redoSector(b []byte, file, i, at int) {
	fill(b, uint64(file)<<56|uint64(i)<<16|uint64(at))
	binary.LittleEndian.PutUint32(b, uint32(i))
}

func (w *redoLog) setup(dir string) error {
	b := make([]byte, redoSectors*sector)
	for k, f := range w.files {
		for at := range redoSectors {
			redoSector(b[at*sector:(at+1)*sector], k, 0, at)
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *redoLog) run(dir string, c *clock, stop <-chan struct{}) error {
	var wg sync.WaitGroup
	errs := make([]error, len(w.files))
	for k := range w.files {
		wg.Go(func() { errs[k] = w.files[k].run(k, dir, c, stop) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *redoFile) run(k int, dir string, c *clock, stop <-chan struct{}) error {
	fd, err := unix.Open(filepath.Join(dir, f.name), unix.O_RDWR|unix.O_CLOEXEC|f.flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rng := rand.New(rand.NewPCG(env.seed, uint64(k)))
	buf := aligned(64 << 10)
	defer unix.Munmap(buf[:cap(buf)])
	at := 0
	for i := 1; !stopped(stop); i++ {
		n := 1 + rng.IntN(8)
		if rng.IntN(8) == 0 {
			n = 1 + rng.IntN(128)
		}
		if at+n > redoSectors {
			at = 0
		}
		for j := range n {
			redoSector(buf[j*sector:(j+1)*sector], k, i, at+j)
		}
		s := redoStep{step{c.now(), never}, at, n}
		if m, err := unix.Pwrite(fd, buf[:n*sector], int64(at*sector)); m != n*sector {
			return fmt.Errorf("pwrite of %d: %d, %w", n*sector, m, err)
		}
		if f.flags&unix.O_DSYNC == 0 {
			if err := unix.Fdatasync(fd); err != nil {
				return err
			}
		}
		s.acked = c.ack()
		f.steps = append(f.steps, s)
		if at += n; rng.IntN(3) > 0 {
			at-- // the last sector again
		}
	}
	return nil
}

func (w *redoLog) verify(dir string, at uint64, strict bool) (problems []string) {
	for k := range w.files {
		problems = append(problems, w.files[k].verify(k, dir, at, strict)...)
	}
	return problems
}

func (f *redoFile) verify(k int, dir string, at uint64, strict bool) (problems []string) {
	var want [redoSectors]int // the step that was acknowledged last
	pending, last := redoStep{}, 0
	for i, s := range f.steps {
		if s.acked <= at {
			for j := s.first; j < s.first+s.n; j++ {
				want[j] = i + 1
			}
		} else if s.begun <= at && last == 0 {
			pending, last = s, i+1
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, f.name))
	if err != nil || len(b) != redoSectors*sector {
		return []string{fmt.Sprintf("%s: %d bytes, %v", f.name, len(b), err)}
	}
	cmp := make([]byte, sector)
	var seen, head int // of the pending step's sectors; seen before any that is not
	for j := range redoSectors {
		got := b[j*sector : (j+1)*sector]
		i := int(binary.LittleEndian.Uint32(got))
		redoSector(cmp, k, i, j)
		ok := bytes.Equal(cmp, got)
		mine := last > 0 && j >= pending.first && j < pending.first+pending.n
		switch {
		case ok && mine && i == last:
			if seen++; seen == j-pending.first+1 {
				head = seen
			}
		case !ok || i != want[j]:
			problems = append(problems, fmt.Sprintf("%s: sector %d is of step %d (whole: %v), want %d; not acknowledged: step %d, %d+%d", f.name, j, i, ok, want[j], last, pending.first, pending.n))
		}
	}
	// A buffered write that does not begin at a page is handed over in two: up
	// to the page's boundary, and the rest.
	split := f.flags&unix.O_DIRECT == 0 && pending.first%8 != 0 && seen == head && (pending.first+seen)%8 == 0
	if strict && seen != 0 && seen != pending.n && !split {
		problems = append(problems, fmt.Sprintf("%s: %d of %d sectors of one request, at sector %d", f.name, seen, pending.n, pending.first))
	}
	return problems
}
