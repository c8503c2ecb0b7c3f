package powercut

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sector is what a disk writes whole, in bytes.
const sector = 512

// entry is one of the recorder's log.
type entry struct {
	kind int
	off  int64
	n    int64
	data []byte // of a write; nil means zeros
}

// tape is what a recorder wrote: the disk's whole history from its base on.
type tape struct {
	entries []entry
	flushes []int  // their positions, ascending
	log     []byte // mapped
}

func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
}

func readTape(dir string) (*tape, error) {
	log, err := mapFile(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	t := &tape{log: log}
	for len(log) >= entryHead {
		e := entry{
			kind: int(binary.LittleEndian.Uint64(log)),
			off:  int64(binary.LittleEndian.Uint64(log[8:])),
			n:    int64(binary.LittleEndian.Uint64(log[16:])),
		}
		log = log[entryHead:]
		switch e.kind {
		case opWrite:
			e.data, log = log[:e.n:e.n], log[e.n:]
		case opFlush:
			t.flushes = append(t.flushes, len(t.entries))
		}
		t.entries = append(t.entries, e)
	}
	return t, nil
}

func (t *tape) close() { unix.Munmap(t.log) }

// durable counts the entries that no cut at p can take back.
func (t *tape) durable(p int) int {
	last := 0
	for _, f := range t.flushes {
		if f >= p {
			break
		}
		last = f
	}
	return last
}

// put applies the part of an entry that lies at [from, to) of it.
func (e *entry) put(image []byte, from, to int64) {
	dst := image[e.off+from : e.off+to]
	if e.data == nil {
		clear(dst)
	} else {
		copy(dst, e.data[from:to])
	}
}

// unit is the length of what is written whole at a place of an entry: a
// sector, or more for the backing file system's own metadata where it relies
// on more. ext4's superblock has its checksum in the second of its two
// sectors and is read before the journal is; xfs trusts the LSN in the first
// sector of a metadata block for all of it.
func (e *entry) unit(fstype string, at int64) int64 {
	pos := e.off + at
	switch fstype {
	case "ext4":
		if pos < 4096 {
			return 4096 - pos
		}
	case "xfs":
		if pos%4096 == 0 && e.n-at >= 4096 && e.data != nil && xfsMetadata(e.data[at:at+4096]) {
			return 4096
		}
	}
	return sector
}

var xfsMagics = []string{"XDB3", "XDD3", "XDF3", "XAGF", "XAGI", "XAFL", "AB3B", "AB3C", "IAB3", "FIB3", "RMB3", "R3FC", "BMA3", "XARM", "XSLM", "XSB"}

func xfsMetadata(b []byte) bool {
	for _, m := range xfsMagics {
		if bytes.HasPrefix(b, []byte(m)) {
			return true
		}
	}
	// Leaf and node blocks of directories and attributes have theirs at 8.
	switch binary.BigEndian.Uint16(b[8:]) {
	case 0x3df1, 0x3dff, 0x3ebe, 0x3bee:
		return bytes.Equal(b[0:2], []byte{0, 0})
	}
	return false
}

// How the writes after the last flush fare. Per sector, any of its versions
// can be the one that is there: to lose a write that was followed by another
// to the same place is the same as to reorder the two.
var fates = []string{"all lost", "all kept", "last torn", "some lost", "some torn", "one lost", "one kept", "all torn"}

// cutAt is a state of the disk after power failed.
type cutAt struct {
	p       int // entries before the cut
	durable int // of these, not to be taken back
	fate    int
	seed    uint64
	at      uint64 // when the workloads were cut: p, or before that the power failed once already
}

func (c cutAt) String() string {
	return fmt.Sprintf("cut at %d (flushed %d), %s, cut seed %d", c.p, c.durable, fates[c.fate], c.seed)
}

// apply makes the state from an image that has all of [0, durable).
func (t *tape) apply(c cutAt, image []byte, fstype string) {
	rng := rand.New(rand.NewPCG(c.seed, 7))
	pending := t.entries[c.durable:c.p]
	keep := []float64{0.1, 0.5, 0.9}[rng.IntN(3)]
	victim := 0
	if len(pending) > 0 {
		victim = rng.IntN(len(pending))
	}
	for i := range pending {
		e := &pending[i]
		if e.kind == opFlush {
			continue
		}
		whole, tear := true, false
		switch fates[c.fate] {
		case "all lost":
			whole = false
		case "last torn":
			tear = i == len(pending)-1
		case "some lost":
			whole = rng.Float64() < keep
		case "some torn":
			whole = rng.Float64() < keep
			tear = rng.IntN(2) == 0
		case "one lost":
			whole, tear = i != victim, i == victim && rng.IntN(2) == 0
		case "one kept":
			whole, tear = i == victim, i == victim && rng.IntN(2) == 0
		case "all torn":
			tear = true
		}
		switch {
		case tear:
			for at := int64(0); at < e.n; {
				n := min(e.unit(fstype, at), e.n-at)
				if rng.IntN(2) == 0 {
					e.put(image, at, at+n)
				}
				at += n
			}
		case whole:
			e.put(image, 0, e.n)
		}
	}
}

// image is a disk in memory that knows which of its parts hold anything.
type image struct {
	mem     []byte
	touched []bool // per part
}

// part is the granularity of image.touched, in bytes.
const part = 64 << 10

func newImage(size int64) (*image, error) {
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	return &image{mem: mem, touched: make([]bool, (size+part-1)/part)}, nil
}

func (m *image) close() { unix.Munmap(m.mem) }

func (m *image) touch(off, n int64) {
	for i := off / part; i < (off+n+part-1)/part; i++ {
		m.touched[i] = true
	}
}

// load fills an image from a sparse file.
func (m *image) load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := f.ReadAt(m.mem[from:at], from); err != nil {
			return err
		}
		m.touch(from, at-from)
	}
}

// write makes a sparse file of an image and of a cut after it.
func (m *image) write(path string, t *tape, c cutAt, fstype string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(m.mem))); err != nil {
		return err
	}
	for i, is := range m.touched {
		if off := int64(i) * part; is {
			if _, err := f.WriteAt(m.mem[off:min(off+part, int64(len(m.mem)))], off); err != nil {
				return err
			}
		}
	}
	b, err := unix.Mmap(int(f.Fd()), 0, len(m.mem), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	t.apply(c, b, fstype)
	return unix.Munmap(b)
}
