package volume

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/fs/backing/faultfs"
)

// TestFilesOfTheJournalAreOpenedFirst has one file with live records among many
// without: after a crash it is the first that is opened.
func TestFilesOfTheJournalAreOpenedFirst(t *testing.T) {
	v := newVolume(t, 4096)
	e := engine{v}
	names := map[string]string{} // plain by backing
	for d := range 4 {
		must(t, e.Mkdir(fmt.Sprint("d", d), 0o700))
		for f := range 20 {
			f1, err := e.Create(fmt.Sprintf("d%d/f%d", d, f), 0o600)
			must(t, err)
			must(t, f1.Close())
		}
	}
	must(t, v.journal.Drain())
	h := v.makeFile("last", []byte("content"))
	must(t, h.Sync(false))
	must(t, e.Rename("last", "d2/last", 0))
	dir, err := v.Lookup(RootID, "d2")
	must(t, err)
	n, open, err := v.dirOf(dir.ID)
	must(t, err)
	v.dirs.done(open)
	for d := range 4 {
		at, err := v.Lookup(RootID, fmt.Sprint("d", d))
		must(t, err)
		node, open, err := v.dirOf(at.ID)
		must(t, err)
		v.dirs.done(open)
		for f := range 20 {
			b, err := v.nameIn(node, fmt.Sprint("f", f))
			must(t, err)
			names[b.name] = fmt.Sprintf("d%d/f%d", d, f)
		}
	}
	b, err := v.nameIn(n, "last")
	must(t, err)
	names[b.name] = "d2/last"
	v.abandon()

	spy := faultfs.New(v.root())
	var mu sync.Mutex
	var opened []string
	spy.Set(faultfs.Plan{Kind: faultfs.Open, Skip: 1 << 30, Match: func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		if plain, ok := names[name]; ok {
			opened = append(opened, plain)
		}
		return false
	}})
	w, err := Open(Config{Root: spy.Root(), Cipher: v.cipher, JournalSegment: testSegment(v.cipher), JournalSize: 6 * testSegment(v.cipher)})
	must(t, err)
	w.walk.Wait()
	must(t, w.Close())
	v.open()
	if len(opened) < 81 || opened[0] != "d2/last" { // a file that stayed open is opened once more
		t.Errorf("%d files opened, d2/last as number %d, want all 81, and it first", len(opened), slices.Index(opened, "d2/last"))
	}
}

// The backing filesystem is synced for removed files the less often the longer
// that takes.
func TestRemovedFilesAreCollectedLongerOnASlowDisk(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: time.Second, 10 * time.Millisecond: time.Second, 200 * time.Millisecond: 4 * time.Second, time.Minute: 20 * time.Second,
	} {
		if got := reapAfter(took); got != want {
			t.Errorf("a sync of %v: next after %v, want %v", took, got, want)
		}
	}
}
