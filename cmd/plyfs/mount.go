package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// mountRequest is what the options say of the mount itself.
type mountRequest struct {
	Options mountopt.Options `json:"options"`
	Layers  int              `json:"layers"` // that the volume must have
}

func mountCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "mount a volume",
		UsageText: "plyfs mount [OPTION]... CIPHERDIR MOUNTPOINT",
		Description: "It returns when the mount serves; a daemon stays in the background, until\n" +
			"'plyfs umount' or umount(8).",
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "o", Aliases: []string{"options"}, Usage: "a list, `OPTION,...`, as in fstab; 'plyfs help options' lists them"},
			&cli.BoolFlag{Name: "f", Aliases: []string{"foreground"}, Usage: "stay in the foreground, with the log on standard error"},
			&cli.StringFlag{Name: "cluster", Usage: "refuse a volume of a cluster other than `NAME`"},
			&cli.StringFlag{Name: "group", Usage: "refuse a volume of a group other than `NAME`"},
			&cli.StringFlag{Name: "log", Usage: "write the daemon's log to `FILE` (default: syslog, else a file)"},
			&cli.BoolFlag{Name: "debug", Usage: "log more, and every FUSE request"},
		}, keyringFlags()...),
		Action: func(c *cli.Context) error {
			p, err := places(c, "CIPHERDIR", "MOUNTPOINT")
			if err != nil {
				return err
			}
			lists := c.StringSlice("o")
			o, err := mountopt.Parse(lists...)
			if err != nil {
				return err
			}
			if o.Remount {
				return remount(con, p[0], p[1], mountopt.Partial, lists)
			}
			keyringFlagsOverOptions(c, &o)
			for name, field := range map[string]*string{"cluster": &o.Cluster, "group": &o.Group, "log": &o.Log} {
				if c.IsSet(name) {
					*field = c.String(name)
				}
			}
			o.Debug = o.Debug || c.Bool("debug")
			return mount(con, p[0], p[1], o, c.Bool("f"))
		},
	}
}

// mount mounts source at target; it returns when the mount serves, or, in the
// foreground, when it has ended.
func mount(con *console, source, target string, o mountopt.Options, foreground bool) error {
	harden()
	r, err := newRequest(con, source, target, o)
	if err != nil {
		return err
	}
	defer r.wipe()
	if err := checkSource(r.Source); err != nil {
		return err
	}
	if err := checkTarget(r.Source, r.Target); err != nil {
		return err
	}
	config, err := readConfig(r.Keys.Config)
	if err != nil {
		return err
	}
	if err := checkLayers(config, r.Mount.Layers); err != nil {
		return err
	}
	if err := r.Keys.checkRecovery(config); err != nil {
		return err
	}
	if err := collectPassphrases(con, r, config); err != nil {
		return err
	}
	if !foreground {
		err := startDaemon(con, r)
		if err == nil {
			enterTable(r.Source, r.Target)
		}
		return err
	}
	r.Log.Stderr = r.Log.File == ""
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return serve(ctx, r, con.foreground(r))
}

// newRequest makes paths absolute and reads what the options say.
func newRequest(con *console, source, target string, o mountopt.Options) (*request, error) {
	if err := o.CheckIdentity(source); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 && (o.Suid || o.Dev) {
		return nil, usageError("leave out suid and dev", "only root mounts with set-user-ID programs or devices")
	}
	if err := checkText(source, target, o.Config, o.Journal, o.Log, o.Audit); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(source) {
		var err error
		if source, err = filepath.Abs(source); err != nil {
			return nil, err
		}
	}
	keys, err := keyringOf(con, source, &o)
	if err != nil {
		return nil, err
	}
	resolved, err := resolveTarget(target)
	if err != nil {
		return nil, &problem{err: fmt.Errorf("mountpoint: %w", err), code: exitMount, hint: "make the directory first"}
	}
	if err := checkText(source, resolved); err != nil { // the directories that they are relative to
		return nil, err
	}
	log := logChoice{File: o.Log, Fallback: fallbackLog(con, resolved), Debug: o.Debug}
	if err := makeAbsolute(&log.File); err != nil {
		return nil, err
	}
	if o.Audit != auditSyslog {
		if err := makeAbsolute(&o.Audit); err != nil {
			return nil, err
		}
	}
	if err := makeAbsolute(&o.Journal); err != nil {
		return nil, err
	}
	layers := o.Layers
	if layers == 0 {
		layers = 2
	}
	return &request{
		Source:   source,
		Target:   resolved,
		Mount:    mountRequest{Options: o, Layers: layers},
		Keys:     keys,
		Log:      log,
		StateDir: stateDir(con),
		Pins:     pinsPath(con),
	}, nil
}

// checkText refuses paths that are no UTF-8: they would not come through to the
// daemon, nor into what status and the logs say.
func checkText(paths ...string) error {
	for _, p := range paths {
		if !utf8.ValidString(p) {
			return usageError("rename it, or bind-mount it at another place", "the path %q is not UTF-8", p)
		}
	}
	return nil
}

// checkTarget refuses a mountpoint that is taken, a volume that is mounted,
// and what is no mountpoint. A mount that lost its daemon is taken away.
func checkTarget(source, target string) error {
	if err := removeDead(target); err != nil {
		return err
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range volumeMounts(mounts) {
		if sameDir(m.Source, source) && !isDead(m) {
			return &problem{err: fmt.Errorf("%s is mounted at %s already", source, m.Target), code: exitBusy,
				hint: "a volume is mounted once; mount --bind makes a second place"}
		}
	}
	if err := checkFree(mounts, target); err != nil {
		return err
	}
	st, err := os.Stat(target)
	switch {
	case err != nil:
		return &problem{err: fmt.Errorf("mountpoint: %w", err), code: exitMount}
	case !st.IsDir():
		return &problem{err: fmt.Errorf("mountpoint %s is not a directory", target), code: exitMount}
	}
	return checkNesting(source, target)
}

// checkFree refuses a mountpoint at which a volume is mounted.
func checkFree(mounts []mountEntry, target string) error {
	if m, ok := mountedAt(mounts, target); ok && m.Type == fsType {
		return &problem{err: fmt.Errorf("%s: another volume is mounted there, %s", target, m.Source), code: exitBusy,
			hint: "unmount it, or choose another mountpoint"}
	}
	return nil
}

// removeDead takes away mounts at target whose daemon is gone.
func removeDead(target string) error {
	for {
		mounts, err := readMounts()
		if err != nil {
			return err
		}
		m, ok := mountedAt(mounts, target)
		if !ok || m.Type != fsType || !isDead(m) {
			return nil
		}
		// The lock is free; the kernel must agree before the mount goes.
		var st unix.Statfs_t
		if !errors.Is(unix.Statfs(target, &st), unix.ENOTCONN) {
			return nil
		}
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			return &problem{err: fmt.Errorf("%s: the mount there lost its daemon, and does not unmount: %w", target, err), code: exitBusy}
		}
	}
}

// checkSource refuses what is no directory.
func checkSource(source string) error {
	st, err := os.Stat(source)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &problem{err: fmt.Errorf("ciphertext directory: %w", err), code: exitNotVolume, hint: "make a volume with 'plyfs init " + source + "'"}
	case err != nil:
		return fmt.Errorf("ciphertext directory: %w", err)
	case !st.IsDir():
		return &problem{err: fmt.Errorf("%s is not a directory, and so no plyfs volume", source), code: exitNotVolume}
	}
	return nil
}

// checkNesting refuses a mount over or around its own ciphertext, which would
// wait for itself.
func checkNesting(source, target string) error {
	s, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	if s == target || strings.HasPrefix(s, strings.TrimSuffix(target, "/")+"/") || strings.HasPrefix(target, s+"/") {
		return usageError("choose a mountpoint outside of the ciphertext directory", "%s and %s lie one in the other", source, target)
	}
	return nil
}

// collectPassphrases reads those that key stores or recovery slots ask for.
// The daemon has no terminal, and none of the caller's descriptors. A store that
// cannot be read is left to it, which tells what it finds of the other layer too.
func collectPassphrases(con *console, r *request, config *keystore.Config) error {
	var failed [2]error
	for _, s := range []struct {
		ref  storeRef
		into *[]byte
	}{{r.Keys.Stores.Data, &r.Data}, {r.Keys.Stores.Infra, &r.Infra}} {
		if s.ref.Layer == 2 && r.Mount.Layers < 2 {
			continue
		}
		if config.Recovers(s.ref.Layer, r.Keys.Recovery) {
			*s.into, failed[s.ref.Layer-1] = r.Keys.recoveryPassphrase(con, s.ref.Layer)
			continue
		}
		if info, err := keystore.ReadStoreInfo(s.ref.Path); err != nil || info.Protection != keystore.ByPassphrase {
			continue
		}
		*s.into, failed[s.ref.Layer-1] = con.readPassphrase(s.ref.Layer, s.ref.PassphraseFile, false)
	}
	return keystore.JoinLayers(failed[0], failed[1])
}
