package blockfile

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// TestStreamEndsBesideFailure has a request of a stream fail while the flush of
// the stream's end is under way, and the power cut after the record.
func TestStreamEndsBesideFailure(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.quietJournal()
	f := d.create("f")
	d.stream(f, 8*4096, 300*4096)
	size := f.Size()
	must(t, f.Sync(true))
	d.stream(f, 8*4096, size+400*4096)
	for f.layout.Slot(f.blockCount(f.Size())) == 0 {
		write(t, f, pattern(3, 4096), f.Size())
	}
	size = f.Size()
	n := f.layout.LastGroup(size)
	var image []byte // the file as it was last flushed
	syncs := 0
	flushed, ended := make(chan struct{}), make(chan error, 1)
	d.hook = func(op string, off, m int64) (int64, error) {
		switch {
		case op == "datasync" || op == "sync":
			syncs++
			image, _ = os.ReadFile(d.file("f"))
			if syncs == 1 {
				close(flushed)
			}
		case op == "write" && off == f.layout.TagOffset(n+1):
			go func() { ended <- f.EndStream() }()
			<-flushed
			return 0, unix.ENOSPC
		}
		return 0, nil
	}
	if _, err := f.WriteAt(pattern(9, 100*4096), size); err == nil {
		t.Error("the request did not fail")
	}
	must(t, <-ended)
	d.hook = allowAll
	must(t, f.j.Commit())
	f.Close()
	must(t, os.WriteFile(d.file("f"), image, 0o600))
	d.recover()
	d.c.Unclean = true
	f = d.mustOpen("f")
	if f.Size() != size {
		t.Errorf("size %d, want %d", f.Size(), size)
	}
	must(t, f.Truncate(size+500*4096))
	p := make([]byte, 60*4096)
	if m, err := f.ReadAt(p, size); err != nil || !bytes.Equal(p[:m], make([]byte, m)) {
		t.Errorf("a hole after the end reads %d bytes, %v", m, err)
	}
}

// TestStreamAfterFailedHeader fails the first sync of a new file, of whose
// failure the kernel tells once: nothing of the file is acknowledged after it.
func TestStreamAfterFailedHeader(t *testing.T) {
	d := newDisk(t, cipher.SuiteDouble, 4096)
	d.quietJournal()
	f := d.create("f")
	failed := false
	d.hook = func(op string, off, n int64) (int64, error) {
		if op == "sync" && !failed {
			failed = true
			return 0, unix.EIO
		}
		return 0, nil
	}
	for i := 0; !f.Streaming() && i < 200; i++ {
		f.WriteAt(pattern(1, 8*4096), f.Size())
	}
	if !failed {
		t.Fatal("nothing was synced")
	}
	if err := f.Sync(true); err == nil {
		t.Error("acknowledged, though the header may be lost")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
