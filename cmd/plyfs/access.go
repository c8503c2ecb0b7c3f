package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider"
)

// defaultProviders is where a host names its key providers unless the caller
// says otherwise.
const defaultProviders = "/etc/plyfs/providers"

// keyring says where what opens a volume lies. Paths are absolute.
type keyring struct {
	Config    string    `json:"config"` // the volume's config
	Stores    storeRefs `json:"stores"`
	Providers string    `json:"providers"` // directory
	Recovery  string    `json:"recovery"`  // name of the recovery slots to use; empty: none
}

// configFlag names a config that is not in the ciphertext directory.
func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "`FILE` with the volume's wrapped keys, kept elsewhere than as plyfs.json in it"}
}

// keyringFlags are the flags of commands that open a volume.
func keyringFlags() []cli.Flag {
	return append([]cli.Flag{
		configFlag(), providersFlag(),
		&cli.StringFlag{Name: "recovery", Usage: "open by the recovery slots called `NAME`, by their passphrases"},
	}, storeFlags()...)
}

func providersFlag() cli.Flag {
	return &cli.StringFlag{Name: "providers", Usage: "`DIR` with the key providers of this host (default: $PLYFS_PROVIDERS, else " + defaultProviders + ")"}
}

// keyringFlagsOverOptions lets keyringFlags override the options of the same
// names.
func keyringFlagsOverOptions(c *cli.Context, o *mountopt.Options) {
	flagsOverOptions(c, o)
	for name, field := range map[string]*string{"config": &o.Config, "providers": &o.Providers, "recovery": &o.Recovery} {
		if c.IsSet(name) {
			*field = c.String(name)
		}
	}
}

// keyringOf finds what the options and the environment name for the volume in
// a ciphertext directory.
func keyringOf(con *console, source string, o *mountopt.Options) (keyring, error) {
	stores, err := storesOf(con, o)
	k := keyring{Config: configPath(source, o.Config), Stores: stores, Providers: o.Providers, Recovery: o.Recovery}
	if err != nil {
		return k, err
	}
	if k.Providers == "" {
		k.Providers = con.getenv("PLYFS_PROVIDERS")
	}
	if k.Providers == "" {
		k.Providers = defaultProviders
	}
	if err := makeAbsolute(&k.Config); err != nil {
		return k, err
	}
	return k, makeAbsolute(&k.Providers)
}

// configPath is where the config of a ciphertext directory lies: named, empty
// for its usual place.
func configPath(source, named string) string {
	if named != "" {
		return named
	}
	return filepath.Join(source, keystore.ConfigName)
}

// isIn reports whether the config is at its usual place in a ciphertext directory.
func (k *keyring) isIn(source string) bool {
	dir, err := filepath.Abs(source)
	return err == nil && k.Config == configPath(dir, "")
}

// checkRecovery refuses the name of a recovery slot that no layer has.
func (k *keyring) checkRecovery(config *keystore.Config) error {
	if k.Recovery == "" || config.Recovers(cipher.LayerData, k.Recovery) || config.Recovers(cipher.LayerInfra, k.Recovery) {
		return nil
	}
	return usageError("'plyfs info' lists those that there are", "no layer has a recovery slot %q", k.Recovery)
}

// recoverySubject is the passphrase of a recovery slot.
func recoverySubject(l cipher.Layer, name string) subject {
	return subject{of: fmt.Sprintf("%s layer's recovery slot %s", l, name), flag: fmt.Sprintf("%s-passphrase-file", l)}
}

// access opens the stores that a volume of so many layers needs. A layer that
// a recovery slot opens needs none; a store of it under a key file is opened all
// the same where it is there, so that the volume can be wrapped under it. config
// is nil for a new volume, which needs all stores; for one that is there, what
// keeps a store closed is in the access, to be told with what else does not open.
// The caller wipes the stores of the access with wipeStores.
func (k *keyring) access(con *console, config *keystore.Config, layers int) (keystore.Access, error) {
	a := keystore.Access{
		Layers: layers, Recovery: k.Recovery,
		Providers:  &provider.Host{Dir: k.Providers, Path: con.getenv("PATH"), Environ: os.Environ(), Log: func(line string) { con.note("%s", line) }},
		Passphrase: func(l cipher.Layer) ([]byte, error) { return k.recoveryPassphrase(con, l) },
	}
	for _, s := range []struct {
		ref  storeRef
		into **keystore.Store
	}{{k.Stores.Data, &a.Data}, {k.Stores.Infra, &a.Infra}} {
		if int(s.ref.Layer) > layers || config != nil && config.Recovers(s.ref.Layer, k.Recovery) && !s.ref.toWrap() {
			continue
		}
		*s.into, a.Unopened[s.ref.Layer-1] = s.ref.open(con)
	}
	if err := keystore.JoinLayers(a.Unopened[0], a.Unopened[1]); err != nil && config == nil {
		wipeStores(a.Data, a.Infra)
		return keystore.Access{}, err
	}
	return a, nil
}

// toWrap reports whether the store is there and asks for no passphrase, which
// is the recovery slot's.
func (s storeRef) toWrap() bool {
	i, err := keystore.ReadStoreInfo(s.Path)
	return err == nil && i.Protection == keystore.ByKeyFile
}

func (k *keyring) recoveryPassphrase(con *console, l cipher.Layer) ([]byte, error) {
	ref := k.Stores.ofLayer(l)
	if ref.secret != nil {
		return bytes.Clone(ref.secret), nil
	}
	return con.readSecret(recoverySubject(l, k.Recovery), ref.PassphraseFile, false)
}
