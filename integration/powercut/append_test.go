package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// step is one operation that is acknowledged: it can have left traces in a log
// longer than begun, and must be there in one of acked entries or more.
type step struct {
	begun uint64
	acked uint64 // never, if it was not
}

const never = ^uint64(0)

// counts says how many steps were acknowledged, and how many begun, at a cut.
func counts(steps []step, at uint64) (acked, begun int) {
	for _, s := range steps {
		if s.acked <= at {
			acked++
		}
		if s.begun <= at {
			begun++
		}
	}
	return acked, begun
}

// appendLog appends records and syncs each, like a binary log: to a file that
// grows, to one with O_DSYNC, and to one with its space allocated before.
type appendLog struct {
	files [3]appendFile
}

type appendFile struct {
	name  string
	flags int
	alloc int64
	steps []step
}

func newAppendLog() *appendLog {
	return &appendLog{[3]appendFile{
		{name: "grows"},
		{name: "dsync", flags: unix.O_DSYNC},
		{name: "allocated", alloc: 8 << 20},
	}}
}

func (w *appendLog) name() string { return "append" }

func (w *appendLog) setup(dir string) error {
	f, err := os.Create(filepath.Join(dir, w.files[2].name))
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, w.files[2].alloc), f.Close())
}

// appendRecord is the i-th: number, length, bytes of its own.
func appendRecord(file, i int) []byte {
	x := uint64(i)*2654435761 + uint64(file)
	n := 20 + int(x%700)
	if i%9 == 0 {
		n = 20 + int(x%40_000)
	}
	b := make([]byte, n)
	fill(b, uint64(file)<<32+uint64(i))
	binary.LittleEndian.PutUint32(b, uint32(i))
	return b
}

func (w *appendLog) run(dir string, c *clock, stop <-chan struct{}) error {
	var wg sync.WaitGroup
	errs := make([]error, len(w.files))
	for k := range w.files {
		wg.Go(func() { errs[k] = w.files[k].run(k, dir, c, stop) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (a *appendFile) run(k int, dir string, c *clock, stop <-chan struct{}) error {
	fd, err := unix.Open(filepath.Join(dir, a.name), unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC|a.flags, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The name is durable before the first record counts.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fsync(fd), d.Sync(), d.Close())
	for i := 0; err == nil && !stopped(stop); i++ {
		b := appendRecord(k, i)
		s := step{c.now(), never}
		if n, err := unix.Write(fd, b); n != len(b) {
			return fmt.Errorf("write of %d: %d, %w", len(b), n, err)
		}
		if a.flags&unix.O_DSYNC == 0 {
			if err := unix.Fdatasync(fd); err != nil {
				return err
			}
		}
		s.acked = c.ack()
		a.steps = append(a.steps, s)
	}
	return err
}

func (w *appendLog) verify(dir string, at uint64, strict bool) (problems []string) {
	for k := range w.files {
		a := &w.files[k]
		acked, begun := counts(a.steps, at)
		b, err := os.ReadFile(filepath.Join(dir, a.name))
		if errors.Is(err, unix.ENOENT) && acked == 0 && (len(a.steps) == 0 || a.steps[0].begun > at) {
			continue
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%d records acknowledged: %v", acked, err))
			continue
		}
		size, i := len(b), 0
		for ; i < begun; i++ {
			want := appendRecord(k, i)
			if len(b) >= len(want) && bytes.Equal(b[:len(want)], want) {
				b = b[len(want):]
				continue
			}
			if i < acked {
				problems = append(problems, fmt.Sprintf("%s: record %d at %d of %d bytes is not what was acknowledged (%d records were)", a.name, i, size-len(b), size, acked))
			}
			break
		}
		if i == acked && i < begun && (size-len(b))%4096 != 0 && size%4096 == 0 && len(b) < 4096 && bytes.HasPrefix(appendRecord(k, i), b) {
			// A buffered write that does not begin at a page is handed over in
			// two: up to the page's boundary, and the rest.
			continue
		}
		if strict && i >= acked && len(b) > 0 {
			problems = append(problems, fmt.Sprintf("%s: %d bytes after the last whole record, %d, of %d bytes; %d records acknowledged, %d begun", a.name, len(b), i-1, size, acked, begun))
		}
	}
	return problems
}
