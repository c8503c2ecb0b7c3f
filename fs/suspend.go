package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/volume"
)

// pruneBatch is how many nodes one notification names at most.
const pruneBatch = 1024

// Suspend makes the mounted volume inaccessible: what was written, through
// mappings too, becomes durable, the kernel drops the pages, attributes and
// unused names it has cached, the keys are wiped, and requests fail with ENOKEY
// until Resume. An access to a mapping is SIGBUS. The mount itself stays, and
// what is open in it. The error is of making data durable; the rest is done.
func (s *Server) Suspend() error { return s.adapter.suspend() }

// Resume undoes Suspend, with the keys the volume had; with others it returns
// cipher.ErrOtherKeys and changes nothing.
func (s *Server) Resume(k cipher.Keys) error { return s.adapter.v.Resume(k) }

// Inaccessible reports whether the volume is suspended.
func (s *Server) Inaccessible() bool { return s.adapter.v.Inaccessible() }

// suspend runs on a goroutine of its own: the kernel answers a notification
// after requests that it has to make for it, and other goroutines serve those.
func (a *adapter) suspend() error {
	if a.v.Inaccessible() {
		return nil
	}
	err := a.v.Suspend(func() {
		// Writes the dirty pages and drops all. A page that someone was copying
		// from stays the first time. None comes back: a read is refused.
		a.dropCaches()
		a.dropCaches()
	})
	// Once more for answers that were on their way, and for names.
	a.dropCaches()
	a.dropNames()
	return err
}

// dropCaches has the kernel drop the pages, attributes and ACLs of all nodes.
func (a *adapter) dropCaches() {
	ids := make(chan volume.NodeID)
	var wg sync.WaitGroup
	for range notifySlots {
		wg.Go(func() {
			for n := range ids {
				a.server.InodeNotify(uint64(n), 0, 0) // one the kernel no longer knows is fine
			}
		})
	}
	for _, n := range a.v.Known() {
		ids <- n
	}
	close(ids)
	wg.Wait()
}

// dropNames has the kernel forget the names that nobody uses, where it can. Those
// that stay give nothing away that their directory does not ask us first.
func (a *adapter) dropNames() {
	var nodes []uint64
	for _, n := range a.v.Known() {
		if n == volume.RootID {
			continue
		}
		if nodes = append(nodes, uint64(n)); len(nodes) == pruneBatch {
			if a.server.PruneNotify(nodes) == fuse.ENOSYS {
				return
			}
			nodes = nodes[:0]
		}
	}
	a.server.PruneNotify(nodes)
}
