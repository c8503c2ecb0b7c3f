package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// defaultKeystore is where key stores lie unless the caller says otherwise.
const defaultKeystore = "/etc/plyfs/keystore"

// storeRef says where one layer's key store is and what opens it. Paths are
// absolute.
type storeRef struct {
	Layer          cipher.Layer
	Path           string
	KeyFile        string // empty: the one beside the store
	PassphraseFile string // where to read it, as in mountopt.Options; empty: ask
	Ask            bool   // at creation: protect it by a passphrase
	IsBundle       bool   // it is one to carry to a host

	secret []byte // the passphrase, where it was read already
}

// storeRefs are those of both layers.
type storeRefs struct {
	Data, Infra storeRef
	// IsDefault: no flag or option named a place; it is $PLYFS_KEYSTORE or the
	// default.
	IsDefault bool
}

// storeFlags are the flags of every command that opens key stores.
func storeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "keystore", Usage: "`DIR` with data.store and infra.store (default: $PLYFS_KEYSTORE, else " + defaultKeystore + ")"},
		&cli.StringFlag{Name: "data-keystore", Usage: "`FILE` with the data layer's key store, instead"},
		&cli.StringFlag{Name: "infra-keystore", Usage: "`FILE` with the infra layer's key store, instead"},
		&cli.StringFlag{Name: "data-key-file", Usage: "`FILE` that opens the data layer's store (default: the .key file beside it)"},
		&cli.StringFlag{Name: "infra-key-file", Usage: "`FILE` that opens the infra layer's store"},
		&cli.StringFlag{Name: "data-passphrase-file", Usage: "`FILE` with the passphrase of the data layer's store; fd:N is an open descriptor"},
		&cli.StringFlag{Name: "infra-passphrase-file", Usage: "`FILE` with the passphrase of the infra layer's store"},
		&cli.IntFlag{Name: "data-passphrase-fd", Usage: "the same as --data-passphrase-file fd:`N`"},
		&cli.IntFlag{Name: "infra-passphrase-fd", Usage: "the same as --infra-passphrase-file fd:`N`"},
		&cli.StringFlag{Name: "data-passphrase-program", Usage: "`PATH` of a program that prints it; its argument is the layer's name"},
		&cli.StringFlag{Name: "infra-passphrase-program", Usage: "`PATH` of a program that prints the infra layer's"},
		&cli.StringFlag{Name: "data-passphrase-credential", Usage: "`NAME` of the systemd credential that holds it"},
		&cli.StringFlag{Name: "infra-passphrase-credential", Usage: "`NAME` of the systemd credential with the infra layer's"},
	}
}

// flagsOverOptions lets the store flags override the options of the same
// names.
func flagsOverOptions(c *cli.Context, o *mountopt.Options) {
	for name, field := range map[string]*string{
		"keystore":              &o.Keystore,
		"data-keystore":         &o.DataKeystore,
		"infra-keystore":        &o.InfraKeystore,
		"data-key-file":         &o.DataKeyFile,
		"infra-key-file":        &o.InfraKeyFile,
		"data-passphrase-file":  &o.DataPassphraseFile,
		"infra-passphrase-file": &o.InfraPassphraseFile,
	} {
		if c.IsSet(name) {
			*field = c.String(name)
		}
	}
	for layer, field := range map[string]*string{"data": &o.DataPassphraseFile, "infra": &o.InfraPassphraseFile} {
		for kind, scheme := range map[string]string{
			"fd": mountopt.ByDescriptor, "program": mountopt.ByProgram, "credential": mountopt.ByCredential,
		} {
			if name := layer + "-passphrase-" + kind; c.IsSet(name) {
				*field = scheme + fmt.Sprint(c.Value(name))
			}
		}
	}
}

// storesOf finds the key stores that the options and the environment name.
func storesOf(con *console, o *mountopt.Options) (storeRefs, error) {
	var refs storeRefs
	dir := o.Keystore
	if dir == "" {
		refs.IsDefault = o.DataKeystore == "" && o.InfraKeystore == ""
		dir = con.getenv("PLYFS_KEYSTORE")
	}
	if dir == "" {
		dir = defaultKeystore
	}
	refs.Data = storeRef{Layer: cipher.LayerData, Path: o.DataKeystore, KeyFile: o.DataKeyFile, PassphraseFile: o.DataPassphraseFile}
	refs.Infra = storeRef{Layer: cipher.LayerInfra, Path: o.InfraKeystore, KeyFile: o.InfraKeyFile, PassphraseFile: o.InfraPassphraseFile}
	if refs.Data.Path == "" {
		refs.Data.Path = filepath.Join(dir, "data.store")
	}
	if refs.Infra.Path == "" {
		refs.Infra.Path = filepath.Join(dir, "infra.store")
	}
	if p := refs.Data.PassphraseFile; p == refs.Infra.PassphraseFile && strings.HasPrefix(p, mountopt.ByDescriptor) {
		return refs, usageError("give each layer a descriptor of its own", "both passphrases from the one descriptor %s", p)
	}
	for _, p := range []*string{&refs.Data.Path, &refs.Infra.Path, &refs.Data.KeyFile, &refs.Infra.KeyFile} {
		if err := makeAbsolute(p); err != nil {
			return refs, err
		}
	}
	if refs.Data.Path == refs.Infra.Path {
		return refs, usageError("each layer has a store of its own", "one key store for both layers: %s", refs.Data.Path)
	}
	return refs, nil
}

func makeAbsolute(p *string) (err error) {
	if *p != "" {
		*p, err = filepath.Abs(*p)
	}
	return err
}

// subject says what the passphrase is for.
func (s storeRef) subject() subject {
	if s.IsBundle {
		return subject{of: fmt.Sprintf("%s layer's bundle", s.Layer), flag: "bundle-passphrase-file"}
	}
	return storeSubject(s.Layer)
}

// opener returns what opens the store. The passphrase that it brings is wiped
// by package keystore.
func (s storeRef) opener(con *console) keystore.Opener {
	return keystore.Opener{
		KeyFile: s.KeyFile,
		Passphrase: func() ([]byte, error) {
			if s.secret != nil {
				return bytes.Clone(s.secret), nil
			}
			return con.readSecret(s.subject(), s.PassphraseFile, false)
		},
	}
}

// open opens the store.
func (s storeRef) open(con *console) (*keystore.Store, error) {
	return keystore.OpenStore(s.Path, s.Layer, s.opener(con))
}

// wipeStores forgets the keys of stores, which may be nil.
func wipeStores(stores ...*keystore.Store) {
	for _, s := range stores {
		if s != nil {
			s.Wipe()
		}
	}
}

// exists reports whether the path names anything.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if os.IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// clearKeys forgets a volume's keys.
func clearKeys(k *cipher.Keys) {
	clear(k.Data[:])
	clear(k.Infra[:])
}
