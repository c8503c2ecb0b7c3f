package keystore

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// forGood is the epoch of a retirement that no rotation ends.
const forGood = math.MaxUint32

// retirement refuses the keys of a scope up to an epoch. The scope is the root (no names), a cluster (no group) or a
// group.
type retirement struct {
	scope Names
	epoch uint32
}

func compareNames(a, b Names) int {
	if c := strings.Compare(a.Cluster, b.Cluster); c != 0 {
		return c
	}
	return strings.Compare(a.Group, b.Group)
}

func scopeText(scope Names) string {
	switch {
	case scope == (Names{}):
		return "root"
	case scope.Group == "":
		return "cluster " + scope.Cluster
	}
	return "group " + scope.String()
}

// retiredUpTo returns the highest epoch of a scope that is retired; 0 for none.
func (c *content) retiredUpTo(scope Names) uint32 {
	i, ok := slices.BinarySearchFunc(c.retired, scope, func(r retirement, n Names) int { return compareNames(r.scope, n) })
	if !ok {
		return 0
	}
	return c.retired[i].epoch
}

// retire notes that the epochs of a scope up to one are retired.
func (c *content) retire(scope Names, epoch uint32) {
	i, ok := slices.BinarySearchFunc(c.retired, scope, func(r retirement, n Names) int { return compareNames(r.scope, n) })
	if !ok {
		c.retired = slices.Insert(c.retired, i, retirement{scope: scope})
	}
	c.retired[i].epoch = epoch
}

// checkRetired returns ErrRetired when a group's key at given epochs depends on one that was retired.
func (c *content) checkRetired(n Names, e Epochs) error {
	for _, level := range []struct {
		scope Names
		epoch uint32
	}{{Names{}, e.Root}, {Names{Cluster: n.Cluster}, e.Cluster}, {n, e.Group}} {
		switch r := c.retiredUpTo(level.scope); {
		case r == forGood:
			return &fault{what: scopeText(level.scope), kind: ErrRetired}
		case level.epoch <= r:
			return &fault{what: fmt.Sprintf("epoch %d of %s", level.epoch, scopeText(level.scope)), kind: ErrRetired}
		}
	}
	return nil
}

// newest returns the newest epochs of a group: ErrWrongGroup.
func (c *content) newest(n Names) (Epochs, error) {
	if c.isHost() {
		if k := c.newestKey(n); k != nil {
			return k.epochs, nil
		}
		return Epochs{}, c.unknownHostGroup(n)
	}
	cl := c.cluster(n.Cluster)
	if cl == nil {
		return Epochs{}, c.unknownCluster(n.Cluster)
	}
	g := cl.group(n.Group)
	if g == nil {
		return Epochs{}, cl.unknownGroup(n.Group)
	}
	return Epochs{Root: c.roots[len(c.roots)-1].epoch, Cluster: cl.epoch, Group: g.epoch}, nil
}

// epochOf returns the newest epoch of a scope of a fleet's store, by reference: ErrWrongGroup.
func (c *content) epochOf(scope Names) (*uint32, error) {
	if scope == (Names{}) {
		return &c.roots[len(c.roots)-1].epoch, nil
	}
	cl := c.cluster(scope.Cluster)
	if cl == nil {
		return nil, c.unknownCluster(scope.Cluster)
	}
	if scope.Group == "" {
		return &cl.epoch, nil
	}
	g := cl.group(scope.Group)
	if g == nil {
		return nil, cl.unknownGroup(scope.Group)
	}
	return &g.epoch, nil
}

// rotate begins a new epoch of a scope and returns it. A new root is random; newer keys of clusters and groups are
// derived.
func (c *content) rotate(scope Names) (uint32, error) {
	e, err := c.epochOf(scope)
	if err != nil {
		return 0, err
	}
	if c.retiredUpTo(scope) == forGood {
		return 0, &fault{what: scopeText(scope), kind: ErrRetired, hint: "It was retired for good. Add another one, under another name."}
	}
	if *e >= forGood-1 {
		return 0, &fault{what: scopeText(scope) + " has no epochs left", kind: ErrUsage}
	}
	if scope != (Names{}) {
		*e++
		return *e, nil
	}
	if len(c.roots) >= maxRoots {
		return 0, &fault{what: fmt.Sprintf("more than %d root epochs in one key store", maxRoots), kind: ErrUsage,
			hint: "Destroy old ones that no volume needs any more (plyfs keystore destroy --root-epoch N)."}
	}
	key, err := randomSecret(randomOr(nil))
	if err != nil {
		return 0, err
	}
	c.roots = append(c.roots, root{epoch: *e + 1, key: key})
	return *e + 1, nil
}

// retireScope retires a scope's epochs up to one, or the scope for good when epoch is 0.
func (c *content) retireScope(scope Names, epoch uint32) error {
	e, err := c.epochOf(scope)
	if err != nil {
		return err
	}
	switch {
	case epoch == 0 && scope == (Names{}):
		return &fault{what: "retire which epoch of the root", kind: ErrUsage, hint: "Name it with --epoch N; the newest one stays in force."}
	case epoch == 0:
		epoch = forGood
	case scope == (Names{}) && epoch >= *e:
		return &fault{what: fmt.Sprintf("root epoch %d is the newest", epoch), kind: ErrUsage,
			hint: "Nothing would be left in force: rotate the root first (plyfs keystore rotate --root)."}
	case epoch > *e:
		return &fault{what: fmt.Sprintf("%s is at epoch %d and has no epoch %d", scopeText(scope), *e, epoch), kind: ErrUsage}
	}
	if epoch <= c.retiredUpTo(scope) {
		return &fault{what: scopeText(scope) + " is retired up to there already", kind: ErrExists, hint: "Nothing has to be done."}
	}
	c.retire(scope, epoch)
	return nil
}

// destroyRoot takes a root epoch out.
func (c *content) destroyRoot(epoch uint32) error {
	i := slices.IndexFunc(c.roots, func(r root) bool { return r.epoch == epoch })
	newest := c.roots[len(c.roots)-1].epoch
	switch {
	case i < 0 && epoch != 0 && epoch < newest:
		return &fault{what: fmt.Sprintf("root epoch %d was destroyed already", epoch), kind: ErrRetired, hint: "Nothing has to be done here; think of the copies of this key store."}
	case i < 0:
		return &fault{what: fmt.Sprintf("no root epoch %d", epoch), kind: ErrUsage, hint: fmt.Sprintf("The newest is %d.", newest)}
	case epoch == newest:
		return &fault{what: fmt.Sprintf("root epoch %d is the newest", epoch), kind: ErrUsage,
			hint: "Rotate the root first (plyfs keystore rotate --root), re-wrap volumes and export bundles anew; or remove the key store's files."}
	}
	c.roots[i].key.wipe()
	c.roots = slices.Delete(c.roots, i, i+1)
	return nil
}

// ScopeInfo describes a root, cluster or group of a store.
type ScopeInfo struct {
	Scope   Names    // no names: the root; no group: a cluster
	Epoch   uint32   // the newest
	Retired uint32   // epochs up to this one are refused; 0: none
	ForGood bool     // it is retired whole
	Roots   []uint32 // of the root: the epochs that are there, rising
}

// Scopes describes the root of a fleet's store, its clusters and their groups, in that order; of a host's store its
// groups alone. nil after Wipe.
func (s *Store) Scopes() []ScopeInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.content
	if c == nil {
		return nil
	}
	info := func(scope Names, epoch uint32) ScopeInfo {
		r := c.retiredUpTo(scope)
		return ScopeInfo{Scope: scope, Epoch: epoch, Retired: min(r, epoch), ForGood: r == forGood}
	}
	var all []ScopeInfo
	if c.isHost() {
		for _, n := range c.hostNames() {
			all = append(all, info(n, c.newestKey(n).epochs.Group))
		}
		return all
	}
	r := info(Names{}, c.roots[len(c.roots)-1].epoch)
	for _, one := range c.roots {
		r.Roots = append(r.Roots, one.epoch)
	}
	all = append(all, r)
	for _, cl := range c.clusters {
		all = append(all, info(Names{Cluster: cl.name}, cl.epoch))
	}
	for _, cl := range c.clusters {
		for _, g := range cl.groups {
			all = append(all, info(Names{Cluster: cl.name, Group: g.name}, g.epoch))
		}
	}
	return all
}

// Rotate begins a new epoch of the root (no names), a cluster (no group) or a group, and returns it. Volumes keep to
// the old one until they are re-wrapped. ErrWrongGroup, ErrRetired, ErrUsage.
func (s *Store) Rotate(scope Names) (epoch uint32, err error) {
	err = s.updateFleet("rotate a key", func(c *content) (err error) {
		epoch, err = c.rotate(scope)
		return err
	})
	return epoch, err
}

// Retire refuses the epochs of the root (no names), a cluster (no group) or a group up to one from then on, to wrap and
// to unwrap; epoch 0 retires a cluster or group for good. The keys stay in the store. ErrWrongGroup, ErrUsage, ErrExists.
func (s *Store) Retire(scope Names, epoch uint32) error {
	return s.updateFleet("retire a key", func(c *content) error { return c.retireScope(scope, epoch) })
}

// DestroyRoot takes a root epoch, which must not be the newest, out of the store, and overwrites the file that had it:
// ErrUsage, ErrRetired when it is gone already. Copies of the store keep it.
func (s *Store) DestroyRoot(epoch uint32) error {
	return s.update(true, s.fleetOnly("destroy a root", func(c *content) error { return c.destroyRoot(epoch) }))
}

// updateFleet is update for a store of roots.
func (s *Store) updateFleet(what string, change func(*content) error) error {
	return s.update(false, s.fleetOnly(what, change))
}

// fleetOnly refuses a change for a host's store.
func (s *Store) fleetOnly(what string, change func(*content) error) func(*content) error {
	return func(c *content) error {
		if c.isHost() {
			return s.errHost(what)
		}
		return change(c)
	}
}
