package volume

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
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
	switch {
	case testing.Short():
		return max(5, moments/4)
	case *crashScale == 1:
		return max(2, moments/20)
	}
	return max(1, moments/200)
}

// oneIn says how rarely the power fails in a long run, where normally it does
// at one operation in n: with -short, which the race detector makes slow, once
// in a while.
func oneIn(n int) int {
	switch {
	case testing.Short():
		return 10 * n
	case *crashScale == 1:
		return n
	}
	return 1
}

// TestCrashScripts lets the power fail at every operation of short scripts.
func TestCrashScripts(t *testing.T) { runCrashScripts(t, crashScripts, false) }

// runCrashScripts does so on a disk, or on what a FUSE server shows of one.
func runCrashScripts(t *testing.T, scripts map[string]func(r *crashRun), remote bool) {
	c := crashCipher(t)
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs := crashfs.New()
			fs.Remote = remote
			r := newRunOn(t, c, fs)
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
				if rnd.IntN(oneIn(5)) > 0 {
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
				if rnd.IntN(max(4, oneIn(4))) > 0 {
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
