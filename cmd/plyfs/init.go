package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
	"github.com/plyfs/plyfs/keystore"
)

func initCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "init",
		Usage:     "make a volume in an empty directory",
		UsageText: "plyfs init [OPTION]... CIPHERDIR",
		Description: "The directory is made if it is missing. Where there are no key stores at the\n" +
			"default place, they are made too.",
		Flags: append(append(nameFlags(),
			&cli.IntFlag{Name: "block-size", Value: cipher.MinBlockSize, Usage: "block size in `BYTES`, a power of two from 4096 to 65536 (default: 4096)"},
			&cli.BoolFlag{Name: "single-layer", Usage: "only the data layer; such a volume mounts with -o layers=1 alone"},
			&cli.StringFlag{Name: "provider", Usage: "put the customer-managed key of the key provider `NAME` on the data layer"},
			configFlag(), providersFlag()),
			storeFlags()...),
		Action: func(c *cli.Context) error {
			p, err := places(c, "CIPHERDIR")
			if err != nil {
				return err
			}
			var o mountopt.Options
			keyringFlagsOverOptions(c, &o)
			keys, err := keyringOf(con, p[0], &o)
			if err != nil {
				return err
			}
			params, err := newParams(c.Int("block-size"), c.Bool("single-layer"))
			if err != nil {
				return err
			}
			harden()
			v := newVolume{dir: p[0], params: params, keys: keys, names: namesOf(c), provider: c.String("provider")}
			return v.init(c.Context, con)
		},
	}
}

// newVolume is a volume to be made.
type newVolume struct {
	dir      string
	params   cipher.Params
	keys     keyring
	names    keystore.Names
	provider string // of a customer-managed key on the data layer; empty: none
}

// newParams are those of a new volume, without its ID.
func newParams(blockSize int, single bool) (cipher.Params, error) {
	if _, err := cipher.NewLayout(blockSize); err != nil {
		return cipher.Params{}, usageError("4096 suits databases best", "%w", err)
	}
	p := cipher.Params{Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: uint32(blockSize)}
	if single {
		p.Suite, p.Layers = cipher.SuiteSingle, 1
	}
	return p, nil
}

// init makes the volume.
func (n *newVolume) init(ctx context.Context, con *console) (err error) {
	if err := n.names.Validate(); err != nil {
		return err
	}
	if err := checkEmpty(n.dir); err != nil {
		return err
	}
	if err := n.checkConfig(); err != nil {
		return err
	}
	if err := defaultStores(con, n.keys.Stores, n.names); err != nil {
		return err
	}
	access, err := n.keys.access(con, nil, int(n.params.Layers))
	if err != nil {
		return missingStore(err, n.keys.Stores)
	}
	defer wipeStores(access.Data, access.Infra)
	for _, s := range []*keystore.Store{access.Data, access.Infra} {
		if err := checkNames(s, n.names); err != nil {
			return err
		}
	}
	config, err := n.newConfig(ctx, access)
	if err != nil {
		return err
	}
	v, err := newCipher(ctx, config, access)
	if err != nil {
		return err
	}
	defer v.Wipe()
	if err := n.place(config, v); err != nil {
		return err
	}
	n.tell(con)
	return nil
}

func (n *newVolume) tell(con *console) {
	con.note("made a volume in %s: %s, blocks of %d bytes, cluster %s, group %s",
		n.dir, layersText(int(n.params.Layers)), n.params.BlockSize, n.names.Cluster, n.names.Group)
	if n.params.Layers == 1 {
		con.note("it has ONE layer of encryption: mount it with -o layers=1")
	}
	if n.provider != "" {
		con.note("its data layer opens with the customer-managed key of provider %s alone: no key, no data", n.provider)
	}
	if !n.keys.isIn(n.dir) {
		con.note("its wrapped keys are in %s and nowhere else: mount it with -o config=%s, and back that file up", n.keys.Config, n.keys.Config)
	}
}

// checkConfig refuses a place for the config that is taken, or in the volume.
func (n *newVolume) checkConfig() error {
	dir, err := filepath.Abs(n.dir)
	if err != nil {
		return err
	}
	if err := checkText(dir, n.keys.Config); err != nil {
		return err
	}
	if n.keys.isIn(dir) {
		return nil
	}
	if strings.HasPrefix(n.keys.Config, dir+"/") {
		return usageError("name a place on another medium", "the config %s is in the volume itself", n.keys.Config)
	}
	there, err := exists(n.keys.Config)
	if there {
		err = &problem{err: fmt.Errorf("%s: %w", n.keys.Config, keystore.ErrExists), code: exitExists}
	}
	return err
}

// newConfig makes the volume's keys, wrapped.
func (n *newVolume) newConfig(ctx context.Context, access keystore.Access) ([]byte, error) {
	config, keys, err := keystore.NewVolumeConfig(n.params, n.names, access.Data, access.Infra, nil)
	clearKeys(&keys)
	if err != nil || n.provider == "" {
		return config, err
	}
	parsed, err := keystore.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	e, err := parsed.Edit(ctx, access)
	if err != nil {
		return nil, err
	}
	defer e.Wipe()
	if err := e.AddProvider(ctx, cipher.LayerData, n.names, n.provider); err != nil {
		return nil, err
	}
	return e.Bytes()
}

// newCipher takes the keys from a new config, as each mount will.
func newCipher(ctx context.Context, config []byte, access keystore.Access) (*cipher.Volume, error) {
	parsed, err := keystore.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	u, err := parsed.Unlock(ctx, access)
	if err != nil {
		return nil, err
	}
	defer clearKeys(&u.Keys)
	return cipher.NewVolume(u.Params, u.Epoch, u.Keys, nil)
}

// place makes the volume's structure, and last of all its config: a directory
// without one is no volume. Asking for keys may have taken minutes, so that the
// directory must be found empty again. After a failure what this call made goes,
// and nothing else: what another init made, or anybody put there, is not its own.
func (n *newVolume) place(config []byte, v *cipher.Volume) (err error) {
	made, err := makeDir(n.dir)
	if err != nil {
		return err
	}
	root, err := backing.OpenDir(n.dir)
	if err != nil {
		return fmt.Errorf("ciphertext directory: %w", err)
	}
	defer root.Close()
	defer func() {
		if err != nil && made && !errors.Is(err, volume.ErrExists) {
			err = errors.Join(err, removeMade(n.dir, root))
		}
	}()
	if err := emptyRoot(root, n.dir); err != nil {
		return err
	}
	if err := volume.Format(root, v); err != nil {
		return volumeError(err)
	}
	if err := keystore.WriteConfig(n.keys.Config, config); err != nil {
		return errors.Join(err, volume.Unformat(root))
	}
	return nil
}

// checkEmpty refuses a directory that holds anything.
func checkEmpty(dir string) error {
	root, err := backing.OpenDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ciphertext directory: open %s: %w", dir, err)
	}
	defer root.Close()
	return emptyRoot(root, dir)
}

// emptyRoot is checkEmpty for the open directory.
func emptyRoot(root backing.Dir, dir string) error {
	s, err := root.ReadDir()
	if err != nil {
		return fmt.Errorf("ciphertext directory: %w", err)
	}
	defer s.Close()
	var names []string
	for {
		e, ok, err := s.Next()
		if err != nil {
			return fmt.Errorf("ciphertext directory: %w", err)
		}
		if !ok {
			break
		}
		if e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	holds, hint := fmt.Errorf("%s is not empty", dir), "name a new or an empty directory; one below it, perhaps"
	switch {
	case slices.Contains(names, keystore.ConfigName) || slices.Contains(names, keystore.ConfigName+".bak"):
		holds = fmt.Errorf("%s holds a plyfs volume already", dir)
	case slices.Contains(names, ".plyfs"):
		holds = fmt.Errorf("%s holds a volume without its config", dir)
		hint = "if an init was interrupted here there is nothing in it: remove it; but a volume whose config is kept elsewhere looks the same"
	}
	return &problem{err: holds, code: exitExists, hint: hint}
}

// defaultStores makes the key stores at the default place if neither is there.
func defaultStores(con *console, refs storeRefs, names keystore.Names) error {
	if !refs.IsDefault {
		return nil
	}
	for _, s := range []storeRef{refs.Data, refs.Infra} {
		if there, err := exists(s.Path); there || err != nil {
			return err
		}
	}
	con.note("there are no key stores yet")
	quiet := *con
	quiet.stdout = con.stderr
	return makeStores(&quiet, refs, names)
}

// missingStore says how to make a store that is not there. A key file that is
// missing is another matter.
func missingStore(err error, refs storeRefs) error {
	if !errors.Is(err, keystore.ErrMissing) {
		return err
	}
	hint := "make both with 'plyfs keystore init'"
	if dir := filepath.Dir(refs.Data.Path); !refs.IsDefault && dir == filepath.Dir(refs.Infra.Path) {
		hint = "make both with 'plyfs keystore init --keystore " + dir + "'"
	}
	hasData, _ := exists(refs.Data.Path)
	hasInfra, _ := exists(refs.Infra.Path)
	switch {
	case hasData && hasInfra:
		return err
	case hasData:
		hint = oneStore(refs.Data, refs.Infra)
	case hasInfra:
		hint = oneStore(refs.Infra, refs.Data)
	}
	return &problem{err: err, code: exitNotVolume, hint: hint}
}

// oneStore is the hint where one store is there and the other one is not.
func oneStore(is, isNot storeRef) string {
	there := []string{is.Path}
	for _, s := range []storeRef{is, isNot} {
		if ok, _ := exists(s.keyFile()); ok {
			there = append(there, s.keyFile())
		}
	}
	return is.Path + " is there, so the other one was lost or moved: bring it back. " + interruptedInit(there, []string{isNot.Path})
}

// checkNames refuses a cluster or group that a store does not hold. A nil
// store holds all.
func checkNames(s *keystore.Store, names keystore.Names) error {
	if s == nil {
		return nil
	}
	if clusters := s.Clusters(); !slices.Contains(clusters, names.Cluster) {
		return &problem{code: exitNoGroup, err: fmt.Errorf("%s: unknown cluster %q", s.Path(), names.Cluster),
			hint: "it holds: " + strings.Join(clusters, ", ")}
	}
	if groups := s.Groups(names.Cluster); !slices.Contains(groups, names.Group) {
		return &problem{code: exitNoGroup, err: fmt.Errorf("%s: unknown group %q in cluster %q", s.Path(), names.Group, names.Cluster),
			hint: "it holds: " + strings.Join(groups, ", ")}
	}
	return nil
}

// makeDir makes dir unless it is there, and reports whether it did. Its mode is
// that of the root directory in the mount: 0755, as mkfs gives one.
func makeDir(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // whatever the umask
	}
	return err == nil, err
}

// removeMade removes the directory that this command made and opened as root, if
// it is still there and empty.
func removeMade(dir string, root backing.Dir) error {
	mine, err := root.Stat("")
	if err != nil {
		return err
	}
	var there unix.Stat_t
	if err := unix.Lstat(dir, &there); err != nil || there.Dev != mine.Dev || there.Ino != mine.Ino {
		return nil
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

func layersText(n int) string {
	if n == 1 {
		return "one layer of encryption"
	}
	return "two layers of encryption"
}
