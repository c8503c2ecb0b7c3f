package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/dockervolume"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// dockerChoice is what the command line says of the plugin.
type dockerChoice struct {
	StateDir, MountDir, Socket string
	Allow                      []string
	Defaults                   dockervolume.Options
	Keys                       dockerKeys
	Log                        logChoice
}

func dockerPluginCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "docker-plugin",
		Usage:     "serve volumes to Docker",
		UsageText: "plyfs docker-plugin [OPTION]...",
		Description: "It stays in the foreground until SIGTERM. Each mounted volume has a daemon of\n" +
			"its own, which goes on when the plugin ends. Volumes are made with\n" +
			"'docker volume create -d plyfs [-o OPTION=VALUE]... NAME'; the options are\n" +
			"cluster, group, block-size, layers, journal-size and cipherdir.",
		Flags: append(append([]cli.Flag{
			&cli.StringFlag{Name: "state-dir", Value: "/var/lib/plyfs/volumes", Usage: "keep volumes and what is known of them in `DIR` (default: /var/lib/plyfs/volumes)"},
			&cli.StringFlag{Name: "mount-dir", Usage: "mount volumes below `DIR` (default: mnt in the state directory)"},
			&cli.StringFlag{Name: "socket", Value: "/run/docker/plugins/plyfs.sock", Usage: "listen on `PATH` (default: /run/docker/plugins/plyfs.sock)"},
			&cli.StringSliceFlag{Name: "allow-dir", Usage: "let -o cipherdir= name volumes below `DIR`; may be repeated"},
			&cli.StringFlag{Name: "log", Usage: "write the plugin's log to `FILE` (default: standard error)"},
			&cli.BoolFlag{Name: "debug", Usage: "log more"},
			&cli.StringFlag{Name: "provider", Usage: "put the customer-managed key of the key provider `NAME` on the data layer of volumes that are made"},
			providersFlag(),
			&cli.StringFlag{Name: "config-dir", Usage: "keep the wrapped keys of volumes that are made in `DIR`, on another medium (default: in their ciphertext)"},
			&cli.StringFlag{Name: "journal-dir", Usage: "keep the journals below `DIR`, on another disk (default: in the ciphertext)"},
			&cli.StringFlag{Name: "revalidate", Usage: "validate the keys of mounted volumes every `TIME` (default: 10m; 0: never)"},
			&cli.StringFlag{Name: "grace", Usage: "`TIME` without an answer about its keys until a volume turns inaccessible (default: 30m)"},
			&cli.StringFlag{Name: "audit", Usage: "tell of key events and authentication failures in `FILE`, or syslog (default: syslog, else each volume's log)"},
		}, nameFlags()...), storeFlags()...),
		Action: func(c *cli.Context) error {
			if _, err := places(c); err != nil {
				return err
			}
			choice, err := dockerChoiceOf(c)
			if err != nil {
				return err
			}
			return dockerPlugin(con, choice)
		},
	}
}

// dockerChoiceOf reads the flags.
func dockerChoiceOf(c *cli.Context) (*dockerChoice, error) {
	names := namesOf(c)
	if err := names.Validate(); err != nil {
		return nil, err
	}
	d := &dockerChoice{
		StateDir: c.String("state-dir"), MountDir: c.String("mount-dir"), Socket: c.String("socket"),
		Allow:    slices.Clone(c.StringSlice("allow-dir")),
		Defaults: dockervolume.Options{Cluster: names.Cluster, Group: names.Group},
		Log:      logChoice{Stderr: !c.IsSet("log"), File: c.String("log"), Debug: c.Bool("debug")},
	}
	paths := []*string{&d.StateDir, &d.MountDir, &d.Socket, &d.Log.File}
	for i := range d.Allow {
		paths = append(paths, &d.Allow[i])
	}
	for _, p := range paths {
		if err := makeAbsolute(p); err != nil {
			return nil, err
		}
	}
	if d.StateDir == "" || d.Socket == "" || slices.Contains(d.Allow, "") {
		return nil, usageError("", "an empty path")
	}
	d.Log.Fallback = d.Log.File
	var err error
	d.Keys, err = dockerKeysOf(c)
	return d, err
}

// dockerKeysOf reads the flags about keys.
func dockerKeysOf(c *cli.Context) (dockerKeys, error) {
	k := dockerKeys{Provider: c.String("provider"), ConfigDir: c.String("config-dir"), JournalDir: c.String("journal-dir")}
	if c.IsSet("provider") {
		if err := keystore.CheckProviderName(k.Provider); err != nil {
			return k, err
		}
	}
	for name, dir := range map[string]*string{"config-dir": &k.ConfigDir, "journal-dir": &k.JournalDir} {
		if err := makeAbsolute(dir); err != nil {
			return k, err
		}
		if c.IsSet(name) && *dir == "" {
			return k, usageError("", "--%s: an empty path", name)
		}
		if st, err := os.Stat(*dir); *dir != "" && (err != nil || !st.IsDir()) {
			return k, &problem{err: fmt.Errorf("--%s %s: it is no directory", name, *dir), code: exitFailure, // it may come yet
				hint: "mount what is to be there, or make it, for root alone: mkdir -m 0700 " + *dir}
		}
	}
	for _, name := range []string{"revalidate", "grace", "audit"} {
		if !c.IsSet(name) {
			continue
		}
		value := c.String(name)
		if name == "audit" && value != auditSyslog {
			if err := makeAbsolute(&value); err != nil {
				return k, err
			}
		}
		option := name + "=" + mountopt.Escape(value)
		if _, err := mountopt.Parse(option); err != nil {
			return k, err
		}
		k.MountOptions = append(k.MountOptions, option)
	}
	var err error
	k.StoreArgs, err = storeArgs(c)
	return k, err
}

// storeArgs are the flags of key stores once more, for a command that runs
// elsewhere and later.
func storeArgs(c *cli.Context) ([]string, error) {
	var o mountopt.Options
	keyringFlagsOverOptions(c, &o)
	var args []string
	for layer, from := range map[string]string{"data": o.DataPassphraseFile, "infra": o.InfraPassphraseFile} {
		for kind, scheme := range map[string]string{"program": mountopt.ByProgram, "credential": mountopt.ByCredential} {
			if value, ok := strings.CutPrefix(from, scheme); ok {
				args = append(args, "--"+layer+"-passphrase-"+kind+"="+value)
			}
		}
	}
	for name, path := range map[string]string{
		"keystore":              o.Keystore,
		"data-keystore":         o.DataKeystore,
		"infra-keystore":        o.InfraKeystore,
		"data-key-file":         o.DataKeyFile,
		"infra-key-file":        o.InfraKeyFile,
		"data-passphrase-file":  o.DataPassphraseFile,
		"infra-passphrase-file": o.InfraPassphraseFile,
		"providers":             o.Providers,
	} {
		if strings.HasPrefix(path, mountopt.ByProgram) || strings.HasPrefix(path, mountopt.ByCredential) {
			continue
		}
		if strings.HasPrefix(path, "fd:") {
			return nil, usageError("name a file that holds the passphrase", "%s: a descriptor can be read once, and volumes are mounted again and again", name)
		}
		if err := makeAbsolute(&path); err != nil {
			return nil, err
		}
		if path != "" {
			args = append(args, "--"+name+"="+path)
		}
	}
	return args, nil
}

// dockerPlugin serves until SIGTERM or SIGINT.
func dockerPlugin(con *console, d *dockerChoice) error {
	if os.Geteuid() != 0 {
		return usageError("Docker's plugins run as root", "the volume plugin needs root")
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	log, err := openLog(d.Log)
	if err != nil {
		return err
	}
	defer log.close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	p, err := dockervolume.Open(ctx, dockervolume.Config{
		StateDir: d.StateDir, MountDir: d.MountDir, Allow: d.Allow, Defaults: d.Defaults,
		BootID: strings.TrimSpace(string(boot)), Settle: settleTime, Log: log.Logger,
		Host: &dockerHost{stateDir: stateDir(con), keys: d.Keys, log: log.Logger},
	})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		p.Close(end)
	}()
	l, err := dockervolume.Listen(d.Socket)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	log.Info("serving", "socket", d.Socket, "state", d.StateDir)
	if err := con.notifier().tell("READY=1"); err != nil {
		log.Warn("READY=1", "error", err)
	}
	err = p.Serve(ctx, l)
	log.Info("ending; mounted volumes go on", "error", err)
	return err
}
