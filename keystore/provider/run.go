package provider

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"golang.org/x/sys/unix"
)

const (
	maxStderr = 4 << 10 // bytes that are kept of what a program says on its standard error
	maxLines  = 20      // of them
	// drainTime is how long the pipes of a program that ended are read on: a process that left its group may hold them.
	drainTime = time.Second
)

// program is what is run for each call.
type program struct {
	name    string // for people
	path    string // absolute
	env     []string
	timeout time.Duration // of one run
	log     func(string)
}

// run runs the program once with request on its standard input, and returns when it and its process group are gone. An
// error is transient when another run may go better.
func (p *program) run(ctx context.Context, request []byte, out, errOut *capture) error {
	run, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	cmd := &exec.Cmd{Path: p.path, Args: []string{p.name}, Env: p.env, Dir: "/", SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start it: %w", err)
	}

	copied := make(chan struct{}, 3)
	go func() {
		in.Write(request) // a program may end without reading it
		in.Close()
		copied <- struct{}{}
	}()
	tooMuch := make(chan struct{})
	go func() {
		if out.readAll(stdout) {
			close(tooMuch)
			io.Copy(io.Discard, stdout)
		}
		copied <- struct{}{}
	}()
	go func() {
		errOut.readAll(stderr)
		io.Copy(io.Discard, stderr)
		copied <- struct{}{}
	}()
	exited := make(chan struct{})
	go func() {
		waitExit(cmd.Process.Pid)
		close(exited)
	}()

	var stopped error
	select {
	case <-exited:
	case <-tooMuch:
		stopped = fmt.Errorf("its answer has more than %d bytes", protocol.MaxMessage)
	case <-run.Done():
		stopped = transient{fmt.Errorf("no answer within %s", p.timeout)}
		if ctx.Err() != nil {
			stopped = fmt.Errorf("no answer yet: %w", ctx.Err())
		}
	}
	// The program is not waited for yet, so its process ID and group are still its own.
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	<-exited
	drained := drain(copied, 3, drainTime)
	err = cmd.Wait() // closes the pipes
	drain(copied, 3-drained, 0)
	if stopped != nil {
		return stopped
	}
	return exitError(err, out.full)
}

// drain receives n times, for at most d; 0: as long as it takes. It returns how often it did.
func drain(c <-chan struct{}, n int, d time.Duration) int {
	var late <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	for i := range n {
		select {
		case <-c:
		case <-late:
			return i
		}
	}
	return n
}

// waitExit returns when the process has ended, and leaves it to be waited for.
func waitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// exitError says how a program ended that was not stopped; nil when as it should.
func exitError(err error, tooMuch bool) error {
	if tooMuch {
		return fmt.Errorf("its answer has more than %d bytes", protocol.MaxMessage)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return transient{fmt.Errorf("it was killed by signal %d (%s)", int(status.Signal()), status.Signal())}
	}
	return fmt.Errorf("it ended with exit status %d", exit.ExitCode())
}

// logStderr passes on what the program said, without lines that hold one of the secrets.
func (p *program) logStderr(text []byte, secrets ...[]byte) {
	for i, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		if i == maxLines {
			p.log("(more lines left out)")
			return
		}
		if len(line) == 0 {
			continue
		}
		if holdsSecret(line, secrets) {
			p.log("(a line that held a secret left out)")
			continue
		}
		p.log(protocol.Line(string(line), protocol.MaxText))
	}
}

func holdsSecret(line []byte, secrets [][]byte) bool {
	for _, s := range secrets {
		if len(s) == 0 {
			continue
		}
		for _, form := range []string{string(s), base64.RawStdEncoding.EncodeToString(s), base64.RawURLEncoding.EncodeToString(s)} {
			if bytes.Contains(line, []byte(form)) {
				return true
			}
		}
		if bytes.Contains(bytes.ToLower(line), []byte(hex.EncodeToString(s))) {
			return true
		}
	}
	return false
}

// capture keeps the first bytes of a stream, in one buffer that never moves.
type capture struct {
	buf  []byte
	n    int
	full bool // there was more
}

func newCapture(size int) *capture { return &capture{buf: make([]byte, size)} }

// readAll reads to the end, or until there is more than the buffer takes, which it reports.
func (c *capture) readAll(r io.Reader) bool {
	for c.n < len(c.buf) {
		n, err := r.Read(c.buf[c.n:])
		c.n += n
		if err != nil {
			return false
		}
	}
	var more [1]byte
	n, _ := io.ReadFull(r, more[:])
	c.full = n > 0
	return c.full
}

func (c *capture) bytes() []byte { return c.buf[:c.n] }
func (c *capture) wipe()         { clear(c.buf) }
