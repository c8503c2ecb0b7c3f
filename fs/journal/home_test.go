package journal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

const (
	testBlock   = 4096
	testSegment = 64 << 10
)

// testAuth stands in for the authenticator of both layers.
type testAuth string

func (a testAuth) Sum(dst []byte, parts ...[]byte) {
	m := hmac.New(sha256.New, []byte(a))
	for _, p := range parts {
		m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		m.Write(p)
	}
	m.Sum(dst[:0])
}

func (a testAuth) Verify(tag []byte, parts ...[]byte) bool {
	var sum [TagSize]byte
	a.Sum(sum[:], parts...)
	return hmac.Equal(tag, sum[:])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testLayout(t testing.TB) cipher.Layout {
	l, err := cipher.NewLayout(testBlock)
	must(t, err)
	return l
}

func fileID(n int) cipher.FileID { return cipher.FileID{15: byte(n)} }

// content is what a file holds: for each present block the stamp it was
// written with.
type content struct {
	size   int64
	blocks map[uint64]uint64
}

func (c content) clone() content { return content{c.size, maps.Clone(c.blocks)} }

func (c content) String() string { return fmt.Sprintf("size %d, %v", c.size, c.blocks) }

// stampBlock makes a body or entry that shows any tear.
func stampBlock(n int, file cipher.FileID, index, stamp uint64) []byte {
	b := make([]byte, 0, n+24)
	for len(b) < n {
		b = binary.BigEndian.AppendUint64(b, stamp)
		b = binary.BigEndian.AppendUint64(b, index<<8|uint64(file[15]))
	}
	return b[:n]
}

// world is a home of a few files with their journal, on one backing.
type world struct {
	t     testing.TB
	l     cipher.Layout
	dir   backing.Dir
	super *Super
	j     *Journal
	cfg   Config
	files map[cipher.FileID]*homeFile
	stamp uint64
	// beforeDone, if not nil, is called between the sync of a checkpoint and
	// its report.
	beforeDone func(cipher.FileID)
	// beforeCopy, if not nil, is called between a checkpoint's look at what is
	// to be done and its doing it.
	beforeCopy func(cipher.FileID)
	// stuck are files whose checkpoint fails, whole or for odd groups.
	stuck map[cipher.FileID]stuckness
}

type stuckness int

const (
	stuckFile stuckness = iota + 1
	stuckGroups
)

var errTestStuck = errors.New("test: this cannot go home")

// homeFile is a file at home, in the layout of the product but without crypto:
// a stand-in for blockfile, and a model of how to use this package.
type homeFile struct {
	w  *world
	mu sync.Mutex // orders changes and the copying of groups
	f  backing.File
	jf *File
}

func homeName(n int) string { return fmt.Sprintf("home-%d", n) }

// format makes n empty files and a journal on dir.
func format(t testing.TB, dir backing.Dir, n int) {
	t.Helper()
	must(t, CreateSuper(dir, testAuth("key"), nil))
	for i := range n {
		f, err := dir.OpenFile(homeName(i), unix.O_RDWR|unix.O_CREAT, 0o600)
		must(t, err)
		h := &homeFile{w: &world{l: testLayout(t)}, f: f}
		must(t, h.putHeader(0, 0))
		must(t, h.putTag(0, make([]byte, 4096), 0, 0))
		must(t, f.Sync())
	}
	must(t, dir.Sync())
}

// mount opens what format made.
func mount(t testing.TB, dir backing.Dir, n int, change func(*Config)) (*world, error) {
	super, err := OpenSuper(dir, testAuth("key"))
	if err != nil {
		return nil, err
	}
	w := &world{t: t, l: testLayout(t), dir: dir, super: super, files: map[cipher.FileID]*homeFile{}}
	w.cfg = Config{
		Super: super, Dir: dir, Auth: testAuth("key"), Layout: w.l,
		Size: 3 * testSegment, SegmentSize: testSegment, CommitInterval: time.Hour, CheckpointInterval: time.Hour, MaxRequest: 4096,
	}
	if change != nil {
		change(&w.cfg)
	}
	if w.j, err = Open(w.cfg); err != nil {
		return nil, err
	}
	w.j.home = w
	for i := range n {
		flags := unix.O_RDWR
		if w.cfg.ReadOnly {
			flags = unix.O_RDONLY
		}
		f, err := dir.OpenFile(homeName(i), flags, 0)
		if err != nil {
			return nil, err
		}
		w.files[fileID(i)] = &homeFile{w: w, f: f, jf: w.j.File(fileID(i), uint64(i))}
	}
	return w, nil
}

func mustMount(t testing.TB, dir backing.Dir, n int, change func(*Config)) *world {
	t.Helper()
	w, err := mount(t, dir, n, change)
	must(t, err)
	return w
}

// unmount is a clean one.
func (w *world) unmount() error {
	if err := w.j.Drain(); err != nil {
		return err
	}
	if err := w.dir.SyncAll(); err != nil {
		return err
	}
	return w.j.Close(true)
}

// abandon stops goroutines as a kill would, without writing.
func (w *world) abandon() {
	w.j.mu.Lock()
	w.j.err = errors.New("killed")
	w.j.mu.Unlock()
	w.j.Close(false)
	w.super.Close()
}

const homeTrailer = 24 // present 8, LSN 8, crc 4 of both, rest unused

func (h *homeFile) putTag(g uint64, tag []byte, present uint64, lsn LSN) error {
	b := tag[4096-homeTrailer:]
	binary.BigEndian.PutUint64(b, present)
	binary.BigEndian.PutUint64(b[8:], uint64(lsn))
	binary.BigEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:16])|1)
	if g == 0 { // the header lies in the same block and stays
		_, err := h.f.WriteAt(tag[cipher.HeaderSize:], cipher.HeaderSize)
		return err
	}
	_, err := h.f.WriteAt(tag, h.w.l.TagOffset(g))
	return err
}

// tag returns a tag block from home. ok is false where it is all zero.
func (h *homeFile) tag(g uint64) (tag []byte, present uint64, ok bool, err error) {
	tag = make([]byte, 4096)
	if err := readFull(h.f, tag, h.w.l.TagOffset(g)); err != nil {
		return nil, 0, false, err
	}
	if bytes.Equal(tag, make([]byte, 4096)) {
		return tag, 0, false, nil
	}
	b := tag[4096-homeTrailer:]
	if crc32.ChecksumIEEE(b[:16])|1 != binary.BigEndian.Uint32(b[16:]) {
		return nil, 0, false, fmt.Errorf("group %d: trailer does not verify", g)
	}
	return tag, binary.BigEndian.Uint64(b), true, nil
}

func (h *homeFile) putHeader(size int64, last uint64) error {
	b := make([]byte, 20)
	binary.BigEndian.PutUint64(b, uint64(size))
	binary.BigEndian.PutUint64(b[8:], last)
	binary.BigEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:16]))
	_, err := h.f.WriteAt(b, 512)
	return err
}

func (h *homeFile) size() (int64, error) {
	if size, _, _, ok := h.jf.Size(); ok {
		return size, nil
	}
	b := make([]byte, 20)
	if err := readFull(h.f, b, 512); err != nil {
		return 0, err
	}
	if crc32.ChecksumIEEE(b[:16]) != binary.BigEndian.Uint32(b[16:]) {
		return 0, errors.New("header does not verify")
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// present returns a group's presence bits, 0 where it is absent.
func (h *homeFile) present(g uint64) (uint64, error) {
	if t, _, ok := h.jf.Trailer(g); ok {
		return t.Present, nil
	}
	if h.jf.Void(g) {
		return 0, nil
	}
	_, present, _, err := h.tag(g)
	return present, err
}

// block reads one present block and returns its stamp.
func (h *homeFile) block(id cipher.FileID, i uint64) (uint64, error) {
	body, entry := make([]byte, testBlock), make([]byte, cipher.EntrySize)
	from := "home"
	pin := h.w.j.Pin()
	b, live := h.jf.Block(i)
	var err error
	if live {
		from = "the journal"
		err = errors.Join(h.w.j.ReadAt(entry, b.Entry), h.w.j.ReadAt(body, b.Body))
	}
	pin.Unpin()
	if !live {
		if _, err = h.f.ReadAt(body, h.w.l.BlockOffset(i)); err == nil {
			_, err = h.f.ReadAt(entry, h.w.l.EntryOffset(i))
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("home is too short")
		}
	}
	if err != nil {
		return 0, fmt.Errorf("block %d: %w", i, err)
	}
	stamp := binary.BigEndian.Uint64(body)
	if !bytes.Equal(body, stampBlock(testBlock, id, i, stamp)) || !bytes.Equal(entry, stampBlock(cipher.EntrySize, id, i, stamp)) {
		return 0, fmt.Errorf("block %d from %s does not open", i, from)
	}
	return stamp, nil
}

// content reads all of a file.
func (h *homeFile) content(id cipher.FileID) (content, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	size, err := h.size()
	if err != nil {
		return content{}, err
	}
	c := content{size, map[uint64]uint64{}}
	for i := range uint64(size / testBlock) {
		present, err := h.present(h.w.l.Group(i))
		if err != nil {
			return c, err
		}
		if present>>h.w.l.Slot(i)&1 == 0 {
			continue
		}
		if c.blocks[i], err = h.block(id, i); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (w *world) contents() (map[cipher.FileID]content, error) {
	all := map[cipher.FileID]content{}
	for id, h := range w.files {
		c, err := h.content(id)
		if err != nil {
			return nil, fmt.Errorf("file %d: %w", id[15], err)
		}
		all[id] = c
	}
	return all, nil
}

// write writes n whole blocks from i on in one record.
func (w *world) write(id cipher.FileID, i uint64, n int) (LSN, uint64, error) {
	h := w.files[id]
	r, err := w.j.Reserve(Space(2, 1, n, n*testBlock))
	if err != nil {
		return 0, 0, err
	}
	defer r.Release()
	h.mu.Lock()
	defer h.mu.Unlock()
	w.stamp++
	rec := &Record{Size: NoSize, Cut: NoCut, MtimeSec: int64(w.stamp), Extents: []Extent{{First: i}}}
	for k := i; k < i+uint64(n); k++ {
		e := &rec.Extents[0]
		e.Entries = append(e.Entries, stampBlock(cipher.EntrySize, id, k, w.stamp)...)
		e.Bodies = append(e.Bodies, stampBlock(testBlock, id, k, w.stamp)...)
		g := w.l.Group(k)
		if m := len(rec.Trailers); m == 0 || rec.Trailers[m-1].Group != g {
			present, err := h.present(g)
			if err != nil {
				return 0, 0, err
			}
			rec.Trailers = append(rec.Trailers, Trailer{Group: g, Present: present, Epoch: 1})
		}
		rec.Trailers[len(rec.Trailers)-1].Present |= 1 << w.l.Slot(k)
	}
	size, err := h.size()
	if err != nil {
		return 0, 0, err
	}
	if end := int64(i+uint64(n)) * testBlock; end > size {
		rec.Size, rec.Last = end, w.l.LastGroup(end)
	}
	lsn, err := h.jf.Append(r, rec)
	return lsn, w.stamp, err
}

// truncate sets the size to so many blocks.
func (w *world) truncate(id cipher.FileID, blocks uint64) (LSN, error) {
	h := w.files[id]
	r, err := w.j.Reserve(Space(1, 0, 0, 0))
	if err != nil {
		return 0, err
	}
	defer r.Release()
	h.mu.Lock()
	defer h.mu.Unlock()
	size, err := h.size()
	if err != nil {
		return 0, err
	}
	w.stamp++
	rec := &Record{Size: int64(blocks) * testBlock, Cut: NoCut, MtimeSec: int64(w.stamp)}
	rec.Last = w.l.LastGroup(rec.Size)
	if rec.Size < size {
		rec.Cut = blocks
		g := w.l.Group(blocks)
		present, err := h.present(g)
		if err != nil {
			return 0, err
		}
		if g == 0 || w.l.FirstBlock(g) < blocks {
			rec.Trailers = []Trailer{{Group: g, Present: present & (1<<w.l.Slot(blocks) - 1), Epoch: 1}}
		}
	}
	return h.jf.Append(r, rec)
}

// punch makes holes of n blocks of one group.
func (w *world) punch(id cipher.FileID, i uint64, n int) (LSN, error) {
	h := w.files[id]
	r, err := w.j.Reserve(Space(1, 0, 0, 0))
	if err != nil {
		return 0, err
	}
	defer r.Release()
	h.mu.Lock()
	defer h.mu.Unlock()
	present, err := h.present(w.l.Group(i))
	if err != nil {
		return 0, err
	}
	w.stamp++
	present &^= (1<<n - 1) << w.l.Slot(i)
	return h.jf.Append(r, &Record{
		Size: NoSize, Cut: NoCut, MtimeSec: int64(w.stamp),
		Trailers: []Trailer{{Group: w.l.Group(i), Present: present, Epoch: 1}},
	})
}
