package volume

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// crashRun does things to a volume on a crashfs, and keeps an oracle.
type crashRun struct {
	t       testing.TB
	fs      *crashfs.FS
	disk    *faultfs.FS // between the two
	v       *Volume
	handles map[int]*Handle // of known files
	stamp   int

	mu      sync.Mutex // guards what follows
	o       *oracle
	moments []crashMoment
}

type crashMoment struct {
	image *crashfs.Image
	o     *oracle
	op    crashfs.Op
	doing string
}

func crashConfig(fs *crashfs.FS, c *cipher.Volume) Config {
	var log *slog.Logger
	if os.Getenv("PLYFS_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return Config{Root: fs.Root(), Cipher: c, Log: log, JournalSegment: testSegment(c), JournalSize: 6 * testSegment(c), streamFrom: 8000}
}

func crashCipher(t testing.TB) *cipher.Volume {
	c, err := cipher.NewVolume(cipher.Params{
		Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: 4096, VolumeID: cipher.VolumeID{1},
	}, 1, cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newCrashRun(t testing.TB, c *cipher.Volume) *crashRun { return newRunOn(t, c, crashfs.New()) }

func newRunOn(t testing.TB, c *cipher.Volume, fs *crashfs.FS) *crashRun {
	t.Helper()
	r := &crashRun{t: t, fs: fs, handles: map[int]*Handle{}, o: &oracle{names: map[string][]candidate{}}}
	check(t, Format(r.fs.Root(), c))
	r.disk = faultfs.New(r.fs.Root())
	config := crashConfig(r.fs, c)
	config.Root = r.disk.Root()
	var err error
	r.v, err = Open(config)
	check(t, err)
	return r
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// record photographs the disk at each operation from now on.
func (r *crashRun) record(doing *string) {
	r.fs.OnOp(func(op crashfs.Op) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.moments = append(r.moments, crashMoment{r.fs.Snapshot(), r.o.clone(), op, *doing})
	})
}

// end stops photographing, takes a last picture, and ends the volume.
func (r *crashRun) end(doing *string) {
	r.fs.OnOp(nil)
	r.mu.Lock()
	r.moments = append(r.moments, crashMoment{r.fs.Snapshot(), r.o.clone(), "end", *doing})
	r.mu.Unlock()
	for _, h := range r.handles {
		h.Close()
	}
	check(r.t, r.v.Close())
}

func (r *crashRun) tell(f func(o *oracle)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.o)
}

// fileOf returns the number and a handle of what a name leads to.
func (r *crashRun) fileOf(name string) (int, *Handle) {
	i := r.o.bound(name)
	if i < 0 {
		return i, nil
	}
	h := r.handles[i]
	if h == nil {
		e, err := r.v.Lookup(RootID, name)
		check(r.t, err)
		defer r.v.Forget(e.ID, 1)
		h, err = r.v.Open(e.ID, OpenOptions{})
		check(r.t, err)
		r.handles[i] = h
	}
	return i, h
}

func (r *crashRun) close(name string) {
	if i := r.o.bound(name); i >= 0 && r.handles[i] != nil {
		check(r.t, r.handles[i].Close())
		delete(r.handles, i)
	}
}

func (r *crashRun) create(name string) {
	if r.o.bound(name) >= 0 {
		return
	}
	r.tell(func(o *oracle) {
		o.names[name] = append(o.names[name], candidate{len(o.files), 0})
		if len(o.names[name]) == 1 {
			o.names[name] = []candidate{{-1, 0}, {len(o.files), 0}}
		}
		o.files = append(o.files, &knownFile{versions: [][]byte{{}}})
	})
	e, h, err := r.v.Create(RootID, name, Creator{Mode: 0o600}, OpenOptions{})
	check(r.t, err)
	r.v.Forget(e.ID, 1)
	r.handles[len(r.o.files)-1] = h
}

// change makes one request that turns the content into what become returns.
func (r *crashRun) change(name string, become func(old []byte) []byte, do func(h *Handle) error) {
	i, h := r.fileOf(name)
	if i < 0 {
		return
	}
	r.tell(func(o *oracle) {
		f := o.files[i]
		f.versions = append(f.versions, become(slices.Clone(f.now())))
	})
	check(r.t, do(h))
}

func grown(b []byte, size int64) []byte {
	if n := size - int64(len(b)); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	return b
}

func (r *crashRun) write(name string, off int64, n int) {
	r.stamp++
	p := bytes.Repeat([]byte{byte(r.stamp), byte(r.stamp >> 8), byte(off >> 12), 1}, n/4+1)[:n]
	r.change(name, func(b []byte) []byte {
		b = grown(b, off+int64(n))
		copy(b[off:], p)
		return b
	}, func(h *Handle) error {
		_, err := h.WriteAt(p, off, Writer{})
		return err
	})
}

func (r *crashRun) truncate(name string, size int64) {
	i, h := r.fileOf(name)
	if i < 0 {
		return
	}
	r.change(name, func(b []byte) []byte { return grown(b, size)[:size] }, func(*Handle) error {
		_, err := r.v.SetAttr(h.Node(), Change{Mask: ChangeSize, Size: size})
		return err
	})
}

func (r *crashRun) punch(name string, off, n int64) {
	r.change(name, func(b []byte) []byte {
		clear(b[min(off, int64(len(b))):min(off+n, int64(len(b)))])
		return b
	}, func(h *Handle) error { return h.Allocate(punchHole|keepSize, off, n, Writer{}) })
}

func (r *crashRun) zero(name string, off, n int64) {
	r.change(name, func(b []byte) []byte {
		b = grown(b, off+n)
		clear(b[off : off+n])
		return b
	}, func(h *Handle) error { return h.Allocate(zeroRange, off, n, Writer{}) })
}

func (r *crashRun) allocate(name string, off, n int64) {
	r.change(name, func(b []byte) []byte { return grown(b, off+n) },
		func(h *Handle) error { return h.Allocate(0, off, n, Writer{}) })
}

func (r *crashRun) sync(name string, dataOnly bool) {
	i, h := r.fileOf(name)
	if i < 0 {
		return
	}
	n := len(r.o.files[i].versions) - 1
	check(r.t, h.Sync(dataOnly))
	r.tell(func(o *oracle) { o.files[i].acked = n })
}

func (r *crashRun) syncDir() {
	d, err := r.v.OpenDir(RootID)
	check(r.t, err)
	check(r.t, d.Sync())
	d.Close()
	r.tell(func(o *oracle) {
		for name, list := range o.names {
			o.names[name] = list[len(list)-1:]
		}
	})
}

func (r *crashRun) rename(from, to string) {
	i := r.o.bound(from)
	if i < 0 || from == to {
		return
	}
	over := r.o.bound(to) >= 0
	r.tell(func(o *oracle) {
		if len(o.names[to]) == 0 {
			o.names[to] = []candidate{{-1, 0}}
		}
		c := candidate{i, 0}
		if over {
			c.from = len(o.files[i].versions) - 1
		}
		o.names[to] = append(o.names[to], c)
		o.names[from] = append(o.names[from], candidate{-1, 0})
	})
	check(r.t, r.v.Rename(RootID, from, RootID, to, 0))
}

func (r *crashRun) unlink(name string) {
	if r.o.bound(name) < 0 {
		return
	}
	r.tell(func(o *oracle) { o.names[name] = append(o.names[name], candidate{-1, 0}) })
	check(r.t, r.v.Unlink(RootID, name))
}

// frozen freezes the volume, which acknowledges everything, and thaws it.
func (r *crashRun) frozen() {
	f, err := r.v.Freeze(context.Background())
	check(r.t, err)
	if !f.Clean {
		r.t.Error("frozen, and not clean")
	}
	r.tell(func(o *oracle) {
		for _, f := range o.files {
			f.acked = len(f.versions) - 1
		}
		for name, list := range o.names {
			o.names[name] = list[len(list)-1:]
		}
	})
	check(r.t, r.v.Thaw())
}

// stick has the disk refuse to take any more of a file, so that its checkpoint
// fails, until heal.
func (r *crashRun) stick(name string) {
	root, err := r.v.table.get(RootID)
	check(r.t, err)
	b, err := r.v.nameIn(root, name)
	check(r.t, err)
	r.disk.Set(faultfs.Plan{Kind: faultfs.Write, Err: unix.ENOSPC, Short: 700, Match: func(n string) bool { return n == b.name }})
}

func (r *crashRun) heal() { r.disk.Clear() }

// fill writes so much to b that the journal is used up.
func (r *crashRun) fill() {
	const n = 16_000
	size := crashConfig(r.fs, r.v.cipher).JournalSize
	for i := int64(0); i*n < size; i++ {
		r.write("b", i*n%320_000, n)
		if i%8 == 7 {
			r.sync("b", true)
		}
	}
}

func (r *crashRun) checkpointAll() { check(r.t, r.v.journal.Drain()) }

// prepare makes the two files that scripts start from, durable.
func (r *crashRun) prepare() {
	r.create("a")
	r.write("a", 0, 16_000)
	r.write("a", 16_000, 4000)
	r.create("b")
	for off := int64(0); off < 320_000; off += 16_000 {
		r.write("b", off, 16_000)
	}
	r.sync("a", false)
	r.sync("b", false)
	r.syncDir()
}
