package volume

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// crashScale multiplies the number of runs: make crash gives more.
var crashScale = flag.Int("crash.scale", 1, "how much longer crash tests run")

// oracle knows what a crash may leave. Content of a file is one of a list of
// versions, the acknowledged one or later: each request makes one. What a name
// leads to is one of the candidates since its directory was last synced.
type oracle struct {
	files []*knownFile
	names map[string][]candidate
}

type knownFile struct {
	versions [][]byte
	acked    int
}

func (k *knownFile) now() []byte { return k.versions[len(k.versions)-1] }

type candidate struct {
	file int // -1: nothing
	from int // the least version it can have
}

func (o *oracle) clone() *oracle {
	c := &oracle{names: map[string][]candidate{}}
	for _, f := range o.files {
		g := *f
		c.files = append(c.files, &g)
	}
	for name, list := range o.names {
		c.names[name] = slices.Clone(list)
	}
	return c
}

// bound is what a name leads to now, -1 for nothing.
func (o *oracle) bound(name string) int {
	if list := o.names[name]; len(list) > 0 {
		return list[len(list)-1].file
	}
	return -1
}

// judge compares a volume with what it may be.
func (o *oracle) judge(v *Volume) error {
	for name, list := range o.names {
		got, err := contentAt(v, name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !slices.ContainsFunc(list, func(c candidate) bool { return o.fits(c, got, err == nil) }) {
			return fmt.Errorf("%s: present %v with %d bytes, starting %x, fits none of %v", name, err == nil, len(got), got[:min(len(got), 8)], list)
		}
	}
	return nil
}

func (o *oracle) fits(c candidate, got []byte, present bool) bool {
	if c.file < 0 || !present {
		return c.file < 0 && !present
	}
	f := o.files[c.file]
	return slices.ContainsFunc(f.versions[max(f.acked, c.from):], func(want []byte) bool { return bytes.Equal(got, want) })
}

func contentAt(v *Volume, name string) ([]byte, error) {
	e, err := v.Lookup(RootID, name)
	if err != nil {
		return nil, err
	}
	defer v.Forget(e.ID, 1)
	h, err := v.Open(e.ID, OpenOptions{})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if st, err := v.GetAttr(e.ID); err != nil || st.Size != h.Size() || e.Attr.Size != h.Size() {
		return nil, fmt.Errorf("stat says %d and %d bytes, open %d: %w", e.Attr.Size, st.Size, h.Size(), err)
	}
	p := make([]byte, h.Size())
	n, err := h.ReadAt(p, 0)
	if err == nil && n < len(p) {
		err = fmt.Errorf("read %d of %d bytes", n, len(p))
	}
	return p, err
}

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

func newCrashRun(t testing.TB, c *cipher.Volume) *crashRun {
	t.Helper()
	r := &crashRun{t: t, fs: crashfs.New(), handles: map[int]*Handle{}, o: &oracle{names: map[string][]candidate{}}}
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

// crashScripts are short runs of every operation.
var crashScripts = map[string]func(r *crashRun){
	"create": func(r *crashRun) { r.create("x"); r.sync("x", false); r.syncDir() },
	"create, no sync": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 5000)
		r.syncDir()
		r.sync("a", true)
		r.checkpointAll()
	},
	"overwrite": func(r *crashRun) { r.write("a", 4096, 8192); r.sync("a", true); r.checkpointAll() },
	"part": func(r *crashRun) {
		r.write("a", 100, 50)
		r.write("a", 5000, 3000)
		r.sync("a", true)
		r.checkpointAll()
	},
	"append": func(r *crashRun) {
		r.write("a", 20_000, 700)
		r.sync("a", true)
		r.write("a", 20_700, 700)
		r.sync("a", true)
		r.checkpointAll()
	},
	"new group": func(r *crashRun) { r.write("a", 200_000, 9000); r.sync("a", true); r.checkpointAll() },
	"fill a gap": func(r *crashRun) {
		r.write("a", 1_000_000, 10)
		r.sync("a", true)
		r.checkpointAll()
		r.write("a", 500_000, 10)
		r.sync("a", true)
		r.checkpointAll()
	},
	"truncate":   func(r *crashRun) { r.truncate("a", 5000); r.sync("a", true); r.checkpointAll() },
	"to nothing": func(r *crashRun) { r.truncate("a", 0); r.sync("a", false); r.checkpointAll() },
	"grow":       func(r *crashRun) { r.truncate("a", 600_000); r.sync("a", true); r.checkpointAll() },
	"regrow": func(r *crashRun) {
		r.truncate("b", 3000)
		r.write("b", 250_000, 5000)
		r.sync("b", true)
		r.checkpointAll()
	},
	"cut twice": func(r *crashRun) {
		r.truncate("b", 300_000)
		r.truncate("b", 9000)
		r.truncate("b", 310_000)
		r.sync("b", true)
		r.checkpointAll()
	},
	"punch":       func(r *crashRun) { r.punch("b", 1000, 20_000); r.sync("b", true); r.checkpointAll() },
	"zero range":  func(r *crashRun) { r.zero("b", 319_000, 20_000); r.sync("b", true); r.checkpointAll() },
	"allocate":    func(r *crashRun) { r.allocate("b", 0, 400_000); r.sync("b", true); r.checkpointAll() },
	"rename":      func(r *crashRun) { r.rename("a", "x"); r.syncDir(); r.write("x", 0, 10); r.sync("x", true) },
	"unlink":      func(r *crashRun) { r.write("a", 0, 5000); r.close("a"); r.unlink("a"); r.checkpointAll(); r.syncDir() },
	"unlink open": func(r *crashRun) { r.write("a", 0, 5000); r.unlink("a"); r.checkpointAll(); r.syncDir() },
	"replace": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.rename("x", "a")
		r.syncDir()
		r.checkpointAll()
	},
	"replace closed": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.close("x")
		r.close("a")
		r.rename("x", "a")
		r.checkpointAll()
		r.syncDir()
	},
	"freeze": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.write("a", 4096, 5000)
		r.frozen()
		r.write("a", 0, 4096)
		r.write("x", 3000, 6000)
		r.sync("x", true)
		r.checkpointAll()
	},
	"freeze twice": func(r *crashRun) {
		r.truncate("b", 9000)
		r.frozen()
		r.frozen()
		r.truncate("b", 30_000)
		r.sync("b", true)
		r.frozen()
		r.write("b", 0, 10)
	},
	"stuck": func(r *crashRun) {
		r.stick("a")
		r.write("a", 0, 9000)
		r.punch("a", 12_000, 5000)
		r.sync("a", true)
		r.fill()
		r.heal()
		r.checkpointAll()
		r.write("a", 0, 100)
		r.sync("a", true)
	},
	"stuck and cut": func(r *crashRun) {
		r.write("a", 300_000, 5000)
		r.checkpointAll()
		r.stick("a")
		r.truncate("a", 5000)
		r.write("a", 250_000, 5000)
		r.write("a", 100, 100)
		r.sync("a", true)
		r.fill()
		r.write("a", 255_000, 5000)
		r.sync("a", true)
		r.heal()
		r.checkpointAll()
		r.fill()
	},
	"sync after checkpoint": func(r *crashRun) {
		r.create("x")
		r.write("x", 0, 6000)
		r.checkpointAll()
		r.write("x", 3000, 6000)
		r.sync("x", true)
		r.truncate("x", 100)
		r.checkpointAll()
		r.sync("x", false)
	},
}

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

// crashHow are the ways of a crash.
func crashHow(seed uint64, seeds int) map[string]crashfs.Chooser {
	how := map[string]crashfs.Chooser{
		"lost": crashfs.Lost, "kept": crashfs.Kept,
		"names": crashfs.Only(crashfs.KindName), "sizes": crashfs.Only(crashfs.KindSize, crashfs.KindName),
		"sectors": crashfs.Only(crashfs.KindSector, crashfs.KindName),
	}
	for i := range seeds {
		s := seed*1000 + uint64(i)
		how[fmt.Sprint("seed ", s)] = crashfs.Seed(s)
	}
	return how
}

// survive opens what a crash left, read-only and then to write, compares, goes
// on writing, and ends cleanly. again, if not nil, hears of each operation.
func survive(t testing.TB, c *cipher.Volume, fs *crashfs.FS, o *oracle, goOn bool, again func(crashfs.Op)) error {
	t.Helper()
	config := crashConfig(fs, c)
	config.ReadOnly = true
	v, err := Open(config)
	if err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	var changed error
	fs.OnOp(func(op crashfs.Op) { changed = fmt.Errorf("a read-only volume did a %s", op) })
	err = o.judge(v)
	if cerr := v.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = changed
	}
	if err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	fs.OnOp(again)
	if v, err = Open(crashConfig(fs, c)); err != nil {
		return err
	}
	err = o.judge(v)
	if err == nil && goOn {
		err = v.journal.Drain()
		if err == nil {
			err = o.judge(v)
		}
		if err == nil {
			err = useOn(v)
		}
	}
	v.walk.Wait()
	if cerr := v.Close(); err == nil {
		err = cerr
	}
	fs.OnOp(nil)
	if err != nil || goOn {
		return err
	}
	if v, err = Open(crashConfig(fs, c)); err != nil {
		return fmt.Errorf("after a clean end: %w", err)
	}
	if v.unclean.Load() {
		err = errors.New("unclean after a clean end")
	} else {
		err = o.judge(v)
	}
	if cerr := v.Close(); err == nil {
		err = cerr
	}
	return err
}

// useOn changes all there is and reads it back.
func useOn(v *Volume) error {
	for i, name := range []string{"a", "b", "x", "y", "new"} {
		e, h, err := v.Create(RootID, name, Creator{Mode: 0o600}, OpenOptions{})
		if errors.Is(err, unix.EEXIST) {
			if e, err = v.Lookup(RootID, name); err == nil {
				h, err = v.Open(e.ID, OpenOptions{})
			}
		}
		if err != nil {
			return fmt.Errorf("%s afterwards: %w", name, err)
		}
		want, err := contentAt(v, name)
		if err != nil {
			return fmt.Errorf("%s afterwards: %w", name, err)
		}
		p := bytes.Repeat([]byte{byte(i + 1)}, 10_000)
		for _, off := range []int64{0, 100_000, 777_777} {
			if _, err := h.WriteAt(p, off, Writer{}); err != nil {
				return fmt.Errorf("write of %s afterwards: %w", name, err)
			}
			got := make([]byte, len(p))
			if _, err := h.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
				return fmt.Errorf("read of %s afterwards: %v", name, err)
			}
			want = grown(want, off+int64(len(p)))
			copy(want[off:], p)
		}
		if got, err := contentAt(v, name); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s afterwards is not what it was and what was written: %v", name, err)
		}
		v.Forget(e.ID, 1)
		if err := h.Close(); err != nil {
			return err
		}
	}
	return nil
}

// crashStride is how many operations apart the power fails in a script of so many.
func crashStride(moments int) int {
	if *crashScale == 1 {
		return max(2, moments/20)
	}
	return max(1, moments/200)
}

// TestCrashScripts lets the power fail at every operation of short scripts.
func TestCrashScripts(t *testing.T) { runCrashScripts(t, crashScripts) }

func runCrashScripts(t *testing.T, scripts map[string]func(r *crashRun)) {
	c := crashCipher(t)
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newCrashRun(t, c)
			doing := "preparing"
			r.prepare()
			if len(name)%2 == 0 { // else all of it is in the journal still
				r.checkpointAll()
			}
			r.record(&doing)
			scripts[name](r)
			r.end(&doing)
			states := 0
			for at, m := range r.moments {
				if (at+len(name))%crashStride(len(r.moments)) > 0 {
					continue
				}
				for how, choose := range crashHow(uint64(at), 2**crashScale) {
					states++
					if err := survive(t, c, m.image.Crash(choose), m.o, (at+states)%5 == 0, nil); err != nil {
						t.Fatalf("operation %d of %d (%s), %s: %v", at, len(r.moments), m.op, how, err)
					}
				}
			}
			t.Logf("%d states", states)
		})
	}
}

// step does something random.
func (r *crashRun) step(rnd *rand.Rand) string {
	names := []string{"a", "b", "x", "y"}
	name, other := names[rnd.IntN(4)], names[rnd.IntN(4)]
	off, n := rnd.Int64N(400_000), rnd.IntN(12_000)+1
	if rnd.IntN(2) == 0 {
		off = off / 4096 * 4096
	}
	if i := r.o.bound(name); i >= 0 && rnd.IntN(3) == 0 {
		off = int64(len(r.o.files[i].now()))
	}
	switch k := rnd.IntN(33); {
	case k >= 30:
		r.grow(name, rnd.Int64N(600_000))
		return "grow"
	case k < 10:
		r.write(name, off, n)
		return "write"
	case k < 12:
		r.truncate(name, off)
		return "truncate"
	case k < 14:
		r.punch(name, off, int64(n)*3)
		return "punch"
	case k < 15:
		r.zero(name, off, int64(n))
		return "zero"
	case k < 16:
		r.allocate(name, off, int64(n))
		return "allocate"
	case k < 20:
		r.sync(name, k < 18)
		return "sync"
	case k < 21:
		r.syncDir()
		return "syncDir"
	case k < 23:
		r.create(name)
		return "create"
	case k < 24:
		r.rename(name, other)
		return "rename"
	case k < 25:
		r.unlink(name)
		return "unlink"
	case k < 27:
		r.close(name)
		return "close"
	case k < 28:
		time.Sleep(60 * time.Millisecond) // what waits in memory is written
		return "wait"
	default:
		r.checkpointAll()
		return "checkpoint"
	}
}

func randomRun(t testing.TB, c *cipher.Volume, seed uint64, steps int) *crashRun {
	r := newCrashRun(t, c)
	rnd := rand.New(rand.NewPCG(seed, 7))
	doing := "preparing"
	r.prepare()
	r.record(&doing)
	for range steps {
		what := r.step(rnd)
		r.tell(func(*oracle) { doing = "after " + what })
	}
	r.end(&doing)
	return r
}

// TestCrashAnywhere lets the power fail at operations of random runs.
func TestCrashAnywhere(t *testing.T) {
	c := crashCipher(t)
	for seed := range uint64(4 * *crashScale) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := randomRun(t, c, seed, 60)
			rnd := rand.New(rand.NewPCG(seed, 8))
			states := 0
			for at, m := range r.moments {
				if rnd.IntN(5) > 0 && *crashScale == 1 {
					continue
				}
				for how, choose := range crashHow(seed<<20|uint64(at), 2) {
					states++
					if err := survive(t, c, m.image.Crash(choose), m.o, states%5 == 0, nil); err != nil {
						t.Fatalf("seed %d, operation %d of %d (%s, %s), %s: %v", seed, at, len(r.moments), m.op, m.doing, how, err)
					}
				}
			}
			t.Logf("%d states", states)
		})
	}
}

// TestCrashInRecovery lets the power fail a second time, while what the first
// time left is recovered and checkpointed.
func TestCrashInRecovery(t *testing.T) {
	c := crashCipher(t)
	states := 0
	for seed := range uint64(2 * *crashScale) {
		r := randomRun(t, c, 100+seed, 60)
		rnd := rand.New(rand.NewPCG(seed, 9))
		for range 4 * min(*crashScale, 3) {
			at := rnd.IntN(len(r.moments))
			m := r.moments[at]
			first := rnd.Uint64()
			fs := m.image.Crash(crashfs.Seed(first))
			var mu sync.Mutex
			var again []*crashfs.Image
			if err := survive(t, c, fs, m.o, false, func(crashfs.Op) {
				mu.Lock()
				defer mu.Unlock()
				again = append(again, fs.Snapshot())
			}); err != nil {
				t.Fatalf("seed %d, operation %d, crash %d: %v", seed, at, first, err)
			}
			for k, im := range again {
				if rnd.IntN(4) > 0 {
					continue
				}
				for how, choose := range crashHow(first, 1) {
					states++
					if err := survive(t, c, im.Crash(choose), m.o, states%5 == 0, nil); err != nil {
						t.Fatalf("seed %d, operation %d, crash %d, operation %d of recovery, %s: %v", seed, at, first, k, how, err)
					}
				}
			}
		}
	}
	t.Logf("%d states", states)
}
