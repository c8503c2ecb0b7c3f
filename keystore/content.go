package keystore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Limits of a key store (FORMAT.md §3).
const (
	maxRoots    = 256
	maxClusters = 1024
	maxGroups   = 4096 // of all clusters together
)

// Kinds of records in a store's content (FORMAT.md §3).
const (
	recordRoot    = 1
	recordCluster = 2
	recordGroup   = 3
	recordKey     = 4
	recordRetired = 5
)

const fullHint = "This key store is full: make another one, for other clusters."

// errRecordKind reports a record that a later version of the format defines.
var errRecordKind = errors.New("unknown kind of record")

// content is what a key store keeps sealed: roots with clusters and groups, or, in a host bundle, group keys alone.
type content struct {
	roots    []root       // by rising epoch
	clusters []cluster    // by name
	keys     []hostKey    // in hostKey.compare's order
	retired  []retirement // by scope
}

type root struct {
	epoch uint32
	key   *secret
}

type cluster struct {
	name   string
	epoch  uint32
	groups []group // by name
}

type group struct {
	name  string
	epoch uint32
}

// Format prints a placeholder for every verb.
func (c content) Format(f fmt.State, _ rune) { io.WriteString(f, "[content of a key store]") }

// Format prints a placeholder for every verb.
func (r root) Format(f fmt.State, _ rune) { io.WriteString(f, "[root]") }

func (c *content) wipe() {
	for _, r := range c.roots {
		r.key.wipe()
	}
	for _, k := range c.keys {
		k.key.wipe()
	}
}

// cluster returns the cluster of a name, or nil.
func (c *content) cluster(name string) *cluster {
	i, ok := slices.BinarySearchFunc(c.clusters, name, func(c cluster, n string) int { return strings.Compare(c.name, n) })
	if !ok {
		return nil
	}
	return &c.clusters[i]
}

// group returns the group of a name, or nil.
func (c *cluster) group(name string) *group {
	i, ok := slices.BinarySearchFunc(c.groups, name, func(g group, n string) int { return strings.Compare(g.name, n) })
	if !ok {
		return nil
	}
	return &c.groups[i]
}

// root returns the root of an epoch, or nil.
func (c *content) root(epoch uint32) *secret {
	for _, r := range c.roots {
		if r.epoch == epoch {
			return r.key
		}
	}
	return nil
}

// addCluster adds a cluster at epoch 1: ErrExists, or ErrUsage when the store is full.
func (c *content) addCluster(name string) error {
	i, ok := slices.BinarySearchFunc(c.clusters, name, func(c cluster, n string) int { return strings.Compare(c.name, n) })
	if ok {
		return &fault{what: "cluster " + name, kind: ErrExists, hint: "The key store holds this cluster already; nothing has to be done."}
	}
	if len(c.clusters) >= maxClusters {
		return &fault{what: fmt.Sprintf("more than %d clusters in one key store", maxClusters), kind: ErrUsage, hint: fullHint}
	}
	c.clusters = slices.Insert(c.clusters, i, cluster{name: name, epoch: 1})
	return nil
}

// addGroup adds a group at epoch 1 to a cluster that is there: ErrWrongGroup, ErrExists or ErrUsage.
func (c *content) addGroup(n Names) error {
	cl := c.cluster(n.Cluster)
	if cl == nil {
		return c.unknownCluster(n.Cluster)
	}
	i, ok := slices.BinarySearchFunc(cl.groups, n.Group, func(g group, n string) int { return strings.Compare(g.name, n) })
	if ok {
		return &fault{what: "group " + n.String(), kind: ErrExists, hint: "The key store holds this group already; nothing has to be done."}
	}
	total := 0
	for _, cl := range c.clusters {
		total += len(cl.groups)
	}
	if total >= maxGroups {
		return &fault{what: fmt.Sprintf("more than %d groups in one key store", maxGroups), kind: ErrUsage, hint: fullHint}
	}
	cl.groups = slices.Insert(cl.groups, i, group{name: n.Group, epoch: 1})
	return nil
}

func (c *content) clusterNames() []string {
	names := make([]string, len(c.clusters))
	for i, cl := range c.clusters {
		names[i] = cl.name
	}
	return names
}

func (c *cluster) groupNames() []string {
	names := make([]string, len(c.groups))
	for i, g := range c.groups {
		names[i] = g.name
	}
	return names
}

func (c *content) unknownCluster(name string) error {
	return &fault{what: "cluster " + name, kind: ErrWrongGroup, hint: knownHint("cluster", c.clusterNames())}
}

func (c *cluster) unknownGroup(name string) error {
	return &fault{what: "group " + c.name + "/" + name, kind: ErrWrongGroup, hint: knownHint("group of cluster "+c.name, c.groupNames())}
}

// knownHint lists what there is instead, cut to a readable length.
func knownHint(what string, names []string) string {
	const most = 20
	if len(names) == 0 {
		return "The key store holds no " + what + "."
	}
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return fmt.Sprintf("The key store holds this %s: %s%s. Name one of them, or give the key store of the right cluster and group.",
		what, strings.Join(names, ", "), more)
}

// encode returns the records of FORMAT.md §3. The caller wipes them.
func (c *content) encode() []byte {
	size := 0
	for _, r := range c.roots {
		size += 3 + 4 + len(r.key.b)
	}
	for _, cl := range c.clusters {
		size += 3 + 4 + 1 + len(cl.name)
		for _, g := range cl.groups {
			size += 3 + 4 + 2 + len(cl.name) + len(g.name)
		}
	}
	for _, k := range c.keys {
		size += 3 + 4 + 2 + len(k.names.Cluster) + len(k.names.Group) + 8 + keySize
	}
	for _, r := range c.retired {
		size += 3 + 4 + 2 + len(r.scope.Cluster) + len(r.scope.Group)
	}
	b := make([]byte, 0, size) // never regrown, so that no copy of a root stays behind
	for _, r := range c.roots {
		b = appendRecord(b, recordRoot, be32(r.epoch), r.key.b[:])
	}
	for _, cl := range c.clusters {
		b = appendRecord(b, recordCluster, be32(cl.epoch), lp8(cl.name))
	}
	for _, cl := range c.clusters {
		for _, g := range cl.groups {
			b = appendRecord(b, recordGroup, be32(g.epoch), lp8(cl.name), lp8(g.name))
		}
	}
	for _, k := range c.keys {
		b = appendRecord(b, recordKey, be32(k.epochs.Group), lp8(k.names.Cluster), lp8(k.names.Group),
			be32(k.epochs.Root), be32(k.epochs.Cluster), k.key.b[:])
	}
	for _, r := range c.retired {
		b = appendRecord(b, recordRetired, be32(r.epoch), lp8(r.scope.Cluster), lp8(r.scope.Group))
	}
	return b
}

func appendRecord(b []byte, kind byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// decodeContent parses records strictly: known kinds, exact lengths, in order, each once. The roots it returns are
// copies; the caller wipes b.
func decodeContent(b []byte) (*content, error) {
	c := &content{}
	if err := c.decode(b); err != nil {
		c.wipe()
		return nil, err
	}
	return c, nil
}

func (c *content) decode(b []byte) error {
	last, groups := byte(0), 0
	for len(b) > 0 {
		if len(b) < 3 {
			return errors.New("record cut short")
		}
		kind, n := b[0], int(binary.BigEndian.Uint16(b[1:]))
		if kind < recordRoot || kind > recordRetired {
			return errRecordKind
		}
		if kind < last {
			return errors.New("records out of order")
		}
		if n < 4 || len(b) < 3+n {
			return errors.New("record cut short")
		}
		epoch, body := binary.BigEndian.Uint32(b[3:]), b[7:3+n]
		if epoch == 0 {
			return errors.New("epoch 0")
		}
		if err := c.decodeRecord(kind, epoch, body, &groups); err != nil {
			return err
		}
		last, b = kind, b[3+n:]
	}
	switch {
	case len(c.roots) == 0 && len(c.keys) == 0:
		return errors.New("neither a root nor a group key")
	case len(c.keys) > 0 && len(c.roots)+len(c.clusters) > 0:
		return errors.New("group keys beside a root or a cluster")
	}
	return nil
}

func (c *content) decodeRecord(kind byte, epoch uint32, body []byte, groups *int) error {
	switch kind {
	case recordRoot:
		if len(body) != keySize || len(c.roots) >= maxRoots {
			return errors.New("bad root")
		}
		if n := len(c.roots); n > 0 && c.roots[n-1].epoch >= epoch {
			return errors.New("roots out of order")
		}
		s := &secret{}
		copy(s.b[:], body)
		c.roots = append(c.roots, root{epoch: epoch, key: s})
	case recordCluster:
		name, rest, err := cutName(body)
		if err != nil || len(rest) > 0 || len(c.clusters) >= maxClusters {
			return errors.New("bad cluster")
		}
		if n := len(c.clusters); n > 0 && c.clusters[n-1].name >= name {
			return errors.New("clusters out of order")
		}
		c.clusters = append(c.clusters, cluster{name: name, epoch: epoch})
	case recordGroup:
		clusterName, rest, err := cutName(body)
		if err != nil {
			return err
		}
		name, rest, err := cutName(rest)
		if *groups++; err != nil || len(rest) > 0 || *groups > maxGroups {
			return errors.New("bad group")
		}
		return c.decodeGroup(clusterName, group{name: name, epoch: epoch})
	case recordKey:
		return c.decodeKey(epoch, body)
	case recordRetired:
		return c.decodeRetired(epoch, body)
	}
	return nil
}

// decodeKey appends a group key, which must come after all before it.
func (c *content) decodeKey(groupEpoch uint32, body []byte) error {
	n, rest, err := cutNames(body)
	if err == nil {
		err = n.Validate()
	}
	if err != nil || len(rest) != 8+keySize || len(c.keys) >= maxKeys {
		return errors.New("bad group key")
	}
	k := hostKey{names: n, key: &secret{}, epochs: Epochs{
		Root: binary.BigEndian.Uint32(rest), Cluster: binary.BigEndian.Uint32(rest[4:]), Group: groupEpoch}}
	if k.epochs.Root == 0 || k.epochs.Cluster == 0 {
		return errors.New("epoch 0")
	}
	if n := len(c.keys); n > 0 && c.keys[n-1].compare(k) >= 0 {
		return errors.New("group keys out of order")
	}
	copy(k.key.b[:], rest[8:])
	c.keys = append(c.keys, k)
	return nil
}

// decodeRetired appends a retirement, which must come after all before it. Its scope is there, but in a host bundle.
func (c *content) decodeRetired(epoch uint32, body []byte) error {
	scope, rest, err := cutNames(body)
	if err != nil || len(rest) > 0 || scope.Cluster == "" && scope.Group != "" {
		return errors.New("bad retirement")
	}
	if n := len(c.retired); n > 0 && compareNames(c.retired[n-1].scope, scope) >= 0 {
		return errors.New("retirements out of order")
	}
	if len(c.roots) > 0 {
		newest, err := c.epochOf(scope)
		if err != nil || epoch > *newest && epoch != forGood || scope == (Names{}) && epoch >= *newest {
			return errors.New("retirement of what is not there")
		}
	} else if len(c.retired) >= 1+2*maxKeys {
		return errors.New("bad retirement")
	}
	c.retired = append(c.retired, retirement{scope: scope, epoch: epoch})
	return nil
}

// cutNames takes a cluster's and a group's name off b; either may be empty.
func cutNames(b []byte) (n Names, rest []byte, err error) {
	for _, name := range []*string{&n.Cluster, &n.Group} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return n, nil, errors.New("name cut short")
		}
		if *name = string(b[1 : 1+int(b[0])]); *name != "" {
			if err := validateName("", *name); err != nil {
				return n, nil, err
			}
		}
		b = b[1+int(b[0]):]
	}
	return n, b, nil
}

// decodeGroup appends a group, which must come after all groups before it.
func (c *content) decodeGroup(clusterName string, g group) error {
	cl := c.cluster(clusterName)
	if cl == nil {
		return errors.New("group of no cluster")
	}
	if n := len(cl.groups); n > 0 && cl.groups[n-1].name >= g.name {
		return errors.New("groups out of order")
	}
	for i := range c.clusters {
		if c.clusters[i].name > clusterName && len(c.clusters[i].groups) > 0 {
			return errors.New("groups out of order")
		}
	}
	cl.groups = append(cl.groups, g)
	return nil
}

// cutName takes a length-prefixed name off b.
func cutName(b []byte) (name string, rest []byte, err error) {
	if len(b) < 1 || len(b) < 1+int(b[0]) {
		return "", nil, errors.New("name cut short")
	}
	name = string(b[1 : 1+int(b[0])])
	return name, b[1+int(b[0]):], validateName("", name)
}
