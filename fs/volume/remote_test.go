package volume

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
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

// TestCrashRemote lets the power fail beneath the server of a FUSE filesystem, to
// which syncfs makes nothing durable.
func TestCrashRemote(t *testing.T) { runCrashScripts(t, remoteScripts, true) }

// TestCrashAfterEndRemote lets it fail after a clean unmount.
func TestCrashAfterEndRemote(t *testing.T) {
	c := crashCipher(t)
	fs := crashfs.New()
	fs.Remote = true
	r := newRunOn(t, c, fs)
	r.prepare()
	r.create("x")
	r.create("y")
	r.close("x")
	r.syncDir()
	doing := "ending"
	r.end(&doing)
	image := fs.Snapshot()
	for how, choose := range crashHow(1, 5) {
		if err := survive(t, c, image.Crash(choose), r.o, false, nil); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// TestCrashAfterKilledTrimRemote kills the daemon while a file streams, and the
// next one just when it has cut off what that left; the third has the file grow
// over it, and then the power fails.
func TestCrashAfterKilledTrimRemote(t *testing.T) {
	c := crashCipher(t)
	fs := crashfs.New()
	fs.Remote = true
	r := newRunOn(t, c, fs)
	r.prepare()
	r.checkpointAll()
	r.grow("a", 120_000)
	r.sync("a", false)
	r.grow("a", 420_000)
	r.streams("a", true)
	second, o := fs.Snapshot().Killed(), r.o.clone()
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
	v, err := Open(crashConfig(second, c))
	check(t, err)
	v.walk.Wait()
	check(t, v.Close())
	if cut == nil {
		t.Fatal("nothing was cut off")
	}
	third := growAfter(t, c, cut.Killed(), o)
	rnd := rand.New(rand.NewPCG(1, 12))
	states := 0
	for k, m := range third.moments {
		if rnd.IntN(oneIn(6)) > 0 {
			continue
		}
		for how, choose := range crashHow(uint64(k), 1) {
			states++
			if err := survive(t, c, m.image.Crash(choose), m.o, false, nil); err != nil {
				t.Fatalf("operation %d (%s), %s: %v", k, m.op, how, err)
			}
		}
	}
	t.Logf("%d states", states)
}
