package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// layerFlag restricts a command to one layer.
func layerFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "layer", Usage: "`LAYER`, data or infra" + usage}
}

// layerOf reads --layer; 0 where it is not given.
func layerOf(c *cli.Context) (cipher.Layer, error) {
	switch l := c.String("layer"); l {
	case "":
		return 0, nil
	case cipher.LayerData.String():
		return cipher.LayerData, nil
	case cipher.LayerInfra.String():
		return cipher.LayerInfra, nil
	default:
		return 0, usageError("it is data or infra", "unknown layer %q", l)
	}
}

// oneLayer is layerOf for commands that are about one layer.
func oneLayer(c *cli.Context) (cipher.Layer, error) {
	l, err := layerOf(c)
	if err == nil && l == 0 {
		err = usageError("--layer data or --layer infra: each layer has keys of its own", "--layer is missing")
	}
	return l, err
}

// ofLayer returns a layer's store.
func (r storeRefs) ofLayer(l cipher.Layer) storeRef {
	if l == cipher.LayerInfra {
		return r.Infra
	}
	return r.Data
}

// refsOf finds the key stores that a command line names.
func refsOf(con *console, c *cli.Context) (storeRefs, error) {
	var o mountopt.Options
	flagsOverOptions(c, &o)
	return storesOf(con, &o)
}

// openedStores opens the stores of the layer that --layer says, or of both.
func openedStores(con *console, c *cli.Context) ([]*keystore.Store, error) {
	harden()
	layer, err := layerOf(c)
	if err != nil {
		return nil, err
	}
	refs, err := refsOf(con, c)
	if err != nil {
		return nil, err
	}
	var stores []*keystore.Store
	for _, ref := range []storeRef{refs.Data, refs.Infra} {
		if layer != 0 && layer != ref.Layer {
			continue
		}
		s, err := ref.open(con)
		if err != nil {
			wipeStores(stores...)
			return nil, err
		}
		stores = append(stores, s)
	}
	return stores, nil
}

// change applies a change to the stores in turn. One that fails after another succeeded says how to finish.
func change(con *console, stores []*keystore.Store, do func(*keystore.Store) (string, error)) error {
	for i, s := range stores {
		said, err := do(s)
		if err != nil && i > 0 {
			con.warn("the %s layer is done, the %s layer is not: repeat with --layer %s", stores[0].Layer(), s.Layer(), s.Layer())
		}
		if err != nil {
			return err
		}
		con.note("%s", said)
	}
	con.note("back up the changed key stores")
	return nil
}

func clusterCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:  "cluster",
		Usage: "add a cluster of machines, or list them",
		Subcommands: []*cli.Command{
			{
				Name:        "add",
				Usage:       "add a cluster without groups",
				UsageText:   "plyfs keystore cluster add [OPTION]... CLUSTER",
				Description: "It is added to the stores of both layers. Its keys are derived from the root.",
				Flags:       append([]cli.Flag{layerFlag(" alone (default: both)")}, storeFlags()...),
				Action: func(c *cli.Context) error {
					p, err := places(c, "CLUSTER")
					if err != nil {
						return err
					}
					return onStores(con, c, func(s *keystore.Store) (string, error) {
						return fmt.Sprintf("added cluster %s to %s", p[0], s.Path()), s.AddCluster(p[0])
					})
				},
			},
			{
				Name:      "ls",
				Usage:     "list clusters with their epochs",
				UsageText: "plyfs keystore cluster ls [OPTION]...",
				Flags:     append([]cli.Flag{jsonFlag(), layerFlag(" alone (default: both)")}, storeFlags()...),
				Action: func(c *cli.Context) error {
					return listScopes(con, c, func(n keystore.Names) bool { return n.Cluster != "" && n.Group == "" })
				},
			},
		},
	}
}

func groupCommand(con *console) *cli.Command {
	cluster := &cli.StringFlag{Name: "cluster", Value: "default", Usage: "`NAME` of the cluster that it is in (default: default)"}
	return &cli.Command{
		Name:  "group",
		Usage: "add a machine group, or list them",
		Subcommands: []*cli.Command{
			{
				Name:        "add",
				Usage:       "add a machine group to a cluster",
				UsageText:   "plyfs keystore group add [OPTION]... --cluster CLUSTER GROUP",
				Description: "It is added to the stores of both layers. Its keys come from its cluster's.",
				Flags:       append([]cli.Flag{cluster, layerFlag(" alone (default: both)")}, storeFlags()...),
				Action: func(c *cli.Context) error {
					p, err := places(c, "GROUP")
					if err != nil {
						return err
					}
					n := keystore.Names{Cluster: c.String("cluster"), Group: p[0]}
					return onStores(con, c, func(s *keystore.Store) (string, error) {
						return fmt.Sprintf("added group %s to %s", n, s.Path()), s.AddGroup(n)
					})
				},
			},
			{
				Name:      "ls",
				Usage:     "list machine groups with their epochs",
				UsageText: "plyfs keystore group ls [OPTION]... [--cluster CLUSTER]",
				Flags: append([]cli.Flag{jsonFlag(), layerFlag(" alone (default: both)"),
					&cli.StringFlag{Name: "cluster", Usage: "`NAME` of the cluster whose groups are meant (default: all)"}}, storeFlags()...),
				Action: func(c *cli.Context) error {
					in := c.String("cluster")
					return listScopes(con, c, func(n keystore.Names) bool { return n.Group != "" && (in == "" || n.Cluster == in) })
				},
			},
		},
	}
}

// onStores opens the stores that a command is about and changes them.
func onStores(con *console, c *cli.Context, do func(*keystore.Store) (string, error)) error {
	stores, err := openedStores(con, c)
	if err != nil {
		return err
	}
	defer wipeStores(stores...)
	return change(con, stores, do)
}

// storeListing is a key store in the answer of cluster ls and group ls.
type storeListing struct {
	Layer      string         `json:"layer"`
	Path       string         `json:"path"`
	Holds      string         `json:"holds"`                 // fleet or host
	RootEpochs []uint32       `json:"root_epochs,omitempty"` // of a fleet's store
	Entries    []scopeListing `json:"entries"`
}

// scopeListing is a cluster or group in it.
type scopeListing struct {
	Cluster string `json:"cluster"`
	Group   string `json:"group,omitempty"`
	Epoch   uint32 `json:"epoch"`   // the newest
	Retired uint32 `json:"retired"` // epochs up to this one are refused
	ForGood bool   `json:"retired_for_good"`
}

func listScopes(con *console, c *cli.Context, wanted func(keystore.Names) bool) error {
	if _, err := places(c); err != nil {
		return err
	}
	stores, err := openedStores(con, c)
	if err != nil {
		return err
	}
	defer wipeStores(stores...)
	var all []storeListing
	for _, s := range stores {
		all = append(all, listingOf(s, wanted))
	}
	if c.Bool("json") {
		return con.json(all)
	}
	for _, l := range all {
		l.print(con)
	}
	return nil
}

func listingOf(s *keystore.Store, wanted func(keystore.Names) bool) storeListing {
	l := storeListing{Layer: s.Layer().String(), Path: s.Path(), Holds: "fleet", Entries: []scopeListing{}}
	if s.IsHost() {
		l.Holds = "host"
	}
	for _, i := range s.Scopes() {
		if i.Scope == (keystore.Names{}) {
			l.RootEpochs = i.Roots
		} else if wanted(i.Scope) {
			l.Entries = append(l.Entries, scopeListing{Cluster: i.Scope.Cluster, Group: i.Scope.Group, Epoch: i.Epoch, Retired: i.Retired, ForGood: i.ForGood})
		}
	}
	return l
}

func (l storeListing) print(con *console) {
	what := "the keys of a host"
	if l.RootEpochs != nil {
		what = "root epochs " + strings.Trim(fmt.Sprint(l.RootEpochs), "[]")
	}
	con.print("%s layer, %s: %s\n", l.Layer, l.Path, what)
	var rows [][2]string
	for _, e := range l.Entries {
		name := strings.TrimSuffix(e.Cluster+"/"+e.Group, "/")
		state := fmt.Sprintf("epoch %d", e.Epoch)
		switch {
		case e.ForGood:
			state += ", retired for good"
		case e.Retired > 0:
			state += fmt.Sprintf(", retired up to epoch %d", e.Retired)
		}
		rows = append(rows, [2]string{name, state})
	}
	con.table("   ", rows)
}

// scopeFlags name the root, a cluster or a group.
func scopeFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.BoolFlag{Name: "root", Usage: "the root itself"},
		&cli.StringFlag{Name: "cluster", Usage: "the cluster `NAME`, or the one that the group is in"},
		&cli.StringFlag{Name: "group", Usage: "the machine group `NAME`"},
		layerFlag(" alone (default: both)"),
	}, storeFlags()...)
}

// scopeOf reads what scopeFlags say.
func scopeOf(c *cli.Context) (keystore.Names, error) {
	if _, err := places(c); err != nil {
		return keystore.Names{}, err
	}
	n := keystore.Names{Cluster: c.String("cluster"), Group: c.String("group")}
	switch {
	case c.Bool("root") && n != (keystore.Names{}):
		return n, usageError("--root is above clusters and groups", "both --root and --cluster or --group")
	case !c.Bool("root") && n.Cluster == "":
		return n, usageError("--root, --cluster NAME, or --cluster NAME --group NAME", "which key")
	}
	return n, nil
}

func scopeName(n keystore.Names) string {
	switch {
	case n == (keystore.Names{}):
		return "the root"
	case n.Group == "":
		return "cluster " + n.Cluster
	}
	return "group " + n.String()
}

func rotateCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "rotate",
		Usage:     "begin a new epoch of the root, a cluster or a group",
		UsageText: "plyfs keystore rotate [OPTION]... {--root | --cluster C [--group G]}",
		Description: "New volumes are wrapped under the new epoch. Others keep to the old one until\n" +
			"'plyfs key rotate' re-wraps them. Hosts need a new bundle: export, then import.",
		Flags: scopeFlags(),
		Action: func(c *cli.Context) error {
			scope, err := scopeOf(c)
			if err != nil {
				return err
			}
			return onStores(con, c, func(s *keystore.Store) (string, error) {
				epoch, err := s.Rotate(scope)
				return fmt.Sprintf("%s of %s is at epoch %d now", scopeName(scope), s.Path(), epoch), err
			})
		},
	}
}

func retireCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "retire",
		Usage:     "refuse an old epoch, a cluster or a group",
		UsageText: "plyfs keystore retire {--root | --cluster C [--group G]} [OPTION]...",
		Description: "The keys stay in the store, since a derived key lives as long as its root, but\n" +
			"nothing is wrapped or unwrapped with them any more. Hosts learn of it with the\n" +
			"next bundle that they import. Re-wrap volumes first: 'plyfs key rotate'.",
		Flags: append([]cli.Flag{
			&cli.Uint64Flag{Name: "epoch", Usage: "the epochs up to `N` (default: a cluster or group for good)"}}, scopeFlags()...),
		Action: func(c *cli.Context) error {
			scope, err := scopeOf(c)
			if err != nil {
				return err
			}
			epoch, err := epochOf(c, "epoch")
			if err != nil {
				return err
			}
			said := "for good"
			if epoch > 0 {
				said = fmt.Sprintf("up to epoch %d", epoch)
			}
			return onStores(con, c, func(s *keystore.Store) (string, error) {
				return fmt.Sprintf("retired %s of %s %s", scopeName(scope), s.Path(), said), s.Retire(scope, epoch)
			})
		},
	}
}

// epochOf reads a flag that is an epoch; 0 where it is not given.
func epochOf(c *cli.Context, flag string) (uint32, error) {
	epoch := c.Uint64(flag)
	if c.IsSet(flag) && (epoch == 0 || epoch >= 1<<32-1) {
		return 0, usageError("epochs count from 1", "no epoch %d", epoch)
	}
	return uint32(epoch), nil
}

func destroyCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "destroy",
		Usage:     "destroy a root epoch, or a host's keys",
		UsageText: "plyfs keystore destroy --layer LAYER [OPTION]...",
		Description: "In a fleet's store: an old root epoch, and with it every key derived from it.\n" +
			"On a host: the layer's store whole, or one of its groups. What was wrapped under\n" +
			"the keys is lost then, save with copies of the store. It asks first.",
		Flags: append([]cli.Flag{
			&cli.Uint64Flag{Name: "root-epoch", Usage: "the root epoch `N`"},
			&cli.StringFlag{Name: "cluster", Usage: "of a host's store that holds several groups, only the one in the cluster `NAME`"},
			&cli.StringFlag{Name: "group", Usage: "that is called `NAME`"},
			layerFlag(""), yesFlag(),
		}, storeFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := places(c); err != nil {
				return err
			}
			layer, err := oneLayer(c)
			if err != nil {
				return err
			}
			root, err := epochOf(c, "root-epoch")
			if err != nil {
				return err
			}
			refs, err := refsOf(con, c)
			if err != nil {
				return err
			}
			harden()
			return destroy(con, c, refs.ofLayer(layer), root)
		},
	}
}

// destroy destroys what the flags say in a store: a root epoch where root is not 0.
func destroy(con *console, c *cli.Context, ref storeRef, root uint32) error {
	n := namesOf(c)
	if root == 0 && n == (keystore.Names{}) {
		if half, err := keystore.HalfDestroyed(ref.Path); err != nil {
			return err
		} else if half {
			return finishDestroy(con, c, ref)
		}
	}
	s, err := ref.open(con)
	if err != nil {
		return err
	}
	defer s.Wipe()
	switch {
	case root != 0 && n != (keystore.Names{}):
		return usageError("a root epoch of a fleet's store, or a group of a host's", "both --root-epoch and --cluster or --group")
	case root != 0:
		if err := con.confirm(c, "root epoch %d of %s: volumes wrapped under it will not open any more", root, s.Path()); err != nil {
			return err
		}
		if err := s.DestroyRoot(root); err != nil {
			return err
		}
		con.note("destroyed root epoch %d of %s", root, s.Path())
	case !s.IsHost():
		return usageError("name an old root epoch: --root-epoch N; derived keys are retired, not destroyed",
			"%s holds the roots of a fleet", s.Path())
	case n != (keystore.Names{}):
		if err := con.confirm(c, "the %s layer's keys of group %s on this host", s.Layer(), n); err != nil {
			return err
		}
		if err := s.DropGroup(n); err != nil {
			return err
		}
		con.note("destroyed the keys of group %s in %s", n, s.Path())
	default:
		if err := con.confirm(c, "%s, all of the %s layer's keys on this host", s.Path(), s.Layer()); err != nil {
			return err
		}
		if err := s.Destroy(ref.opener(con)); err != nil {
			return err
		}
		con.note("overwrote and removed %s", strings.Join(ref.present(s.Info().Protection), " and "))
	}
	con.note(destroyedHere)
	return nil
}

const destroyedHere = "copies, backups and snapshots of the store keep what was destroyed here; so may flash and a copying filesystem"

// finishDestroy goes on with a command that was interrupted.
func finishDestroy(con *console, c *cli.Context, ref storeRef) error {
	if err := con.confirm(c, "what an interrupted command left of %s, all of the %s layer's keys on this host", ref.Path, ref.Layer); err != nil {
		return err
	}
	if err := keystore.FinishDestroy(ref.Path, ref.Layer, ref.opener(con)); err != nil {
		return err
	}
	con.note("overwrote and removed what an interrupted command had left of %s", ref.Path)
	con.note(destroyedHere)
	return nil
}

// present are the files of a store of the given protection.
func (s storeRef) present(p keystore.Protection) []string {
	if p == keystore.ByKeyFile {
		return []string{s.keyFile(), s.Path}
	}
	return []string{s.Path}
}

// yesFlag lets a command do without asking.
func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Usage: "do it without asking"}
}

// confirm asks whether to destroy something, at the terminal, unless --yes was said.
func (con *console) confirm(c *cli.Context, format string, args ...any) error {
	if c.Bool("yes") {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	tty, err := con.tty()
	if err != nil {
		return usageError("to do it without a terminal, say --yes", "this destroys %s", what)
	}
	defer tty.Close()
	fmt.Fprintf(tty, "This destroys %s.\nType yes to do it: ", what)
	var answer string
	if _, err := fmt.Fscanln(tty, &answer); err != nil || answer != "yes" {
		return &problem{err: errors.New("nothing was destroyed"), code: exitFailure, hint: "it takes the word yes, or --yes"}
	}
	return nil
}
