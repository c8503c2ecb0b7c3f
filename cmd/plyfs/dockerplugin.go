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
)

// dockerChoice is what the command line says of the plugin.
type dockerChoice struct {
	StateDir, MountDir, Socket string
	Allow                      []string
	Defaults                   dockervolume.Options
	StoreArgs                  []string // flags of key stores, for the commands that it runs
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
	d.StoreArgs, err = storeArgs(c)
	return d, err
}

// storeArgs are the flags of key stores once more, for a command that runs
// elsewhere and later.
func storeArgs(c *cli.Context) ([]string, error) {
	var o mountopt.Options
	flagsOverOptions(c, &o)
	var args []string
	for name, path := range map[string]string{
		"keystore":              o.Keystore,
		"data-keystore":         o.DataKeystore,
		"infra-keystore":        o.InfraKeystore,
		"data-key-file":         o.DataKeyFile,
		"infra-key-file":        o.InfraKeyFile,
		"data-passphrase-file":  o.DataPassphraseFile,
		"infra-passphrase-file": o.InfraPassphraseFile,
	} {
		if strings.HasPrefix(path, "fd:") {
			return nil, usageError("name a file that holds the passphrase", "%s: a descriptor can be read once, and volumes are mounted again and again", name)
		}
		if err := makeAbsolute(&path); err != nil {
			return nil, err
		}
		if path != "" {
			args = append(args, "--"+name, path)
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
		Host: &dockerHost{stateDir: stateDir(con), storeArgs: d.StoreArgs, log: log.Logger},
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
