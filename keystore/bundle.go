package keystore

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/plyfs/plyfs/cipher"
)

// A host bundle is a key store that holds group keys and no root: what a host of one machine group needs, and nothing
// that leads to the keys of another. It is exported to be carried to the host and imported there into the host's own
// store, which is one of the same kind under a key of the host's own.

// maxKeys is the most group keys of a host bundle, all epochs together.
const maxKeys = 4096

// hostKey is a group key in a host bundle.
type hostKey struct {
	names  Names
	epochs Epochs
	key    *secret
}

// Format prints a placeholder for every verb.
func (k hostKey) Format(f fmt.State, _ rune) { io.WriteString(f, "[group key "+k.names.String()+"]") }

// compare orders by cluster, group and the three epochs from the root down.
func (k hostKey) compare(o hostKey) int {
	return cmp.Or(
		strings.Compare(k.names.Cluster, o.names.Cluster), strings.Compare(k.names.Group, o.names.Group),
		cmp.Compare(k.epochs.Root, o.epochs.Root), cmp.Compare(k.epochs.Cluster, o.epochs.Cluster),
		cmp.Compare(k.epochs.Group, o.epochs.Group))
}

// isHost reports whether the content is that of a host bundle.
func (c *content) isHost() bool { return len(c.keys) > 0 }

// newestKey returns the key of a group at its newest epochs, or nil.
func (c *content) newestKey(n Names) *hostKey {
	for i := len(c.keys) - 1; i >= 0; i-- {
		if c.keys[i].names == n {
			return &c.keys[i]
		}
	}
	return nil
}

// hostKeyAt returns the key of a group at given epochs, or nil.
func (c *content) hostKeyAt(n Names, e Epochs) *hostKey {
	i, ok := slices.BinarySearchFunc(c.keys, hostKey{names: n, epochs: e}, hostKey.compare)
	if !ok {
		return nil
	}
	return &c.keys[i]
}

// hostNames lists the groups of a host bundle, in order.
func (c *content) hostNames() []Names {
	var names []Names
	for _, k := range c.keys {
		if len(names) == 0 || names[len(names)-1] != k.names {
			names = append(names, k.names)
		}
	}
	return names
}

// bundle returns the content of a group's host bundle: its keys at all epochs that are in force, and what was retired
// above it. The caller wipes it.
func (c *content) bundle(p ply, n Names) (*content, error) {
	newest, err := c.newest(n)
	if err != nil {
		return nil, err
	}
	if err := c.checkRetired(n, newest); err != nil {
		return nil, err
	}
	b := &content{}
	for _, r := range c.roots {
		for ec := uint32(1); ec <= newest.Cluster; ec++ {
			for eg := uint32(1); eg <= newest.Group; eg++ {
				e := Epochs{Root: r.epoch, Cluster: ec, Group: eg}
				if c.checkRetired(n, e) != nil {
					continue
				}
				if len(b.keys) >= maxKeys {
					b.wipe()
					return nil, &fault{what: fmt.Sprintf("more than %d epochs of group %s in force", maxKeys, n), kind: ErrUsage,
						hint: "Retire old epochs of the root, the cluster or the group, after volumes were re-wrapped (plyfs key rotate)."}
				}
				b.keys = append(b.keys, hostKey{names: n, epochs: e, key: p.groupKey(r.key, n, e).key})
			}
		}
	}
	for _, r := range c.retired {
		if r.scope == (Names{}) || r.scope == (Names{Cluster: n.Cluster}) || r.scope == n {
			b.retired = append(b.retired, r)
		}
	}
	return b, nil
}

// IsHost reports whether the store holds the group keys of a host bundle, and no root.
func (s *Store) IsHost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content != nil && s.content.isHost()
}

// errHost refuses what takes a root.
func (s *Store) errHost(what string) error {
	return &fault{what: fmt.Sprintf("%s holds the keys of a host, not the roots of a fleet: cannot %s", s.path, what), kind: ErrUsage,
		hint: "Do it where the fleet's key stores are, then export a new bundle and import it here."}
}

// Export writes a group's host bundle to a new file, opened by open's passphrase or a new key file: the group's keys of
// this layer at every epoch in force, and nothing above them. ErrWrongGroup, ErrRetired, ErrExists.
func (s *Store) Export(n Names, path string, open Opener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.find(n); err != nil {
		return err
	}
	if s.content.isHost() {
		return s.errHost("export")
	}
	b, err := s.content.bundle(plyOf(s.header.layer), n)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	defer b.wipe()
	return writeStore(path, s.header.layer, open, b, randomOr(nil))
}

// CreateFromBundle makes a host's key store, with a key file or passphrase of its own, of what a bundle holds. Neither a
// store nor a key file that is there is touched: ErrExists.
func CreateFromBundle(path string, bundle *Store, open Opener) error {
	b, err := bundle.copyBundle()
	if err != nil {
		return err
	}
	defer b.wipe()
	return writeStore(path, bundle.Layer(), open, b, randomOr(nil))
}

// copyBundle returns a copy of a bundle's content, which the caller wipes.
func (s *Store) copyBundle() (*content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil {
		return nil, &fault{what: s.path, kind: cipher.ErrWiped}
	}
	if !s.content.isHost() {
		return nil, &fault{what: s.path + " holds the roots of a fleet and is no host bundle", kind: ErrUsage,
			hint: "Make one with plyfs keystore export; a fleet's roots do not belong on a host."}
	}
	c := &content{retired: slices.Clone(s.content.retired)}
	for _, k := range s.content.keys {
		c.keys = append(c.keys, hostKey{names: k.names, epochs: k.epochs, key: k.key.clone()})
	}
	return c, nil
}

// Import takes a newer bundle of a group that the host's store holds into it, or with add one of a group more. What the
// bundle leaves out of its groups is gone from the store then. ErrStale when the bundle lacks epochs that the store
// has in force and are not retired; ErrWrongKey when it is of another fleet.
func (s *Store) Import(bundle *Store, add bool) error {
	b, err := bundle.copyBundle()
	if err != nil {
		return err
	}
	defer b.wipe()
	if bundle.Layer() != s.Layer() {
		return &fault{what: fmt.Sprintf("%s is a bundle of the %s layer, %s a store of the %s layer", bundle.path, bundle.Layer(), s.path, s.Layer()), kind: ErrWrongKey}
	}
	return s.update(false, func(c *content) error {
		if !c.isHost() {
			return &fault{what: "this key store holds the roots of a fleet", kind: ErrExists,
				hint: "Name another place for the host's keys: --keystore DIR."}
		}
		return c.merge(b, add)
	})
}

// merge takes the groups of b over into c.
func (c *content) merge(b *content, add bool) error {
	for _, n := range b.hostNames() {
		held := c.newestKey(n)
		if held == nil && !add {
			return &fault{what: fmt.Sprintf("the store holds the keys of %s, the bundle those of %s", namesText(c.hostNames()), n), kind: ErrExists,
				hint: "A host holds the keys of its own group alone. If it serves two, say --add."}
		}
		if held == nil {
			continue
		}
		if err := c.checkNewer(b, n); err != nil {
			return err
		}
		c.drop(n)
	}
	for _, k := range b.keys {
		c.keys = append(c.keys, hostKey{names: k.names, epochs: k.epochs, key: k.key.clone()})
	}
	if len(c.keys) > maxKeys {
		return &fault{what: fmt.Sprintf("more than %d group keys in one store", maxKeys), kind: ErrUsage, hint: fullHint}
	}
	slices.SortFunc(c.keys, hostKey.compare)
	for _, r := range b.retired {
		c.retire(r.scope, max(r.epoch, c.retiredUpTo(r.scope)))
	}
	return nil
}

// checkNewer refuses a bundle b of another fleet, and one that lacks epochs of a group which are in force here.
func (c *content) checkNewer(b *content, n Names) error {
	newest := b.newestKey(n).epochs
	for _, k := range c.keys {
		if k.names != n {
			continue
		}
		at := b.hostKeyAt(n, k.epochs)
		if at != nil && !constantTimeEqual(at.key.b[:], k.key.b[:]) {
			return &fault{what: fmt.Sprintf("the bundle's keys of group %s are those of another fleet", n), kind: ErrWrongKey,
				hint: "Check where the bundle comes from. To exchange the fleet: plyfs keystore destroy, then import again."}
		}
		if at == nil && newerEpochs(k.epochs, newest) && b.checkRetired(n, k.epochs) == nil {
			return &fault{what: fmt.Sprintf("the bundle's keys of group %s are older than those in the store", n), kind: ErrStale,
				hint: "Import the newest bundle: export it again from the fleet's key store."}
		}
	}
	return nil
}

// newerEpochs reports whether any epoch of a is above that of b.
func newerEpochs(a, b Epochs) bool {
	return a.Root > b.Root || a.Cluster > b.Cluster || a.Group > b.Group
}

// drop takes a group's keys out of a host bundle.
func (c *content) drop(n Names) {
	c.keys = slices.DeleteFunc(c.keys, func(k hostKey) bool {
		if k.names == n {
			k.key.wipe()
			return true
		}
		return false
	})
}

func namesText(names []Names) string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = n.String()
	}
	return strings.Join(all, ", ")
}

// DropGroup destroys a group's keys in a host's store that holds those of others too, and overwrites the file that had
// them: ErrWrongGroup, and ErrUsage for the last one, whose store is destroyed whole, and for a fleet's store.
func (s *Store) DropGroup(n Names) error {
	return s.update(true, func(c *content) error {
		if !c.isHost() {
			return s.errHostless()
		}
		if c.newestKey(n) == nil {
			return c.unknownHostGroup(n)
		}
		if len(c.hostNames()) == 1 {
			return &fault{what: "the last group of the store", kind: ErrUsage, hint: "Destroy the whole store: leave out --cluster and --group."}
		}
		c.drop(n)
		return nil
	})
}

func (s *Store) errHostless() error {
	return &fault{what: s.path + " holds the roots of a fleet", kind: ErrUsage,
		hint: "A derived group key lives as long as its root: retire it (plyfs keystore retire), or destroy a root epoch (--root-epoch)."}
}

func (c *content) unknownHostGroup(n Names) error {
	return &fault{what: "group " + n.String(), kind: ErrWrongGroup,
		hint: "This host's store holds the keys of " + namesText(c.hostNames()) + " alone. Import a bundle of the right group, or name it."}
}
