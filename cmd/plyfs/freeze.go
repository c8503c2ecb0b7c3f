package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
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
			_, err = f.freeze(timeout)
			return err
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
			f, err := newThawing(con, p[0])
			if err != nil {
				return err
			}
			return f.thaw(time.Time{})
		},
	}
}

const (
	// freezeWait bounds a freeze: a full journal goes home, and files are looked
	// at after an unclean stop.
	freezeWait = 10 * time.Minute
	// graspTime is how long a freeze lasts before it is held.
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

// newThawing is newFreezing, or finds the volume that was mounted at target until
// it was detached: files are open in it still, and who writes them waits.
func newThawing(con *console, target string) (*freezing, error) {
	f, err := newFreezing(con, target)
	if !errors.Is(err, errNoMount) {
		return f, err
	}
	target, e := resolveTarget(target)
	if e != nil {
		return nil, err
	}
	run := readRunFile(stateDir(con), target)
	if run == nil || !run.alive() || !sameMounts(run.PID) {
		return nil, err
	}
	return &freezing{con: con, target: run.Target, source: run.Source}, nil
}

// sameMounts reports whether a process is known to be in this mount namespace.
func sameMounts(pid int) bool {
	own := mountsOf("/proc/self")
	return own != "" && own == mountsOf("/proc/"+strconv.Itoa(pid))
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

// freeze freezes the volume and tells what a copy of it will be. since is what the
// freeze is named by.
func (f *freezing) freeze(timeout time.Duration) (since time.Time, err error) {
	// Pages that were written through a mapping are in the kernel still.
	if err := syncKernel(f.target); err != nil {
		return since, err
	}
	var s frozenStatus
	if err := f.ask("freeze", freezeArgs{Timeout: timeout}, &s); err != nil {
		return since, err
	}
	if s.Clean {
		f.con.note("frozen: a copy of %s without .plyfs/journal/segment-* is complete", f.source)
	} else {
		f.con.warn("frozen, but not all records of the journal could go home: a copy of %s needs the journal's segments, and the log tells why", f.source)
	}
	return s.Since, nil
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

// thaw ends the freeze that since names, or for the zero time whichever holds.
func (f *freezing) thaw(since time.Time) error {
	return f.ask("thaw", freezeArgs{Since: since}, nil)
}

// during freezes the volume while a command runs. If this process is killed the
// daemon thaws. The command's exit code becomes that of plyfs, unless the freeze
// ended before it.
func (f *freezing) during(args []string, timeout time.Duration) error {
	cmd := exec.Command(args[0], args[1:]...)
	if cmd.Err != nil {
		return usageError("", "%w", cmd.Err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// An interrupt before it is held ends this process, and the freeze with it or
	// after graspTime.
	since, err := f.freeze(graspTime)
	if err != nil {
		return err
	}
	hold, err := f.hold(since, timeout)
	if err != nil {
		f.thaw(since) // or it ends after graspTime
		return err
	}
	defer hold.Close()
	// An interrupt ends the command, and this process after the thaw.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	err = runForwarding(cmd, signals)
	if thawed := f.thaw(since); thawed != nil {
		thawed = fmt.Errorf("the volume was thawed before the command ended, what it copied may not be whole: %w", thawed)
		return errors.Join(thawed, err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &problem{err: fmt.Errorf("%s: %w", args[0], err), code: exitCode(exit.ExitCode())}
	}
	return err
}

// hold makes a freeze last as long as what it returns is open, and at most
// for timeout.
func (f *freezing) hold(since time.Time, timeout time.Duration) (io.Closer, error) {
	a := freezeArgs{Timeout: timeout, Since: since}
	// Asked before the freeze is extended: one that is held by nobody must end.
	held, err := putQuestion(stateDir(f.con), f.target, "hold", a)
	if err != nil {
		return nil, err
	}
	if err := f.ask("extend", a, nil); err != nil {
		held.Close()
		return nil, err
	}
	return held, nil
}

// runForwarding runs cmd and hands on signals that its process group did not
// get by itself. A command that outlives this process would copy what is no longer
// frozen: it is terminated.
func runForwarding(cmd *exec.Cmd, signals <-chan os.Signal) error {
	runtime.LockOSThread() // whose end the kernel takes for that of the parent
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
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
