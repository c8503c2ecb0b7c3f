package keystore

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/plyfs/plyfs/cipher"
	"golang.org/x/sys/unix"
)

// Store is an opened key store of one layer. It keeps its keys in memory until Wipe. Its methods are safe for
// concurrent use, and changes of one file by several processes follow one another.
type Store struct {
	path string

	mu      sync.Mutex
	header  storeHeader
	key     *secret  // what the key file holds or the passphrase makes; nil after Wipe
	content *content // nil after Wipe
}

// StoreInfo is what a key store shows without its key. ReadStoreInfo's is not authenticated.
type StoreInfo struct {
	Layer      cipher.Layer
	Protection Protection
	Generation uint64   // counts changes, from 1
	ID         [16]byte // random, for the life of the store
	Argon2     Argon2   // zero for a key file
}

func (h *storeHeader) info() StoreInfo {
	return StoreInfo{Layer: h.layer, Protection: h.protection, Generation: h.generation, ID: h.id, Argon2: h.argon2}
}

// ReadStoreInfo reads a store's header, so that a caller knows whether to ask for a passphrase.
func ReadStoreInfo(path string) (StoreInfo, error) {
	_, h, err := readStore(path)
	if err != nil {
		return StoreInfo{}, err
	}
	return h.info(), nil
}

// readStore reads and parses the file of a store.
func readStore(path string) ([]byte, *storeHeader, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, storeFileError(path, err)
	}
	defer f.Close()
	b, err := readLimited(f, storeMaxSize)
	if err != nil {
		return nil, nil, fmt.Errorf("key store: %w", err)
	}
	h, err := parseStore(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, h, nil
}

// storeFileError tells a store that is not there from other errors of the filesystem.
func storeFileError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &fault{what: "key store " + path, kind: ErrMissing, cause: fs.ErrNotExist,
			hint: "Say where the key stores are (--keystore, --data-keystore, --infra-keystore), or restore them from their backup; " +
				"new ones (plyfs keystore init) are for new volumes and open none that was made before."}
	}
	return fmt.Errorf("key store: %w", err)
}

// CreateStore makes the key store of a layer, with a random root of its own and one cluster with one group. It is
// durable when CreateStore returns. Neither a store nor a key file that is there is ever touched: ErrExists.
func CreateStore(path string, layer cipher.Layer, open Opener, names Names) error {
	return createStore(path, layer, open, names, randomOr(nil))
}

func createStore(path string, layer cipher.Layer, open Opener, names Names, rand io.Reader) error {
	if layer != cipher.LayerData && layer != cipher.LayerInfra {
		return &fault{what: fmt.Sprintf("key store of layer %d", uint8(layer)), kind: ErrUsage}
	}
	if err := names.Validate(); err != nil {
		return err
	}
	rootKey, err := randomSecret(rand)
	if err != nil {
		return err
	}
	c := &content{
		roots:    []root{{epoch: 1, key: rootKey}},
		clusters: []cluster{{name: names.Cluster, epoch: 1, groups: []group{{name: names.Group, epoch: 1}}}},
	}
	defer c.wipe()
	return writeStore(path, layer, open, c, rand)
}

// writeStore makes the file of a new store, and its key file: ErrExists.
func writeStore(path string, layer cipher.Layer, open Opener, c *content, rand io.Reader) error {
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.close()
	// Nobody is asked for a passphrase, and no key file made, for a store that cannot be.
	if there, err := d.exists(filepath.Base(path)); err != nil {
		return err
	} else if there {
		return &fault{what: "key store " + path, kind: ErrExists}
	}
	h := storeHeader{layer: layer, generation: 1}
	if _, err := io.ReadFull(rand, h.id[:]); err != nil {
		return fmt.Errorf("read random bytes: %w", err)
	}
	key, undo, err := newStoreKey(&h, path, open, rand)
	if err != nil {
		return err
	}
	defer key.wipe()
	b, err := sealStore(h, key, c, rand)
	if err == nil {
		err = d.create(filepath.Base(path), b)
	}
	if err != nil {
		undo()
		return err
	}
	return nil
}

// newStoreKey makes what opens a new store and notes it in the header. undo takes back a key file that was made.
func newStoreKey(h *storeHeader, path string, open Opener, rand io.Reader) (key *secret, undo func(), err error) {
	if open.Passphrase != nil {
		h.protection, h.argon2 = ByPassphrase, open.Argon2
		if h.argon2 == (Argon2{}) {
			h.argon2 = DefaultArgon2
		}
		if err := h.argon2.validate(); err != nil {
			return nil, nil, &fault{what: "passphrase", kind: ErrUsage, cause: err}
		}
		if _, err := io.ReadFull(rand, h.passSalt[:]); err != nil {
			return nil, nil, fmt.Errorf("read random bytes: %w", err)
		}
		key, err := passphraseKey(h, open.Passphrase)
		return key, func() {}, err
	}
	h.protection = ByKeyFile
	if key, err = randomSecret(rand); err != nil {
		return nil, nil, err
	}
	keyFile := open.keyFile(path)
	if err := createKeyFile(keyFile, h.layer, key); err != nil {
		key.wipe()
		return nil, nil, fmt.Errorf("key file of the %s layer: %w", h.layer, err)
	}
	return key, func() { os.Remove(keyFile) }, nil
}

// passphraseKey asks for the passphrase and wipes it after use.
func passphraseKey(h *storeHeader, source func() ([]byte, error)) (*secret, error) {
	pass, err := source()
	defer wipe(pass)
	if err != nil {
		return nil, fmt.Errorf("passphrase of the %s layer: %w", h.layer, err)
	}
	if err := checkPassphrase(h.layer, pass); err != nil {
		return nil, err
	}
	return h.argon2.key(pass, h.passSalt[:]), nil
}

// checkPassphrase refuses an empty passphrase and one that is too long.
func checkPassphrase(l cipher.Layer, pass []byte) error {
	if len(pass) == 0 || len(pass) > maxPassphrase {
		return &fault{what: fmt.Sprintf("passphrase of %d bytes for the %s layer", len(pass), l), kind: ErrUsage,
			hint: fmt.Sprintf("A passphrase has 1 to %d bytes.", maxPassphrase)}
	}
	return nil
}

// storeKey brings the key of an existing store.
func storeKey(h *storeHeader, path string, open Opener) (*secret, error) {
	if h.protection == ByKeyFile {
		return readKeyFile(open.keyFile(path), h.layer)
	}
	if open.Passphrase == nil {
		return nil, &fault{what: fmt.Sprintf("%s: the %s layer's key store is opened by a passphrase, and there is none", path, h.layer), kind: ErrWrongKey,
			hint: "Give the passphrase: on the terminal, or with --" + h.layer.String() + "-passphrase-file."}
	}
	return passphraseKey(h, open.Passphrase)
}

// OpenStore opens the key store of a layer. Its errors are ErrMissing, ErrPermissions (of the key file), ErrVersion,
// ErrTruncated, ErrTampered, ErrWrongKey (also for the other layer's store) and plain I/O errors.
func OpenStore(path string, layer cipher.Layer, open Opener) (*Store, error) {
	b, h, err := readStore(path)
	if err != nil {
		return nil, err
	}
	if h.layer != layer {
		return nil, &fault{what: fmt.Sprintf("%s is the key store of the %s layer, not of the %s layer", path, h.layer, layer), kind: ErrWrongKey,
			hint: "Give --data-keystore the data layer's store and --infra-keystore the infrastructure layer's."}
	}
	key, err := storeKey(h, path, open)
	if err != nil {
		return nil, err
	}
	c, err := openStoreContent(h, b, key)
	if err != nil {
		key.wipe()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Store{path: path, header: *h, key: key, content: c}, nil
}

// Path returns the path the store was opened with.
func (s *Store) Path() string { return s.path }

// Layer returns the store's layer.
func (s *Store) Layer() cipher.Layer { return s.header.layer }

// String names the store without telling any of it.
func (s *Store) String() string { return fmt.Sprintf("%s key store %s", s.header.layer, s.path) }

// Format prints String for every verb.
func (s *Store) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// Info returns the store's header, authenticated.
func (s *Store) Info() StoreInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header.info()
}

// Clusters returns the names of the clusters, sorted; nil after Wipe.
func (s *Store) Clusters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil {
		return nil
	}
	if s.content.isHost() {
		var names []string
		for _, n := range s.content.hostNames() {
			names = append(names, n.Cluster)
		}
		return slices.Compact(names)
	}
	return s.content.clusterNames()
}

// Groups returns the names of a cluster's groups, sorted; nil for an unknown cluster and after Wipe.
func (s *Store) Groups(clusterName string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil {
		return nil
	}
	if s.content.isHost() {
		var names []string
		for _, n := range s.content.hostNames() {
			if n.Cluster == clusterName {
				names = append(names, n.Group)
			}
		}
		return names
	}
	if cl := s.content.cluster(clusterName); cl != nil {
		return cl.groupNames()
	}
	return nil
}

// Wipe zeroes the store's keys. The Store then answers cipher.ErrWiped.
func (s *Store) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content != nil {
		s.content.wipe()
	}
	s.key.wipe()
	s.content, s.key = nil, nil
}

// find returns the newest epochs of a group. The caller holds s.mu.
func (s *Store) find(n Names) (Epochs, error) {
	if s.content == nil {
		return Epochs{}, &fault{what: s.path, kind: cipher.ErrWiped}
	}
	if err := n.Validate(); err != nil {
		return Epochs{}, err
	}
	e, err := s.content.newest(n)
	if err != nil {
		return Epochs{}, fmt.Errorf("%s: %w", s.path, err)
	}
	return e, nil
}

// holds returns ErrWrongGroup unless the store holds the group.
func (s *Store) holds(n Names) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.find(n)
	return err
}

// GroupKey returns a group's key at the newest epochs: ErrWrongGroup, whose hint lists what the store holds, or
// ErrRetired. The caller wipes it.
func (s *Store) GroupKey(n Names) (*GroupKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.find(n)
	if err != nil {
		return nil, err
	}
	return s.keyAt(n, e)
}

// GroupKeyAt returns a group's key at given epochs, to unwrap what was wrapped then: ErrWrongGroup, ErrRetired, or
// ErrWrongKey for an epoch that this copy of the store has not. The caller wipes it.
func (s *Store) GroupKeyAt(n Names, e Epochs) (*GroupKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest, err := s.find(n)
	if err != nil {
		return nil, err
	}
	if newerEpochs(e, newest) || e.Root == 0 || e.Cluster == 0 || e.Group == 0 {
		return nil, &fault{
			what: fmt.Sprintf("%s holds no key of %s at root epoch %d, cluster epoch %d, group epoch %d", s.path, n, e.Root, e.Cluster, e.Group),
			kind: ErrWrongKey,
			hint: "Use the newest copy of this key store, or import the newest bundle: a key was rotated after this one was made.",
		}
	}
	return s.keyAt(n, e)
}

// keyAt returns a key at epochs up to the newest. The caller holds s.mu.
func (s *Store) keyAt(n Names, e Epochs) (*GroupKey, error) {
	c := s.content
	if err := c.checkRetired(n, e); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	if c.isHost() {
		if k := c.hostKeyAt(n, e); k != nil {
			return &GroupKey{layer: s.header.layer, names: n, epochs: e, key: k.key.clone()}, nil
		}
		return nil, &fault{what: fmt.Sprintf("%s holds no key of %s at epochs %d/%d/%d any more", s.path, n, e.Root, e.Cluster, e.Group), kind: ErrRetired}
	}
	r := c.root(e.Root)
	if r == nil {
		return nil, &fault{what: fmt.Sprintf("%s: root epoch %d was destroyed", s.path, e.Root), kind: ErrRetired,
			hint: "What was wrapped under it can be opened with a copy of the key store alone that still has it."}
	}
	return plyOf(s.header.layer).groupKey(r, n, e), nil
}

// AddCluster adds a cluster without groups: ErrName, ErrExists, ErrBusy.
func (s *Store) AddCluster(name string) error {
	if err := validateName("cluster", name); err != nil {
		return err
	}
	return s.updateFleet("add a cluster", func(c *content) error { return c.addCluster(name) })
}

// AddGroup adds a group to a cluster that the store holds: ErrName, ErrWrongGroup, ErrExists, ErrBusy.
func (s *Store) AddGroup(n Names) error {
	if err := n.Validate(); err != nil {
		return err
	}
	return s.updateFleet("add a group", func(c *content) error { return c.addGroup(n) })
}

// update changes the store on disk: under the lock it reads what is there now, so that no other process's change is
// lost, applies change, and replaces the file, which erase overwrites. s follows only when all of that succeeded.
func (s *Store) update(erase bool, change func(*content) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil {
		return &fault{what: s.path, kind: cipher.ErrWiped}
	}
	path, err := filepath.EvalSymlinks(s.path)
	if err != nil {
		return storeFileError(s.path, err)
	}
	d, name, done, err := openLocked(path)
	if err != nil {
		return err
	}
	defer done()
	replace := d.replace
	if erase {
		replace = d.replaceErasing
		// One that was interrupted may have left what it replaced, and its repeat may find nothing to change.
		if err := d.zeroLeftovers(name + tempInfix); err != nil {
			return err
		}
	}
	b, h, err := readStore(path)
	if err != nil {
		return err
	}
	if h.id != s.header.id || h.layer != s.header.layer || h.generation < s.header.generation {
		return &fault{what: path + " was replaced by another or older key store", kind: ErrStale}
	}
	c, err := openStoreContent(h, b, s.key)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	put := func(b []byte) error { return replace(name, b) }
	if err := s.replace(h, c, change, put); err != nil {
		c.wipe()
		return err
	}
	return nil
}

// replace applies a change to the content c of the file on disk, has put write it, and takes it over.
func (s *Store) replace(h *storeHeader, c *content, change func(*content) error, put func([]byte) error) error {
	if err := change(c); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	h.generation++
	b, err := sealStore(*h, s.key, c, randomOr(nil))
	if err != nil {
		return err
	}
	if err := put(b); err != nil {
		return err
	}
	s.content.wipe()
	s.header, s.content = *h, c
	return nil
}

// sharesRoot reports whether two stores hold a root in common, as a copied store does.
func (s *Store) sharesRoot(other *Store) bool {
	mine, theirs := s.copyRoots(), other.copyRoots()
	defer mine.wipe()
	defer theirs.wipe()
	for _, a := range mine.roots {
		for _, b := range theirs.roots {
			if subtle.ConstantTimeCompare(a.key.b[:], b.key.b[:]) == 1 {
				return true
			}
		}
	}
	return false
}

// copyRoots returns a copy of the roots, which the caller wipes.
func (s *Store) copyRoots() *content {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &content{}
	if s.content != nil {
		for _, r := range s.content.roots {
			c.roots = append(c.roots, root{epoch: r.epoch, key: r.key.clone()})
		}
	}
	return c
}
