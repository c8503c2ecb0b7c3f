package volume

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

// TestCrashStreams is TestCrashScripts with files that stream.
func TestCrashStreams(t *testing.T) { runCrashScripts(t, streamScripts, false) }

// grow appends to a file until it is size bytes long, in requests of whole
// blocks and at last one that is not.
func (r *crashRun) grow(name string, size int64) {
	for r.o.bound(name) >= 0 {
		at := int64(len(r.o.files[r.o.bound(name)].now()))
		if at >= size {
			return
		}
		r.write(name, at, int(min(size-at, 12_288)))
	}
}

// streams says whether a file should stream. That it does not is no error: a
// commit or a lack of room may have come between, on a slow machine.
func (r *crashRun) streams(name string, want bool) {
	r.t.Helper()
	_, h := r.fileOf(name)
	switch got := h.file.Streaming(); {
	case got && !want:
		r.t.Fatalf("%s of %d bytes streams", name, h.Size())
	case want && !got:
		r.t.Logf("%s of %d bytes does not stream", name, h.Size())
	}
}

// streamScripts are of files that stream.
var streamScripts = map[string]func(r *crashRun){
	"stream": func(r *crashRun) {
		r.create("x")
		r.syncDir()
		r.grow("x", 420_000)
		r.streams("x", true)
		r.sync("x", true)
		r.streams("x", false)
		r.checkpointAll()
	},
	"stream of an old file": func(r *crashRun) {
		r.grow("a", 300_000)
		r.streams("a", true)
		r.write("b", 0, 5000)
		r.sync("b", true)
		r.checkpoint("a")
		r.grow("a", 420_000)
		r.sync("a", true)
		r.grow("a", 650_000)
		r.streams("a", true)
		r.sync("a", true)
		r.checkpointAll()
	},
	"stream beside a checkpoint": func(r *crashRun) {
		r.write("a", 0, 8192)
		r.grow("a", 200_000)
		r.streams("a", true)
		r.checkpoint("a")
		r.streams("a", true)
		r.grow("a", 250_000)
		r.checkpoint("a")
		r.sync("a", true)
	},
	"stream, overwrite": func(r *crashRun) {
		r.grow("a", 200_000)
		r.streams("a", true)
		r.write("a", 4096, 8192)
		r.streams("a", false)
		r.grow("a", 500_000)
		r.streams("a", true)
		r.write("a", 410_000, 9000)
		r.sync("a", true)
		r.checkpointAll()
	},
	"stream, written again": func(r *crashRun) {
		r.grow("a", 180_001)
		r.streams("a", true)
		r.write("a", 172_032, 8000)
		r.write("a", 180_001, 3001)
		r.write("a", 183_002, 7000)
		r.streams("a", true)
		r.sync("a", true)
		r.checkpointAll()
	},
	"stream, truncate": func(r *crashRun) {
		r.grow("a", 400_000)
		r.streams("a", true)
		r.truncate("a", 250_001)
		r.streams("a", false)
		r.grow("a", 450_000)
		r.sync("a", true)
		r.truncate("a", 30_000)
		r.grow("a", 420_000)
		r.checkpointAll()
		r.grow("a", 620_000)
		r.streams("a", true)
		r.sync("a", true)
	},
	"cut, stream over it": func(r *crashRun) {
		r.grow("b", 420_000)
		r.streams("b", true)
		r.sync("b", true)
		r.write("a", 0, 6000) // keeps the older records
		r.truncate("b", 150_000)
		r.checkpoint("b")
		r.grow("b", 380_000)
		r.streams("b", true)
		r.sync("b", true)
		r.write("b", 300_000, 4096)
		r.sync("b", true)
		r.checkpointAll()
	},
	"cut in the journal alone, stream over it": func(r *crashRun) {
		r.checkpointAll()
		r.grow("a", 60_000)
		r.truncate("a", 30_000)
		r.grow("a", 190_000)
		r.sync("a", true)
		r.checkpointAll()
	},
	"cut, a hole, stream": func(r *crashRun) {
		r.checkpointAll()
		r.truncate("b", 30_000)
		r.truncate("b", 393_216)
		r.grow("b", 700_000)
		r.sync("b", true)
		r.checkpointAll()
	},
	"stream, grow": func(r *crashRun) {
		r.grow("a", 200_000)
		r.streams("a", true)
		r.truncate("a", 900_000)
		r.sync("a", true)
		r.write("a", 500_000, 5000)
		r.sync("a", true)
		r.checkpointAll()
	},
	"stream lost, grow": func(r *crashRun) {
		r.grow("a", 420_000)
		r.streams("a", true)
		r.write("b", 5, 5)
		r.sync("b", true)
	},
	"stream, punch": func(r *crashRun) {
		r.grow("a", 300_000)
		r.streams("a", true)
		r.punch("a", 150_000, 50_000)
		r.zero("a", 290_000, 30_000)
		r.sync("a", true)
		r.checkpointAll()
	},
	"stream, write far": func(r *crashRun) {
		r.grow("a", 300_000)
		r.streams("a", true)
		r.write("a", 1_000_000, 10)
		r.sync("a", true)
		r.write("a", 700_000, 10)
		r.sync("a", true)
		r.checkpointAll()
	},
	"stream, rename over": func(r *crashRun) {
		r.create("x")
		r.grow("x", 300_000)
		r.streams("x", true)
		r.close("x")
		r.rename("x", "a")
		r.syncDir()
		r.checkpointAll()
	},
	"stream, unlink": func(r *crashRun) {
		r.grow("a", 300_000)
		r.streams("a", true)
		r.unlink("a")
		r.syncDir()
		r.close("a")
		r.checkpointAll()
		r.grow("b", 450_000)
		r.streams("b", true)
		r.close("b")
		r.unlink("b")
		r.checkpointAll()
	},
	"two streams": func(r *crashRun) {
		r.create("x")
		for size := int64(100_000); size <= 500_000; size += 50_000 {
			r.grow("x", size)
			r.grow("a", size)
		}
		r.streams("x", true)
		r.streams("a", true)
		r.sync("a", true)
		r.grow("x", 550_000)
		r.syncDir()
		r.sync("x", false)
		r.checkpointAll()
	},
}

// checkpoint brings home what records say of a file, and leaves its stream.
func (r *crashRun) checkpoint(name string) {
	_, h := r.fileOf(name)
	c, err := h.file.Checkpoint(1 << 60)
	check(r.t, err)
	if c != nil {
		err = c.Sync()
		c.End(err == nil)
		check(r.t, err)
	}
}

// TestCrashAfterStream lets the power fail while files stream, has the files grow
// over what that left beyond their ends, and lets it fail again.
func TestCrashAfterStream(t *testing.T) {
	c := crashCipher(t)
	for i, name := range slices.Sorted(maps.Keys(streamScripts)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newCrashRun(t, c)
			doing := "preparing"
			r.prepare()
			r.record(&doing)
			streamScripts[name](r)
			r.end(&doing)
			rnd := rand.New(rand.NewPCG(uint64(i), 11))
			states := 0
			for range 2 * *crashScale {
				at := rnd.IntN(len(r.moments))
				m := r.moments[at]
				first := rnd.Uint64()
				second := growAfter(t, c, m.image.Crash(crashfs.Seed(first)), m.o)
				for k, m := range second.moments {
					if rnd.IntN(oneIn(12)) > 0 {
						continue
					}
					for how, choose := range crashHow(first, 2) {
						states++
						if err := survive(t, c, m.image.Crash(choose), m.o, states%5 == 0, nil); err != nil {
							t.Fatalf("operation %d (%s), crash %d, operation %d (%s), %s: %v", at, r.moments[at].op, first, k, m.op, how, err)
						}
					}
				}
			}
			t.Logf("%d states", states)
		})
	}
}

// growAfter opens what a crash left, takes what is there for what it is to be
// from then on, and has the files grow in ways that leave holes.
func growAfter(t *testing.T, c *cipher.Volume, fs *crashfs.FS, before *oracle) *crashRun {
	r := &crashRun{t: t, fs: fs, handles: map[int]*Handle{}, o: &oracle{names: map[string][]candidate{}}}
	doing := "growing"
	var err error
	r.v, err = Open(crashConfig(fs, c))
	check(t, err)
	for _, name := range slices.Sorted(maps.Keys(before.names)) {
		got, err := contentAt(r.v, name)
		if errors.Is(err, unix.ENOENT) {
			r.o.names[name] = []candidate{{-1, 0}}
			continue
		}
		check(t, err)
		r.o.names[name] = []candidate{{len(r.o.files), 0}}
		r.o.files = append(r.o.files, &knownFile{versions: [][]byte{got}})
	}
	check(t, before.judge(r.v))
	r.record(&doing)
	for i, name := range slices.Sorted(maps.Keys(r.o.names)) {
		if f := r.o.bound(name); f >= 0 {
			size := int64(len(r.o.files[f].now()))
			r.truncate(name, size+int64(i+1)*150_000)
			r.sync(name, true)
			r.write(name, size+700_000, 5000)
			r.sync(name, true)
		}
	}
	r.checkpointAll()
	r.end(&doing)
	return r
}

// BenchmarkWriteNew writes new files of 32 MiB, each synced at its end, in turn
// with streams, by way of the journal alone, and without one. Beside the time it
// tells the processor's, which other work on the machine leaves alone.
func BenchmarkWriteNew(b *testing.B) {
	kinds := []struct {
		name string
		c    Config
	}{{"streams", Config{}}, {"inline", Config{streamFrom: -1}}, {"unjournaled", Config{unjournaled: true}}}
	c := crashCipher(b)
	p := bytes.Repeat([]byte{1}, 1<<20)
	walls, cpus := make([][]float64, len(kinds)), make([][]float64, len(kinds))
	volumes := make([]*Volume, len(kinds))
	for i, k := range kinds {
		root, err := backing.OpenDir(b.TempDir())
		check(b, err)
		check(b, Format(root, c))
		k.c.Root, k.c.Cipher = root, c
		volumes[i], err = Open(k.c)
		check(b, err)
	}
	for n := 0; b.Loop(); n++ {
		for _, i := range rand.Perm(len(kinds)) {
			v := volumes[i]
			var before, after unix.Rusage
			unix.Getrusage(unix.RUSAGE_SELF, &before)
			start := time.Now()
			_, h, err := v.Create(RootID, fmt.Sprint(n%4, "-", n), Creator{Mode: 0o600}, OpenOptions{})
			check(b, err)
			for off := range int64(32) {
				_, err := h.WriteAt(p, off<<20, Writer{})
				check(b, err)
			}
			check(b, h.Sync(false))
			walls[i] = append(walls[i], time.Since(start).Seconds())
			unix.Getrusage(unix.RUSAGE_SELF, &after)
			cpus[i] = append(cpus[i], float64(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano())/1e9)
			check(b, h.Close())
			check(b, v.Unlink(RootID, fmt.Sprint(n%4, "-", n)))
		}
	}
	for i, k := range kinds {
		slices.Sort(walls[i])
		slices.Sort(cpus[i])
		b.ReportMetric(walls[i][len(walls[i])/2]*1e3, k.name+"-ms")
		b.ReportMetric(cpus[i][len(cpus[i])/2]*1e3, k.name+"-cpu-ms")
		check(b, volumes[i].Close())
	}
}
