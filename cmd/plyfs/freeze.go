package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func freezeCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "freeze",
		Usage:     "hold a volume still, so that its ciphertext can be copied",
		UsageText: "plyfs freeze [OPTION]... MOUNTPOINT [-- COMMAND [ARGUMENT]...]",
		Description: "Everything that was written goes into the ciphertext directory, which then\n" +
			"stays as an unmount would leave it. Who writes waits; who reads does not. With a\n" +
			"COMMAND the volume is frozen while that runs, and plyfs exits with its code;\n" +
			"without one it is frozen until 'plyfs thaw'.",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "timeout", Usage: "thaw by itself after `TIME`, such as 90s or 10m"},
		},
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) == 0 || args[0] == "" {
				return usageError("usage: "+c.Command.UsageText, "MOUNTPOINT is missing")
			}
			timeout := c.Duration("timeout")
			if timeout < 0 {
				return usageError("", "a timeout is not negative")
			}
			f, err := newFreezing(con, args[0])
			if err != nil {
				return err
			}
			if len(args) > 1 {
				return f.during(args[1:], timeout)
			}
			return f.freeze(timeout)
		},
	}
}

func thawCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "thaw",
		Usage:     "end a freeze",
		UsageText: "plyfs thaw MOUNTPOINT",
		Action: func(c *cli.Context) error {
			p, err := places(c, "MOUNTPOINT")
			if err != nil {
				return err
			}
			f, err := newFreezing(con, p[0])
			if err != nil {
				return err
			}
			return f.thaw()
		},
	}
}

const (
	// freezeWait bounds a freeze: a full journal goes home, and files are looked
	// at after an unclean stop.
	freezeWait = 10 * time.Minute
	// graspTime is how long a freeze lasts that nobody holds yet.
	graspTime = 30 * time.Second
)

// freezing is the client's side of a freeze.
type freezing struct {
	con    *console
	target string
	source string
}

// newFreezing finds the volume that is mounted at target.
func newFreezing(con *console, target string) (*freezing, error) {
	m, err := mountedVolume(target)
	if err != nil {
		return nil, err
	}
	return &freezing{con: con, target: m.Target, source: m.Source}, nil
}

// ask asks the mount's daemon.
func (f *freezing) ask(op string, args, result any) error {
	err := askDaemon(stateDir(f.con), f.target, op, args, result, freezeWait)
	if errors.Is(err, errNoDaemon) {
		return &problem{err: fmt.Errorf("%s: %w", f.target, err), code: exitFailure,
			hint: "see 'plyfs status'; it answers root and the user who mounted it"}
	}
	return err
}

// freeze freezes the volume and tells what a copy of it will be.
func (f *freezing) freeze(timeout time.Duration) error {
	// Pages that were written through a mapping are in the kernel still.
	if err := syncKernel(f.target); err != nil {
		return err
	}
	var s frozenStatus
	if err := f.ask("freeze", freezeArgs{Timeout: timeout}, &s); err != nil {
		return err
	}
	if s.Clean {
		f.con.note("frozen: a copy of %s without .plyfs/journal/segment-* is complete", f.source)
	} else {
		f.con.warn("frozen, but not all records of the journal could go home: a copy of %s needs the journal's segments, and the log tells why", f.source)
	}
	return nil
}

func syncKernel(target string) error {
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("sync %s: %w", target, err)
	}
	return nil
}

func (f *freezing) thaw() error { return f.ask("thaw", nil, nil) }

// during freezes the volume while a command runs. If this process is killed the
// daemon thaws. The command's exit code becomes that of plyfs.
func (f *freezing) during(args []string, timeout time.Duration) error {
	cmd := exec.Command(args[0], args[1:]...)
	if cmd.Err != nil {
		return usageError("", "%w", cmd.Err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// An interrupt ends the command, and this process after the thaw.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := f.freeze(graspTime); err != nil {
		return err
	}
	hold, err := putQuestion(stateDir(f.con), f.target, "hold", freezeArgs{Timeout: timeout})
	if err != nil {
		return errors.Join(err, f.thaw())
	}
	defer hold.Close()
	err = runForwarding(cmd, signals)
	if thawed := f.thaw(); thawed != nil {
		thawed = fmt.Errorf("the volume was thawed before the command ended, what it copied may not be whole: %w", thawed)
		return errors.Join(thawed, err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &problem{err: fmt.Errorf("%s: %w", args[0], err), code: exitCode(exit.ExitCode())}
	}
	return err
}

// runForwarding runs cmd and hands on signals that its process group did not
// get by itself.
func runForwarding(cmd *exec.Cmd, signals <-chan os.Signal) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case s := <-signals:
				if s != unix.SIGINT { // a terminal sends that to both
					cmd.Process.Signal(s)
				}
			case <-ended:
				return
			}
		}
	}()
	return cmd.Wait()
}
