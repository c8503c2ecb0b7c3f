package keystore

import (
	"fmt"
	"io"

	"github.com/plyfs/plyfs/cipher"
)

// GroupKey is one layer's key of a machine group. It wraps the volume keys of that layer. It prints without the key.
type GroupKey struct {
	layer  cipher.Layer
	names  Names
	epochs Epochs
	key    *secret
}

// Layer returns the layer the key belongs to.
func (g *GroupKey) Layer() cipher.Layer { return g.layer }

// Names returns the cluster and group.
func (g *GroupKey) Names() Names { return g.names }

// Epochs returns the epochs of the keys it was derived with.
func (g *GroupKey) Epochs() Epochs { return g.epochs }

// String names the key without telling it.
func (g GroupKey) String() string { return fmt.Sprintf("%s group key %s", g.layer, g.names) }

// Format prints String for every verb.
func (g GroupKey) Format(f fmt.State, _ rune) { io.WriteString(f, g.String()) }

// Wipe zeroes the key, which is of no use afterwards.
func (g *GroupKey) Wipe() { g.key.wipe() }

// groupKey derives root → cluster → group (FORMAT.md §2). Each step is one-way and each epoch an input of its own
// step alone, so that a cluster key tells nothing of its root or its siblings.
func (p ply) groupKey(root *secret, n Names, e Epochs) *GroupKey {
	cluster := p.key(root, labelCluster, lp8(n.Cluster), be32(e.Cluster))
	defer cluster.wipe()
	return &GroupKey{
		layer: p.layer, names: n, epochs: e,
		key: p.key(cluster, labelGroup, lp8(n.Group), be32(e.Group)),
	}
}
