package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/keystore"
)

func keystoreExportCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write a machine group's keys of one layer for its hosts",
		UsageText: "plyfs keystore export --layer LAYER --out FILE [OPTION]...",
		Description: "The bundle holds the group's keys at the epochs in force and nothing above them.\n" +
			"It is opened by a passphrase, or else by a new key file, FILE.key: carry the two\n" +
			"to the host by different ways.",
		Flags: append(append([]cli.Flag{
			layerFlag(""),
			&cli.StringFlag{Name: "out", Usage: "the bundle's `FILE`, which must not be there yet"},
			&cli.BoolFlag{Name: "bundle-passphrase", Usage: "protect the bundle by a passphrase, and ask for it"},
		}, append(bundleFlags(), nameFlags()...)...), storeFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := places(c); err != nil {
				return err
			}
			layer, err := oneLayer(c)
			if err != nil {
				return err
			}
			out := c.String("out")
			if out == "" {
				return usageError("--out FILE", "--out is missing")
			}
			refs, err := refsOf(con, c)
			if err != nil {
				return err
			}
			harden()
			ref := bundleRef(c, layer, out)
			return exportBundle(con, refs.ofLayer(layer), ref, namesOf(c))
		},
	}
}

// bundleFlags say what opens a bundle.
func bundleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bundle-key-file", Usage: "`FILE` that opens the bundle (default: the bundle's name with .key)"},
		&cli.StringFlag{Name: "bundle-passphrase-file", Usage: "`FILE` with the bundle's passphrase; fd:N is an open descriptor"},
	}
}

// bundleRef is a bundle as a key store, which it is.
func bundleRef(c *cli.Context, layer cipher.Layer, path string) storeRef {
	return storeRef{Layer: layer, Path: path, KeyFile: c.String("bundle-key-file"),
		PassphraseFile: c.String("bundle-passphrase-file"), Ask: c.Bool("bundle-passphrase"), IsBundle: true}
}

func exportBundle(con *console, from, to storeRef, n keystore.Names) error {
	s, err := from.open(con)
	if err != nil {
		return err
	}
	defer s.Wipe()
	if err := s.Export(n, to.Path, to.maker(con)); err != nil {
		return err
	}
	con.note("wrote the %s layer's keys of group %s, opened by %s", s.Layer(), n, to.openedBy())
	for _, path := range to.files() {
		con.print("%s\n", path)
	}
	return nil
}

func keystoreImportCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "take a bundle into this host's key store",
		UsageText: "plyfs keystore import [OPTION]... --layer LAYER FILE",
		Description: "The host's store of that layer is made, under a key file or passphrase of its\n" +
			"own, or brought up to date. It holds its group's keys alone. Remove the bundle\n" +
			"and its key file afterwards.",
		Flags: append(append([]cli.Flag{
			layerFlag(""),
			&cli.BoolFlag{Name: "add", Usage: "add a group to those that the store holds"},
			&cli.BoolFlag{Name: "data-passphrase", Usage: "protect a new store of the data layer by a passphrase, and ask for it"},
			&cli.BoolFlag{Name: "infra-passphrase", Usage: "protect a new store of the infra layer by a passphrase, and ask for it"},
		}, bundleFlags()...), storeFlags()...),
		Action: func(c *cli.Context) error {
			p, err := places(c, "FILE")
			if err != nil {
				return err
			}
			layer, err := oneLayer(c)
			if err != nil {
				return err
			}
			refs, err := refsOf(con, c)
			if err != nil {
				return err
			}
			harden()
			ref := refs.ofLayer(layer)
			ref.Ask = c.Bool(layer.String() + "-passphrase")
			return importBundle(con, bundleRef(c, layer, p[0]), ref, c.Bool("add"))
		},
	}
}

func importBundle(con *console, from, to storeRef, add bool) error {
	b, err := from.open(con)
	if err != nil {
		return err
	}
	defer b.Wipe()
	there, err := exists(to.Path)
	if err != nil {
		return err
	}
	if there {
		s, err := to.open(con)
		if err != nil {
			return err
		}
		defer s.Wipe()
		if err := s.Import(b, add); err != nil {
			return err
		}
	} else if err := to.makeDirs(); err != nil {
		return err
	} else if err := keystore.CreateFromBundle(to.Path, b, to.maker(con)); err != nil {
		return err
	}
	con.note("imported the %s layer's keys of %s into %s", b.Layer(), hostGroups(b), to.Path)
	con.note("remove the bundle now: %s", strings.Join(from.present(b.Info().Protection), " and "))
	con.print("%s\n", to.Path)
	return nil
}

// hostGroups names the groups of a bundle.
func hostGroups(s *keystore.Store) string {
	var all []string
	for _, cl := range s.Clusters() {
		for _, g := range s.Groups(cl) {
			all = append(all, "group "+cl+"/"+g)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
