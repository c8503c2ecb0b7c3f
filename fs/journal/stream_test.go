package journal

import (
	"sync"
	"testing"
	"time"

	"github.com/plyfs/plyfs/fs/backing/crashfs"
)

// TestStreamsEndForWhoWaits has streams hold the space of a journal, and somebody
// wait for it who could not be helped by any checkpoint.
func TestStreamsEndForWhoWaits(t *testing.T) {
	fs := crashfs.New()
	format(t, fs.Root(), 1)
	w := mustMount(t, fs.Root(), 1, func(c *Config) { c.Size = 2 * testSegment })
	w.j.Start(w)
	mustWrite(t, w, 0, 1)
	n := w.j.MaxSpace()
	var mu sync.Mutex
	open := map[*Stream]*Reservation{}
	mu.Lock()
	for {
		r := w.j.TryReserve(Space(1, 1, 1, testBlock))
		if r == nil {
			break
		}
		var s *Stream
		s = w.j.OpenStream(func() error {
			mu.Lock()
			defer mu.Unlock()
			s.Close()
			open[s].Release()
			return nil
		})
		open[s] = r
	}
	mu.Unlock()
	if len(open) == 0 {
		t.Fatal("no stream got space")
	}
	done := make(chan error, 1)
	go func() {
		for range 2 { // the first may fit
			if _, err := w.j.Reserve(n); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(time.Minute):
		t.Error("who waits gets nothing while streams are open")
	}
	w.abandon()
}
