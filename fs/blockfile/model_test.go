package blockfile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// model is what a file should be: its bytes, and which blocks are data.
type model struct {
	bs   int64
	data []byte
	real map[int64]bool
}

func (m *model) size() int64 { return int64(len(m.data)) }

func (m *model) resize(n int64) {
	if n <= m.size() {
		m.data = m.data[:n]
		for b := range m.real {
			if b*m.bs >= n {
				delete(m.real, b)
			}
		}
		return
	}
	m.data = append(m.data, make([]byte, n-m.size())...)
}

func (m *model) write(p []byte, off int64) {
	if end := off + int64(len(p)); end > m.size() {
		m.resize(end)
	}
	copy(m.data[off:], p)
	for b := off / m.bs; b <= (off+int64(len(p))-1)/m.bs; b++ {
		m.real[b] = true
	}
}

func (m *model) zero(off, end int64) {
	end = min(end, m.size())
	if off >= end {
		return
	}
	clear(m.data[off:end])
	for b := (off + m.bs - 1) / m.bs; b*m.bs < end; b++ {
		if (b+1)*m.bs <= end || end == m.size() {
			delete(m.real, b)
		}
	}
}

func (m *model) seek(off int64, data bool) (int64, error) {
	if off >= m.size() {
		return 0, unix.ENXIO
	}
	for b := off / m.bs; b*m.bs < m.size(); b++ {
		if m.real[b] == data {
			return max(off, b*m.bs), nil
		}
	}
	if data {
		return 0, unix.ENXIO
	}
	return m.size(), nil
}

func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	eachKind(t, func(t *testing.T, suite cipher.Suite, bs int) {
		steps := 3000 * 4096 / bs * 2
		if testing.Short() {
			steps /= 5
		}
		// A few groups' worth of blocks, so that groups come and go.
		for _, journaled := range []bool{false, true} {
			runModel(t, suite, bs, journaled, rand.New(rand.NewPCG(seed, uint64(bs))), steps, int64(260*bs))
		}
	})
}

// picker draws offsets and lengths, often at the edges of blocks and groups.
type picker struct {
	*rand.Rand
	bs, limit int64
}

func (r picker) offset() int64 {
	off := r.Int64N(r.limit)
	switch r.IntN(4) {
	case 0:
		off = off / r.bs * r.bs
	case 1: // about the first block of a group
		off = max(0, (r.Int64N(5)*56-16)*r.bs+r.Int64N(3)-1)
	}
	return min(off, r.limit)
}

func (r picker) length() int64 {
	switch r.IntN(5) {
	case 0:
		return 1 + r.Int64N(600)
	case 1:
		return r.bs * (1 + r.Int64N(8))
	case 2:
		return 1 + r.Int64N(r.bs*70)
	default:
		return 1 + r.Int64N(r.bs*3)
	}
}

func runModel(t *testing.T, suite cipher.Suite, bs int, journaled bool, rnd *rand.Rand, steps int, limit int64) {
	d := newDisk(t, suite, bs)
	d.c.Cache = NewCache(minCachedGroups * cipher.TagBlockSize)
	if journaled {
		d.withJournal()
	}
	f := d.create("f")
	id := f.ID()
	m := &model{bs: int64(bs), real: map[int64]bool{}}
	r := picker{rnd, int64(bs), limit}
	var trace []string
	for i := range steps {
		off, n := r.offset(), r.length()
		op := r.IntN(100)
		var err error
		name := ""
		switch {
		case op < 35:
			name = "write"
			p := pattern(i, int(n))
			_, err = f.WriteAt(p, off)
			m.write(p, off)
		case op < 60:
			name = "read"
			got := read(t, f, off, int(n))
			want := m.data[min(off, m.size()):min(off+n, m.size())]
			if !bytes.Equal(got, want) {
				t.Fatalf("step %d: read of %d at %d differs (%d bytes, want %d)\n%v", i, n, off, len(got), len(want), trace[max(0, len(trace)-20):])
			}
		case op < 66:
			name = "truncate"
			if r.IntN(3) == 0 {
				off = min(m.size(), off)
			}
			err = f.Truncate(off)
			m.resize(off)
		case op < 74:
			name = "punch"
			err = f.PunchHole(off, n*3)
			m.zero(off, off+n*3)
		case op < 80:
			name = "zero range"
			keep := r.IntN(2) == 0
			err = f.ZeroRange(off, n, keep)
			if !keep && off+n > m.size() {
				m.resize(off + n)
			}
			m.zero(off, off+n)
		case op < 84:
			name = "allocate"
			keep := r.IntN(2) == 0
			err = f.Allocate(off, n, keep)
			if !keep && off+n > m.size() {
				m.resize(off + n)
			}
		case op < 92:
			name = "seek"
			for _, data := range []bool{true, false} {
				got, err := f.seek(off, data)
				want, wantErr := m.seek(off, data)
				if got != want || !errors.Is(err, wantErr) {
					t.Fatalf("step %d: seek(%d, %v) = %d, %v, want %d, %v", i, off, data, got, err, want, wantErr)
				}
			}
		case op < 93:
			name = "to nothing"
			err = f.Truncate(0)
			m.resize(0)
		case op < 97:
			name = "sync"
			err = f.Sync(r.IntN(2) == 0)
		default:
			name = "reopen"
			if journaled && r.IntN(3) == 0 {
				name = "recover"
				err = f.EndStream()
				f.Close()
				d.recover()
			} else {
				d.drain()
				f.Close()
				d.checkChain("f")
			}
			f = d.mustOpen("f")
			if f.ID() != id {
				t.Fatalf("step %d: ID changed", i)
			}
		}
		if err != nil {
			t.Fatalf("step %d: %s of %d at %d: %v", i, name, n, off, err)
		}
		if f.Size() != m.size() {
			t.Fatalf("step %d: after %s of %d at %d size is %d, want %d", i, name, n, off, f.Size(), m.size())
		}
		trace = append(trace, name)
	}
	if got := read(t, f, 0, len(m.data)); !bytes.Equal(got, m.data) {
		t.Fatal("content differs at the end")
	}
	d.drain()
	f.Close()
	d.checkChain("f")
	if d.log.Len() > 0 {
		t.Errorf("log: %s", d.log)
	}
}
