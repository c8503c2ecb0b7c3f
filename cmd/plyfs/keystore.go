package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

func keystoreCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "keystore",
		Usage: "make and manage the key stores of a fleet or a host",
		Subcommands: []*cli.Command{{
			Name:      "init",
			Usage:     "make a data and an infra key store",
			UsageText: "plyfs keystore init [OPTION]...",
			Description: "Each layer of encryption has a key store of its own. It is opened by a key file\n" +
				"beside it, or by a passphrase. Nothing is ever overwritten.",
			Flags: append(append(storeFlags(),
				&cli.BoolFlag{Name: "data-passphrase", Usage: "protect the data layer's store by a passphrase, and ask for it"},
				&cli.BoolFlag{Name: "infra-passphrase", Usage: "protect the infra layer's store by a passphrase, and ask for it"}),
				nameFlags()...),
			Action: func(c *cli.Context) error {
				if _, err := places(c); err != nil {
					return err
				}
				var o mountopt.Options
				flagsOverOptions(c, &o)
				refs, err := storesOf(con, &o)
				if err != nil {
					return err
				}
				refs.Data.Ask, refs.Infra.Ask = c.Bool("data-passphrase"), c.Bool("infra-passphrase")
				harden()
				return makeStores(con, refs, namesOf(c))
			},
		},
			clusterCommand(con), groupCommand(con), rotateCommand(con), retireCommand(con), destroyCommand(con),
			keystoreExportCommand(con), keystoreImportCommand(con)},
	}
}

// nameFlags are the cluster and group that something is made for.
func nameFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "cluster", Value: "default", Usage: "`NAME` of the cluster of machines (default: default)"},
		&cli.StringFlag{Name: "group", Value: "default", Usage: "`NAME` of the machine group in it (default: default)"},
	}
}

func namesOf(c *cli.Context) keystore.Names {
	return keystore.Names{Cluster: c.String("cluster"), Group: c.String("group")}
}

// makeStores makes both key stores, or none, and says what to back up.
func makeStores(con *console, refs storeRefs, names keystore.Names) error {
	if err := names.Validate(); err != nil {
		return err
	}
	if err := checkNoStores(refs); err != nil {
		return err
	}
	if err := refs.Data.create(con, names); err != nil {
		return err
	}
	if err := refs.Infra.create(con, names); err != nil {
		return errors.Join(err, refs.Data.remove())
	}
	con.note("made two key stores for cluster %s, group %s:", names.Cluster, names.Group)
	for _, s := range []storeRef{refs.Data, refs.Infra} {
		con.note("  %-5s layer  %s  opened by %s", s.Layer, s.Path, s.openedBy())
	}
	con.note("BACK THEM UP NOW, key files and passphrases included, each layer in a different place.")
	con.note("Without them every volume made with them is lost for good; nobody can recover it.")
	for _, s := range []storeRef{refs.Data, refs.Infra} {
		for _, path := range s.files() {
			con.print("%s\n", path)
		}
	}
	return nil
}

// checkNoStores refuses key stores that are there, or a part of them.
func checkNoStores(refs storeRefs) error {
	var there, missing []string
	for _, s := range []storeRef{refs.Data, refs.Infra} {
		for _, path := range s.files() {
			ok, err := exists(path)
			if err != nil {
				return err
			}
			if ok {
				there = append(there, path)
			} else {
				missing = append(missing, path)
			}
		}
	}
	if len(there) == 0 {
		return nil
	}
	hint := "a lost key store is lost data: nothing is overwritten; name another place with --keystore DIR"
	if len(missing) > 0 {
		hint += ". " + interruptedInit(there, missing)
	}
	return &problem{err: fmt.Errorf("%s: %w", there[0], keystore.ErrExists), code: exitExists, hint: hint}
}

// interruptedInit says how to go on after an init that was interrupted between
// making the files of two key stores. Whether one was cannot be told from a loss.
func interruptedInit(there, missing []string) string {
	return fmt.Sprintf("If an init was interrupted here before it made %s, no volume was made with what it left: remove %s and repeat the command",
		strings.Join(missing, " and "), strings.Join(there, " and "))
}

// isByPassphrase reports whether a store that is to be made asks for one.
func (s storeRef) isByPassphrase() bool { return s.Ask || s.PassphraseFile != "" }

// files are the files that a new store consists of.
func (s storeRef) files() []string {
	if s.isByPassphrase() {
		return []string{s.Path}
	}
	return []string{s.Path, s.keyFile()}
}

func (s storeRef) keyFile() string {
	if s.KeyFile != "" {
		return s.KeyFile
	}
	return keystore.DefaultKeyFile(s.Path)
}

func (s storeRef) openedBy() string {
	if s.isByPassphrase() {
		return "a passphrase"
	}
	return s.keyFile()
}

// remove takes a store away that this command has just made.
func (s storeRef) remove() error {
	var errs []error
	for _, path := range s.files() {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// create makes the store with its key file or passphrase.
func (s storeRef) create(con *console, names keystore.Names) error {
	if err := s.makeDirs(); err != nil {
		return err
	}
	return keystore.CreateStore(s.Path, s.Layer, s.maker(con), names)
}

// maker returns what protects a new store.
func (s storeRef) maker(con *console) keystore.Opener {
	o := keystore.Opener{KeyFile: s.KeyFile}
	if s.isByPassphrase() {
		o.Passphrase = func() ([]byte, error) { return con.readSecret(s.subject(), s.PassphraseFile, true) }
	}
	return o
}

// makeDirs makes the directories of a new store.
func (s storeRef) makeDirs() error {
	for _, path := range s.files() {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	return nil
}
