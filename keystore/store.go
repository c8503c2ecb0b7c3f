package keystore

import (
	"errors"

	"github.com/plyfs/plyfs/cipher"
)

// Store is an opened key store.
type Store struct{}

// StoreInfo is what a key store shows without its key; it is not authenticated.
type StoreInfo struct {
	Layer      cipher.Layer
	Protection Protection
	Generation uint64
}

// ReadStoreInfo reads a store's header.
func ReadStoreInfo(path string) (StoreInfo, error) { return StoreInfo{}, errors.ErrUnsupported }

// CreateStore makes a new key store.
func CreateStore(path string, layer cipher.Layer, open Opener, names Names) error {
	return errors.ErrUnsupported
}

// OpenStore opens a key store.
func OpenStore(path string, layer cipher.Layer, open Opener) (*Store, error) {
	return nil, errors.ErrUnsupported
}

func (s *Store) Path() string                                    { return "" }
func (s *Store) Layer() cipher.Layer                             { return 0 }
func (s *Store) Info() StoreInfo                                 { return StoreInfo{} }
func (s *Store) Clusters() []string                              { return nil }
func (s *Store) Groups(cluster string) []string                  { return nil }
func (s *Store) AddCluster(cluster string) error                 { return errors.ErrUnsupported }
func (s *Store) AddGroup(n Names) error                          { return errors.ErrUnsupported }
func (s *Store) GroupKey(n Names) (*GroupKey, error)             { return nil, errors.ErrUnsupported }
func (s *Store) GroupKeyAt(n Names, e Epochs) (*GroupKey, error) { return nil, errors.ErrUnsupported }
func (s *Store) Wipe()                                           {}

// GroupKey is one layer's key of a machine group.
type GroupKey struct{}

func (g *GroupKey) Wipe() {}
