package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// The daemon's descriptors besides the standard ones.
const (
	requestFD = 3 // it reads one request; the end of file after it says that the parent is gone
	statusFD  = 4 // it writes reports
)

// daemonName is the hidden command that the parent starts.
const daemonName = "daemon"

// request is what the parent wants mounted. It holds passphrases, and so goes
// through a pipe and nowhere else.
type request struct {
	Source   string       `json:"source"` // absolute, as the caller gave it
	Target   string       `json:"target"` // absolute, without symlinks
	Mount    mountRequest `json:"mount"`
	Keys     keyring      `json:"keys"`
	Data     []byte       `json:"-"` // passphrase of the data layer's store, a secret of its message
	Infra    []byte       `json:"-"` // the same of the infra layer's
	Log      logChoice    `json:"log"`
	StateDir string       `json:"state_dir"` // of run files; empty: none
	Pins     string       `json:"pins"`      // file of the volumes this host has seen; empty: none
}

// wipe forgets the passphrases.
func (r *request) wipe() {
	clear(r.Data)
	clear(r.Infra)
	r.Data, r.Infra = nil, nil
}

// report is what the daemon says, one JSON line each. The last one is Ready
// or has an Error.
type report struct {
	Note  string   `json:"note,omitempty"`
	Ready bool     `json:"ready,omitempty"`
	Error string   `json:"error,omitempty"`
	Hint  string   `json:"hint,omitempty"`
	Code  exitCode `json:"code,omitempty"`
}

// err is the error that the report carries.
func (r report) err() error {
	return &problem{err: errors.New(r.Error), code: r.Code, hint: r.Hint}
}

// startDaemon starts the process that serves r and returns when its mount
// serves, or with the error it ended with. An interrupt ends the daemon.
func startDaemon(con *console, r *request) error {
	toDaemon, requests, err := os.Pipe()
	if err != nil {
		return err
	}
	defer requests.Close()
	reports, fromDaemon, err := os.Pipe()
	if err != nil {
		toDaemon.Close()
		return err
	}
	defer reports.Close()
	cmd, err := daemonProcess(toDaemon, fromDaemon, r)
	toDaemon.Close()
	fromDaemon.Close()
	if err != nil {
		return err
	}
	// The daemon ends by itself when the request pipe closes before it is
	// ready, so that an interrupt of this process needs no more than the end
	// of it; it is caught to say so.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(interrupted)
	var wasInterrupted atomic.Bool
	go func() {
		if _, ok := <-interrupted; ok {
			wasInterrupted.Store(true)
			requests.Close()
		}
	}()
	err = sendRequest(requests, r)
	r.wipe()
	if err == nil || errors.Is(err, unix.EPIPE) {
		err = followReports(con, reports)
	}
	if err == nil {
		return cmd.Process.Release()
	}
	requests.Close()
	state := cmd.Wait()
	switch {
	case wasInterrupted.Load():
		return fmt.Errorf("%w: %w", errInterrupted, err)
	case errors.Is(err, errSilent):
		return fmt.Errorf("the daemon ended before the mount served: %w (%w)", stateError(state), errSilent)
	}
	return err
}

// errInterrupted reports that a signal ended the mount before it served.
var errInterrupted = errors.New("interrupted")

func stateError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// daemonProcess starts this program again, in a session of its own, with
// nothing of this process but the two pipes and the environment. Its
// arguments are there for ps(1) alone.
func daemonProcess(toDaemon, fromDaemon *os.File, r *request) (*exec.Cmd, error) {
	// Descriptors that this process was given, such as a script's lock, must
	// not live as long as the mount.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	cmd := exec.Command("/proc/self/exe", daemonName, "--", r.Source, r.Target)
	cmd.Args[0] = "plyfs"
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{toDaemon, fromDaemon} // requestFD, statusFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	return cmd, nil
}

// errSilent reports that the daemon closed its pipe without a last report.
var errSilent = errors.New("the daemon said nothing")

func sendRequest(w io.Writer, r *request) error {
	return writeMessage(w, r, [2][]byte{r.Data, r.Infra})
}

// followReports passes notes on until the last report.
func followReports(con *console, from io.Reader) error {
	for d := json.NewDecoder(from); ; {
		var r report
		switch err := d.Decode(&r); {
		case err != nil:
			return errSilent
		case r.Note != "":
			con.note("%s", r.Note)
		case r.Ready:
			return nil
		case r.Error != "":
			return r.err()
		}
	}
}

func daemonCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:   daemonName,
		Usage:  "serve a mount; started by 'plyfs mount'",
		Hidden: true,
		Action: func(c *cli.Context) error { return runDaemon(con) },
	}
}

// runDaemon is the child's side: read the request, serve it, report once.
func runDaemon(con *console) error {
	if !isPipe(requestFD) || !isPipe(statusFD) {
		return usageError("use 'plyfs mount'", "the daemon is not started by hand")
	}
	unix.CloseOnExec(requestFD)
	unix.CloseOnExec(statusFD)
	requests, reports := os.NewFile(requestFD, "request"), os.NewFile(statusFD, "status")
	say := json.NewEncoder(reports)

	in := newMessageReader(requests)
	r, err := readRequest(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var ready atomic.Bool
	go func() {
		in.some() // nothing comes: this returns when the parent is gone
		if !ready.Load() {
			cancel(errors.New("the process that started the daemon is gone"))
		}
	}()
	err = serve(ctx, r, host{
		note: func(text string) { say.Encode(report{Note: text}) },
		ready: func() {
			ready.Store(true)
			say.Encode(report{Ready: true})
			reports.Close()
			requests.Close()
		},
		stopping: func() {},
	})
	if err != nil && !ready.Load() {
		say.Encode(report{Error: err.Error(), Hint: hintOf(err), Code: codeOf(err)})
	}
	return err
}

func readRequest(in *messageReader) (*request, error) {
	var r request
	secrets, err := in.read(&r)
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	r.Data, r.Infra = secrets[0], secrets[1]
	return &r, nil
}

func isPipe(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}
