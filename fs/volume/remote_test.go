package volume

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
	"github.com/plyfs/plyfs/fs/backing/faultfs"
	"golang.org/x/sys/unix"
)

// remoteScripts rely on syncfs where there is a disk.
var remoteScripts = map[string]func(r *crashRun){
	"unlink what is not home": func(r *crashRun) {
		r.checkpointAll()
		r.write("a", 0, 5000)
		r.sync("a", true)
		r.close("a")
		r.unlink("a")
		r.checkpointAll()
		r.more("b")
	},
	"replace what streamed": func(r *crashRun) {
		r.checkpointAll()
		r.write("a", 4096, 5000)
		r.sync("a", true)
		r.grow("a", 300_000)
		r.close("a")
		r.create("x")
		r.write("x", 0, 6000)
		r.rename("x", "a")
		r.checkpointAll()
		r.more("b")
	},
}

// more gives the power some moments to fail at, with all before committed.
func (r *crashRun) more(name string) {
	for i := range int64(8) {
		r.write(name, i*5000, 10)
		r.sync(name, true)
	}
}

// newRemoteRun prepares a volume on what a FUSE server shows of a disk.
func newRemoteRun(t *testing.T) *crashRun {
	t.Helper()
	fs := crashfs.New()
	fs.Remote = true
	r := newRunOn(t, crashCipher(t), fs)
	r.prepare()
	return r
}

// survivesAll lets the power fail at one moment, in as many ways as so many seeds
// yield.
func survivesAll(t *testing.T, image *crashfs.Image, o *oracle, seeds int) {
	t.Helper()
	c := crashCipher(t)
	for how, choose := range crashHow(1, seeds) {
		if err := survive(t, c, image.Crash(choose), o, false, nil); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// TestCrashRemote lets the power fail beneath the server of a FUSE filesystem, to
// which syncfs makes nothing durable.
func TestCrashRemote(t *testing.T) { runCrashScripts(t, remoteScripts, true) }

// TestCrashAfterEndRemote lets it fail after a clean unmount.
func TestCrashAfterEndRemote(t *testing.T) {
	r := newRemoteRun(t)
	r.create("x")
	r.create("y")
	r.close("x")
	r.syncDir()
	doing := "ending"
	r.end(&doing)
	survivesAll(t, r.fs.Snapshot(), r.o, 5)
}

// TestCrashAfterKilledTrimRemote kills the daemon while a file streams, and the
// next one just when it has cut off what that left; the third has the file grow
// over it, and then the power fails.
func TestCrashAfterKilledTrimRemote(t *testing.T) {
	r := newRemoteRun(t)
	r.checkpointAll()
	r.grow("a", 120_000)
	r.sync("a", false)
	r.grow("a", 420_000)
	r.streams("a", true)
	second, o := r.fs.Snapshot().Killed(), r.o.clone()
	doing := "ending"
	r.end(&doing)
	var mu sync.Mutex
	var cut *crashfs.Image
	after := false
	second.OnOp(func(op crashfs.Op) {
		mu.Lock()
		defer mu.Unlock()
		if after && cut == nil {
			cut = second.Snapshot()
		}
		after = after || op == crashfs.OpTruncate
	})
	v, err := Open(crashConfig(second, r.v.cipher))
	check(t, err)
	v.walk.Wait()
	check(t, v.Close())
	if cut == nil {
		t.Fatal("nothing was cut off")
	}
	third := growAfter(t, r.v.cipher, cut.Killed(), o)
	rnd := rand.New(rand.NewPCG(1, 12))
	states := 0
	for k, m := range third.moments {
		if rnd.IntN(oneIn(6)) > 0 {
			continue
		}
		for how, choose := range crashHow(uint64(k), 1) {
			states++
			if err := survive(t, r.v.cipher, m.image.Crash(choose), m.o, false, nil); err != nil {
				t.Fatalf("operation %d (%s), %s: %v", k, m.op, how, err)
			}
		}
	}
	t.Logf("%d states", states)
}

// TestCrashAfterAStreamWasRemovedRemote removes a file that has streamed, and
// unmounts cleanly; the removal is lost with the server's power.
func TestCrashAfterAStreamWasRemovedRemote(t *testing.T) {
	streamed := func(r *crashRun) {
		r.checkpointAll()
		r.write("a", 4096, 5000)
		r.sync("a", true)
		r.grow("a", 300_000)
		r.streams("a", true)
		r.close("a")
	}
	for name, script := range map[string]func(r *crashRun){
		"unlink": func(r *crashRun) {
			streamed(r)
			r.unlink("a")
		},
		"replace": func(r *crashRun) {
			streamed(r)
			r.create("x")
			r.write("x", 0, 6000)
			r.rename("x", "a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemoteRun(t)
			script(r)
			r.v.homing.Lock() // what the reaper does a second later
			gone, err := r.v.dropRemoved()
			r.v.homing.Unlock()
			check(t, err)
			if len(gone) != 1 {
				t.Fatal("nothing dropped")
			}
			doing := "ending"
			r.end(&doing)
			survivesAll(t, r.fs.Snapshot(), r.o, 30)
		})
	}
}

// TestCrashWhileFrozenRemote lets power fail beneath the server of a frozen volume
// with an open file that was never written to.
func TestCrashWhileFrozenRemote(t *testing.T) {
	r := newRemoteRun(t)
	r.create("x") // open, never written
	r.syncDir()
	f, err := r.v.Freeze(context.Background())
	check(t, err)
	if !f.Clean {
		t.Fatal("not clean")
	}
	image, o := r.fs.Snapshot(), r.o.clone()
	check(t, r.v.Thaw())
	doing := "ending"
	r.end(&doing)
	survivesAll(t, image, o, 10)
}

// TestCloseOfRemovedRemote fails the sync of a file that is gone: it is worth a
// try, and no reason to stop.
func TestCloseOfRemovedRemote(t *testing.T) {
	r := newRemoteRun(t)
	r.checkpointAll()
	r.create("x")
	r.unlink("x")
	r.disk.Set(faultfs.Plan{Kind: faultfs.Sync, Times: 1, Err: unix.ESTALE, Match: isHome})
	last := len(r.o.files) - 1
	check(t, r.handles[last].Close())
	delete(r.handles, last)
	if r.disk.Hits() == 0 {
		t.Error("it was not even tried")
	}
	check(t, r.v.journal.Drain()) // by then the volume has been told
	if r.v.broken.Load() {
		t.Errorf("read-only for the sake of a file that is gone")
	}
}
