package dockervolume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCreateIsIdempotent(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db", "block-size=16384")
	r.mustCreate("db", "block-size=16384")
	// What is not said means the default, said or not.
	r.mustCreate("db", "block-size=16384", "cluster=default", "layers=2")
	r.wantCalls("make")
	for _, other := range []string{"block-size=8192", "group=web", "layers=1", "journal-size=64M", "cipherdir=/x"} {
		r.wantErr(r.create("db", other), "exists with other options", "block-size=16384")
	}
	r.wantErr(r.create("db"), "other options")
	r.wantNames("db:0")
	r.restart()
	r.mustCreate("db", "block-size=16384")
	r.wantErr(r.create("db"), "other options")
	r.wantCalls("")
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.host.makeErr = errors.New("no key store")
	r.wantErr(r.create("db"), "db", "no key store")
	r.wantNames("")
	if left := r.holds("new") + r.holds("data"); left != "" {
		t.Errorf("left %q", left)
	}
	r.host.makeErr = nil
	r.mustCreate("db")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.wantErr(r.Create(ctx, "late", nil), "canceled")
	r.wantNames("db:0")
}

// What a crash in the middle of a Create leaves: half a volume in new/, or a
// whole one in data/ that no state file knows.
func TestCreateOverACrash(t *testing.T) {
	r := newRig(t)
	r.mustCreate("old")
	r.stop()
	half := filepath.Join(r.dir, "state/new/db.0123")
	whole := filepath.Join(r.dir, "state/data/whole")
	r.must(os.MkdirAll(filepath.Join(half, "x"), 0o755))
	r.must(os.Mkdir(whole, 0o755))
	r.must(writeVolume(whole, Description{"default", "default", 4096, 2}))
	r.start()
	r.wantNames("old:0 whole:0")
	r.mustCreate("whole") // Docker asks again, with the same options
	r.mustCreate("db")
	if left := r.holds("new"); left != "" {
		t.Errorf("new/ holds %q", left)
	}
}

// What a Create that was cut off left elsewhere goes too, but nothing of a volume
// that is there.
func TestCreateCutOffIsForgotten(t *testing.T) {
	r := newRig(t)
	r.mustCreate("known")
	r.stop()
	r.host.called()
	for _, half := range []string{"new/d.b.0123", "new/known.0123", "new/whole.0123", "new/whole.4567", "new/lost+found", "data/whole"} {
		r.must(os.Mkdir(filepath.Join(r.dir, "state", half), 0o755))
	}
	r.must(writeVolume(filepath.Join(r.dir, "state/data/whole"), Description{"default", "default", 4096, 2}))
	r.start()
	r.wantCalls("unmake d.b")
	r.wantNames("known:0 whole:0")
	if left := r.holds("new"); left != "" {
		t.Errorf("new/ holds %q", left)
	}
}

// Without its state file the plugin finds its volumes again.
func TestStateFileLost(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db", "block-size=65536", "group=web")
	r.stop()
	r.must(os.Remove(filepath.Join(r.dir, "state", stateName)))
	r.must(os.Mkdir(filepath.Join(r.dir, "state/data/junk"), 0o755))
	r.start()
	r.wantNames("db:0")
	r.mustCreate("db", "block-size=65536", "group=web")
	r.wantErr(r.create("junk"), "no volume that this plugin knows")
}

func TestRemove(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.mustCreate("db")
	r.mustMount("db", "a")
	r.wantErr(r.Remove(ctx, "db"), "in use")
	r.wantNames("db:1")
	r.mustUnmount("db", "a")
	r.must(r.Remove(ctx, "db"))
	r.background.Wait()
	if left := r.holds("data") + r.holds("trash") + r.holds("mnt"); left != "" {
		t.Errorf("left %q", left)
	}
	r.wantErr(r.Remove(ctx, "db"), "no such volume")
	r.mustCreate("db", "block-size=8192") // the name is free
	r.restart()
	r.wantNames("db:0")
}

func TestRemoveRefusesWhatIsHeld(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.mustCreate("db")
	at := r.mustMount("db", "a")
	r.host.files[at] = true
	r.mustUnmount("db", "a") // stays mounted
	r.wantErr(r.Remove(ctx, "db"), "files are open")
	r.wantNames("db:0")
	delete(r.host.files, at)
	r.host.held[r.path("data", "db")] = true
	r.wantErr(r.Remove(ctx, "db"), "another process")
	delete(r.host.held, r.path("data", "db"))
	r.must(r.Remove(ctx, "db"))
	r.wantNames("")
}

// What was written into the mountpoint while nothing was mounted there is not
// lost, and does not keep the name.
func TestRemoveWithSomethingInTheMountpoint(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.mustCreate("db")
	at := r.mustMount("db", "a")
	r.mustUnmount("db", "a")
	stray := filepath.Join(at, "stray")
	r.must(os.WriteFile(stray, nil, 0o600))
	r.wantErr(r.Remove(ctx, "db"), at, "stray", "move that away")
	r.wantNames("db:0")
	if r.holds("data") != "db" {
		t.Error("the volume is destroyed")
	}
	r.must(os.Remove(stray))
	r.must(r.Remove(ctx, "db"))

	r.mustCreate("db")
	r.mustMount("db", "a")
	r.mustUnmount("db", "a")
	r.entries["db"].Removing = true // from here on there is no way back
	r.must(os.WriteFile(stray, nil, 0o600))
	r.must(r.Remove(ctx, "db"))
	r.mustCreate("db")
	r.mustMount("db", "a")
	r.wantNames("db:1")
}

// The files of a container that has ended may be closed a little later.
func TestRemoveWaitsForWhatIsEnding(t *testing.T) {
	r := newRig(t)
	r.config.Settle = time.Minute
	r.mustCreate("db")
	at := r.mustMount("db", "a")
	r.host.open(at, true)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		time.Sleep(2 * settleStep)
		r.host.open(at, false)
	}()
	r.mustUnmount("db", "a")
	r.must(r.Remove(context.Background(), "db"))
	<-closed
	r.wantNames("")
}

// An ID that Docker forgot does not keep a volume for ever: once its mount has
// gone, so has what it held.
func TestRemoveAfterTheMountHasGone(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.host.kill(r.mustMount("db", "forgotten"))
	r.must(r.Remove(context.Background(), "db"))
	r.wantNames("")
}

// A removal that was cut off at any point is finished by the next plugin.
func TestRemoveOverACrash(t *testing.T) {
	for _, renamed := range []bool{false, true} {
		r := newRig(t)
		r.mustCreate("db")
		r.mustCreate("other")
		e := r.entries["db"]
		e.Removing = true
		r.must(r.save())
		if renamed {
			r.must(os.Rename(r.path("data", "db"), r.path("trash", "db.1")))
		}
		r.wantErr(errOf(r.Mount(context.Background(), "db", "a")), "being removed")
		r.restart()
		r.wantNames("other:0")
		r.background.Wait()
		if got := r.holds("data") + "|" + r.holds("trash"); got != "other|" {
			t.Errorf("renamed=%v: left %q", renamed, got)
		}
		r.mustCreate("db", "block-size=8192")
	}
}

// A removal that failed half way is finished by a Create of the same name.
func TestCreateAfterARemovalThatFailed(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.entries["db"].Removing = true
	r.wantNames("")
	r.mustCreate("db", "block-size=8192")
	r.wantNames("db:0")
}

func errOf(_ string, err error) error { return err }
