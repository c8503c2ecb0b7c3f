// Package process starts the daemons and servers of a test run, which end with
// it however it ends.
package process

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a child that outlives the call that started it.
type Process struct {
	Cmd *exec.Cmd

	done chan struct{}
}

// spawner is the one thread from which processes are started: the kernel kills
// them when it ends (PDEATHSIG), which it does with this program.
var spawner = sync.OnceValue(func() chan<- func() {
	todo := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range todo {
			f()
		}
	}()
	return todo
})

// Start starts cmd in a session of its own. It is killed when this program
// ends. What cmd.SysProcAttr says besides is kept.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Pdeathsig = true, unix.SIGKILL
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	go func() { cmd.Wait(); close(p.done) }()
	return p, nil
}

// PID is the process's ID.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Signal sends s, unless the process has ended.
func (p *Process) Signal(s syscall.Signal) { p.Cmd.Process.Signal(s) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited says whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait says whether the process ended in time.
func (p *Process) Wait(limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Kill kills the process and waits for its end.
func (p *Process) Kill() {
	p.Signal(unix.SIGKILL)
	<-p.done
}

// Code is the exit code, -1 after a signal; only once it has ended.
func (p *Process) Code() int { return p.Cmd.ProcessState.ExitCode() }

// Dump has a Go program print its stacks, which ends it.
func (p *Process) Dump() {
	p.Signal(unix.SIGQUIT)
	if !p.Wait(3 * time.Second) {
		p.Signal(unix.SIGKILL)
		p.Wait(3 * time.Second)
	}
}
