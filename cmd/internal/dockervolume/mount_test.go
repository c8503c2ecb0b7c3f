package dockervolume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func TestUsesAreASet(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.wantCalls("make")
	at := r.mustMount("db", "a")
	for range 3 { // Docker repeats after a time-out
		if again := r.mustMount("db", "a"); again != at {
			t.Errorf("mounted at %s, then at %s", at, again)
		}
	}
	r.mustMount("db", "b")
	r.wantCalls("mount db")
	r.wantNames("db:2")
	r.mustUnmount("db", "a")
	r.mustUnmount("db", "a")
	r.mustUnmount("db", "unknown")
	r.wantCalls("")
	if got, _ := r.Path(context.Background(), "db"); got != at {
		t.Errorf("path %q, want %q", got, at)
	}
	r.mustUnmount("db", "b")
	r.wantCalls("unmount db")
	if got, _ := r.Path(context.Background(), "db"); got != "" {
		t.Errorf("path %q of a volume that nobody uses", got)
	}
	r.mustUnmount("db", "b")
	r.wantCalls("")
}

func TestPluginIsKilledWhileVolumesAreMounted(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	at := r.mustMount("db", "a")
	r.mustMount("db", "b")
	r.restart()
	r.wantNames("db:2")
	r.wantCalls("make, mount db")
	if !r.host.mounted(at) {
		t.Error("the mount did not outlive the plugin")
	}
	r.mustUnmount("db", "a")
	r.mustUnmount("db", "b")
	r.wantCalls("unmount db")
}

// A crash between the mount and its ID leaves a mount for nobody.
func TestMountWithoutAnIDIsLeftOver(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	e := r.entries["db"]
	r.must(r.mount(context.Background(), e))
	r.restart()
	r.wantCalls("make, mount db, unmount db")
	r.wantNames("db:0")
}

func TestIDsOfAnotherBootAreGone(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.mustMount("db", "a")
	r.stop()
	r.boot = "boot-2"
	r.host = newFakeHost()
	r.start()
	r.wantNames("db:0")
	r.mustMount("db", "b")
	r.restart()
	r.wantNames("db:1")
}

func TestDaemonDied(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	at := r.mustMount("db", "a")
	r.wantCalls("make, mount db")
	r.host.kill(at)
	r.mustMount("db", "b")
	r.wantCalls("detach db, mount db")
	// The first container is still there, and ends later.
	r.wantNames("db:2")
	r.mustUnmount("db", "b")
	if !r.host.mounted(at) {
		t.Error("unmounted under somebody")
	}
	r.mustUnmount("db", "a")
	r.wantCalls("unmount db")

	r.mustMount("db", "c")
	r.host.kill(at)
	r.mustUnmount("db", "c")
	r.wantCalls("mount db, detach db")

	r.mustMount("db", "d")
	r.host.kill(at)
	r.restart()
	r.wantCalls("mount db, detach db")
	r.wantNames("db:0")
}

func TestMountThatFailsIsNoUse(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.host.mountErr = errors.New("wrong key")
	r.wantErr(errOf(r.Mount(context.Background(), "db", "a")), "db", "wrong key")
	r.wantNames("db:0")
	r.host.mountErr = nil
	r.mustMount("db", "a")
	r.wantErr(errOf(r.Mount(context.Background(), "nothing", "a")), "no such volume")
}

// A caller that hangs up does not use the volume, whenever it does.
func TestMountWhoseCallerHangsUp(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	ctx, cancel := context.WithCancel(context.Background())
	r.host.mountGate = func(context.Context, string) {
		r.host.mountGate = nil
		cancel()
	}
	r.wantErr(errOf(r.Mount(ctx, "db", "a")), "canceled")
	r.wantNames("db:0")
	r.mustMount("db", "b")
	r.wantNames("db:1")
}

func TestCloseErrorIsReported(t *testing.T) {
	r := newRig(t)
	r.mustCreate("db")
	r.mustMount("db", "a")
	r.host.unmountErr = errors.New("not closed cleanly")
	r.wantErr(r.Unmount(context.Background(), "db", "a"), "not closed cleanly")
	r.wantNames("db:0")
}

// A mount that takes its time holds up requests about its volume, and no
// other.
func TestALongMountHoldsUpNobodyElse(t *testing.T) {
	r := newRig(t)
	r.mustCreate("slow")
	r.mustCreate("fast")
	started, end := make(chan struct{}), make(chan struct{})
	r.host.mountGate = func(_ context.Context, source string) {
		if source == r.path("data", "slow") {
			close(started)
			<-end
		}
	}
	done := make(chan error, 1)
	go func() { done <- errOf(r.Mount(context.Background(), "slow", "a")) }()
	<-started
	r.mustMount("fast", "b")
	r.mustCreate("third")
	r.wantNames("fast:1 slow:0 third:0")
	// Another request about it waits no longer than its caller.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	r.wantErr(errOf(r.Mount(ctx, "slow", "c")), "under way")
	close(end)
	r.must(<-done)
	r.wantNames("fast:1 slow:1 third:0")
}

// Many requests about several volumes at once, and one truth in the end.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	const volumes, users = 5, 8
	var wg sync.WaitGroup
	for u := range users {
		for v := range volumes {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(u), uint64(v)))
				name, id := fmt.Sprintf("v%d", v), fmt.Sprintf("u%d", u)
				for range 6 {
					if err := r.create(name); err != nil {
						t.Error(err)
					}
					at, err := r.Mount(context.Background(), name, id)
					if err != nil && !errors.Is(err, errNoVolume) {
						t.Error(err)
					}
					if err == nil && !r.host.mounted(at) {
						t.Errorf("%s is not mounted for %s", name, id)
					}
					if rnd.IntN(2) == 0 {
						r.Remove(context.Background(), name)
					}
					if err := r.Unmount(context.Background(), name, id); err != nil && !errors.Is(err, errNoVolume) {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for v := range volumes {
		r.mustCreate(fmt.Sprintf("v%d", v))
	}
	r.wantNames("v0:0 v1:0 v2:0 v3:0 v4:0")
	if len(r.host.mounts) != 0 {
		t.Errorf("still mounted: %v", r.host.mounts)
	}
	r.restart()
	r.wantNames("v0:0 v1:0 v2:0 v3:0 v4:0")
}
