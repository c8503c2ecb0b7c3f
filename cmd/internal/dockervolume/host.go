package dockervolume

import (
	"context"
	"errors"
)

// Host makes volumes and starts and ends their daemons. Methods are safe for
// concurrent use. A call whose context ends undoes what it did, or leaves it to
// be found by State.
type Host interface {
	// Make makes the volume of a name in dir, which is missing. o has its defaults.
	Make(ctx context.Context, name, dir string, o Options) error
	// Describe reads what a volume says of itself, without keys. dir is its
	// ciphertext directory.
	Describe(name, dir string) (Description, error)
	// Unmake removes what a Make of name in dir that was cut off left elsewhere, and
	// nothing else. It can be repeated.
	Unmake(name, dir string) error
	// Forget removes what was kept elsewhere than in the ciphertext directory of
	// a volume that Make made, or is gone. It can be repeated.
	Forget(name string) error
	// Mount starts a daemon that outlives this process, and returns when it
	// serves the volume in source at target.
	Mount(ctx context.Context, name, source, target string, o Options) error
	// Unmount returns when the volume is closed; ErrBusy if something of this
	// machine still has files open at target, or the volume mounted elsewhere:
	// then it stays mounted. It waits for no more than seconds.
	Unmount(ctx context.Context, source, target string) error
	// State looks at what is mounted at target.
	State(source, target string) (State, error)
	// Detach takes mounts that lost their daemon away from target.
	Detach(target string) error
}

// ErrBusy reports that a volume cannot be unmounted yet.
var ErrBusy = errors.New("busy")

// Description is what plyfs.json says, unverified.
type Description struct {
	Cluster, Group string
	BlockSize      int // bytes
	Layers         int
}

// State is what is known of the mount of a volume.
type State int

const (
	Absent  State = iota // neither a mount nor a daemon
	Serving              // mounted, and its daemon lives
	Dead                 // mounted, and its daemon is gone
	Held                 // not mounted here, but a daemon has the volume open
)
