package mysql

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds a start, a stop, and what else must end by itself. It is for
// a machine that stalls, not for a measurement.
const patience = 2 * time.Minute

// process is a child that outlives the call that started it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

var spawner chan func()

// startSpawner keeps one thread from which processes are started: they die with
// it (PDEATHSIG), so with the test run, and with no other thread's end.
func startSpawner() {
	spawner = make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range spawner {
			f()
		}
	}()
}

// spawn starts cmd; it is killed when this process ends.
func spawn(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawner <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() { cmd.Wait(); close(p.done) }()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait says whether the process ended in time.
func (p *process) wait(limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// code is the exit code, -1 after a signal; only once it has ended.
func (p *process) code() int { return p.cmd.ProcessState.ExitCode() }

// dump has a Go program print its stacks, which ends it.
func (p *process) dump() {
	p.signal(unix.SIGQUIT)
	if !p.wait(3 * time.Second) {
		p.signal(unix.SIGKILL)
		p.wait(3 * time.Second)
	}
}
