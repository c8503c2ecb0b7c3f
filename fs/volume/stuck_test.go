package volume

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamagedFileDoesNotStopOthers has records of a file that does not open any
// more, since its header at home is lost: the other files are written to as long
// as they like, the error names the file, and once its header is back all that
// was acknowledged is there.
func TestDamagedFileDoesNotStopOthers(t *testing.T) {
	v := newVolume(t, 4096)
	h := v.makeFile("f", bytes.Repeat([]byte("old"), 10_000))
	must(t, h.Sync(false))
	must(t, v.journal.Drain())
	want := bytes.Repeat([]byte("new"), 10_000)
	_, err := h.WriteAt(want, 0, Writer{})
	must(t, err)
	must(t, h.Sync(false))
	path := v.backing("f")
	v.abandon()
	back, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append(bytes.Repeat([]byte("x"), 4096), back[4096:]...), 0o600))

	v.open()
	v.walk.Wait()
	g := v.makeFile("g", nil)
	p := make([]byte, 16_384)
	const writes = 20 * 6 * 40 / 4 // the journal, twenty times
	for i := range writes {
		p[0] = byte(i)
		if _, err := g.WriteAt(p, int64(i%20)*16_384, Writer{}); err != nil {
			t.Fatalf("write %d of another file: %v", i, err)
		}
	}
	must(t, g.Sync(false))
	if err := v.journal.Drain(); err == nil || !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Errorf("the checkpoint says %v, want the backing path of the damaged file", err)
	}
	v.abandon()

	must(t, os.WriteFile(path, back, 0o600))
	v.open()
	if got, err := contentAt(v.Volume, "f"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, want all that was acknowledged", len(got), err)
	}
	if got, err := contentAt(v.Volume, "g"); err != nil || len(got) != 20*16_384 || got[19*16_384] != p[0] {
		t.Errorf("the other file has %d bytes, starting %x, %v", len(got), got[:1], err)
	}
	v.walk.Wait()
}
