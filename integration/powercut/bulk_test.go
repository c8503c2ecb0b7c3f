package powercut

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bulk writes much new data to the ends of files, and syncs now and then; between
// that it writes pages again and cuts the files. New data in bulk takes another way
// to the disk than small commits do.
type bulk struct {
	files [2]bulkFile
}

type bulkFile struct {
	name  string
	sync  int // operations from one sync to the next
	steps []step
}

const (
	bulkPiece = 256 << 10
	bulkSize  = 6 << 20 // from which a file is cut
)

func newBulk() *bulk {
	return &bulk{[2]bulkFile{{name: "often", sync: 9}, {name: "seldom", sync: 31}}}
}

func (w *bulk) name() string { return "bulk" }

func (w *bulk) setup(dir string) error {
	for i := range w.files {
		if err := os.WriteFile(filepath.Join(dir, w.files[i].name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// bulkOp is the i-th operation on a file of size bytes.
type bulkOp struct {
	data []byte // to be written; nil cuts the file
	off  int64  // or the new size
}

func (b *bulkFile) op(k, i int, size int64) bulkOp {
	x := uint64(i)*2654435761 + uint64(k)*40503
	x ^= x >> 13
	data := func(n int) []byte {
		p := make([]byte, n)
		fill(p, uint64(k)<<32+uint64(i)+1<<48)
		return p
	}
	switch {
	case size >= bulkSize || i%23 == 22:
		return bulkOp{off: int64(x%uint64(size+1)) &^ 4095}
	case i%11 == 10 && size >= 1<<20:
		return bulkOp{data: data(16 << 10), off: int64(x%uint64(size-16<<10)) &^ 16383}
	case i%7 == 6:
		return bulkOp{data: data(4096), off: size}
	}
	return bulkOp{data: data(bulkPiece), off: size}
}

func (o bulkOp) apply(b []byte) []byte {
	if o.data == nil {
		return b[:o.off]
	}
	if n := int(o.off) + len(o.data); n > len(b) {
		b = append(b, make([]byte, n-len(b))...)
	}
	copy(b[o.off:], o.data)
	return b
}

func (w *bulk) run(dir string, c *clock, stop <-chan struct{}) error {
	var fds [2]*os.File
	var sizes [2]int64
	for k := range w.files {
		f, err := os.OpenFile(filepath.Join(dir, w.files[k].name), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		fds[k] = f
	}
	for i := 0; !stopped(stop); i++ {
		for k := range w.files {
			if err := w.files[k].step(k, i, fds[k], &sizes[k], c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bulkFile) step(k, i int, f *os.File, size *int64, c *clock) error {
	o := b.op(k, i, *size)
	b.steps = append(b.steps, step{c.now(), never})
	if o.data == nil {
		*size = o.off
		if err := f.Truncate(o.off); err != nil {
			return err
		}
	} else {
		*size = max(*size, o.off+int64(len(o.data)))
		if _, err := f.WriteAt(o.data, o.off); err != nil {
			return err
		}
	}
	if i%b.sync != b.sync-1 {
		return nil
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	acked := c.ack()
	for j := len(b.steps) - 1; j >= 0 && b.steps[j].acked == never; j-- {
		b.steps[j].acked = acked
	}
	return nil
}

func (w *bulk) verify(dir string, at uint64, strict bool) (problems []string) {
	for k := range w.files {
		if err := w.files[k].verify(k, dir, at, strict); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return problems
}

// verify wants of a strict target what the file was after one of the operations
// from the last that was acknowledged on, and of any that bytes which later
// operations left alone are what was acknowledged.
func (b *bulkFile) verify(k int, dir string, at uint64, strict bool) error {
	acked, begun := counts(b.steps, at)
	got, err := os.ReadFile(filepath.Join(dir, b.name))
	if err != nil {
		return err
	}
	var base, now []byte
	var touched []bool
	fits := false
	for i := 0; ; i++ {
		if i == acked {
			base = bytes.Clone(now)
			touched = make([]bool, len(base))
		}
		if i >= acked && bytes.Equal(got, now) {
			fits = true
		}
		if i == begun {
			break
		}
		o := b.op(k, i, int64(len(now)))
		if i >= acked {
			end := len(touched)
			if o.data != nil {
				end = min(end, int(o.off)+len(o.data))
			}
			for j := min(int(o.off), end); j < end; j++ {
				touched[j] = true
			}
		}
		now = o.apply(now)
	}
	if strict && !fits {
		return fmt.Errorf("%s: %d bytes are not the file after any of the operations from %d to %d", b.name, len(got), acked, begun)
	}
	for j, t := range touched {
		if !t && (j >= len(got) || got[j] != base[j]) {
			return fmt.Errorf("%s: byte %d of %d is not what was acknowledged with operation %d", b.name, j, len(got), acked)
		}
	}
	return nil
}
