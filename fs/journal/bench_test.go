package journal

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/backing"
)

// benchJournal opens a journal on a real directory, with the real MACs.
func benchJournal(b *testing.B) *Journal {
	b.Helper()
	dir, err := backing.OpenDir(b.TempDir())
	must(b, err)
	b.Cleanup(func() { dir.Close() })
	v, err := cipher.NewVolume(cipher.Params{Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: testBlock}, 1, cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}, nil)
	must(b, err)
	auth := v.Authenticator("journal")
	must(b, CreateSuper(dir, auth, nil))
	super, err := OpenSuper(dir, auth)
	must(b, err)
	j, err := Open(Config{Super: super, Dir: dir, Auth: auth, Layout: v.Layout(), Size: 64 << 20, SegmentSize: 16 << 20, CheckpointInterval: time.Hour})
	must(b, err)
	j.Start(forgetful{j})
	b.Cleanup(func() { j.Close(false) })
	return j
}

// forgetful is a home that costs nothing.
type forgetful struct{ j *Journal }

func (h forgetful) Checkpoint(files []Ref, through LSN) ([]cipher.FileID, error) {
	for _, r := range files {
		f := h.j.file(r.ID)
		d, err := f.Dirty(through)
		if err != nil {
			return nil, err
		}
		done := Done{Header: d.Header, Mtime: d.Mtime, Cut: d.Cut}
		for _, g := range d.Groups {
			_, lsn, _ := f.Trailer(g)
			done.Groups = append(done.Groups, GroupDone{g, lsn})
		}
		f.Checkpointed(done)
		f.Close()
	}
	return nil, nil
}

// put appends a record of n blocks.
func put(j *Journal, f *File, l cipher.Layout, index uint64, n int, bodies, entries []byte) (LSN, error) {
	r, err := j.Reserve(Space(3, 1, n, n*testBlock))
	if err != nil {
		return 0, err
	}
	defer r.Release()
	rec := &Record{Size: NoSize, Cut: NoCut, Extents: []Extent{{index, entries[:n*cipher.EntrySize], bodies[:n*testBlock]}}}
	for g := l.Group(index); g <= l.Group(index+uint64(n)-1); g++ {
		t := Trailer{Group: g, Epoch: 1, Present: 1<<cipher.EntriesPerGroup - 1}
		if g == 0 {
			t.Present &^= 1<<cipher.HeaderSlots - 1
		}
		rec.Trailers = append(rec.Trailers, t)
	}
	return f.Append(r, rec)
}

// BenchmarkCommit is a write and its fsync, by 1 and by 16 callers.
func BenchmarkCommit(b *testing.B) {
	l, _ := cipher.NewLayout(testBlock)
	bodies, entries := make([]byte, 4*testBlock), make([]byte, 4*cipher.EntrySize)
	for _, n := range []int{1, 4} {
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%dKiB/%d", 4*n, callers), func(b *testing.B) {
				j := benchJournal(b)
				for range 4000 { // every segment once, so that all are recycled
					f := j.file(fileID(0))
					_, err := put(j, f, l, 100, 4, bodies, entries)
					must(b, err)
				}
				b.SetBytes(int64(n * testBlock))
				b.ResetTimer()
				var wg sync.WaitGroup
				var next atomic.Int64
				for k := range callers {
					wg.Add(1)
					go func() {
						defer wg.Done()
						f := j.file(fileID(k))
						for next.Add(1) <= int64(b.N) {
							lsn, err := put(j, f, l, uint64(k)*200, n, bodies, entries)
							if err == nil {
								err = j.Commit(lsn)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					}()
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkAppend is writing without fsync, 1 MiB at a time.
func BenchmarkAppend(b *testing.B) {
	l, _ := cipher.NewLayout(testBlock)
	bodies, entries := make([]byte, 256*testBlock), make([]byte, 256*cipher.EntrySize)
	j := benchJournal(b)
	f := j.file(fileID(0))
	b.SetBytes(1 << 20)
	for b.Loop() {
		_, err := put(j, f, l, 1000, 256, bodies, entries)
		must(b, err)
	}
}

// BenchmarkPlain is what the disk does: append and fdatasync to a file that
// grows, and to one that is overwritten.
func BenchmarkPlain(b *testing.B) {
	for _, grow := range []bool{true, false} {
		b.Run(map[bool]string{true: "grow", false: "overwrite"}[grow], func(b *testing.B) {
			dir, err := backing.OpenDir(b.TempDir())
			must(b, err)
			f, err := dir.OpenFile("f", unix.O_RDWR|unix.O_CREAT, 0o600)
			must(b, err)
			if !grow {
				must(b, fillZero(f, 16<<20))
			}
			p := make([]byte, 4096)
			off := int64(0)
			for b.Loop() {
				if off += 4096; !grow {
					off %= 16 << 20
				}
				_, err := f.WriteAt(p, off)
				must(b, err)
				must(b, f.Datasync())
			}
		})
	}
}
