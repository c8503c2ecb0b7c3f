package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// keyClient is the daemon's side of its helper. It is safe for concurrent use.
type keyClient struct {
	conn *os.File
	gone chan struct{} // closed when the helper has ended

	mu      sync.Mutex
	last    uint64
	pending map[uint64]chan keyAnswer
}

// errNoHelper reports that the helper has ended. It is not started again: what
// opened the keys went with it.
var errNoHelper = errors.New("the helper process of the mount has ended")

// startKeyHelper starts this program again, in a session of its own.
func startKeyHelper() (*keyClient, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start the key helper: %w", err)
	}
	// Non-blocking, so that Close ends a read.
	unix.SetNonblock(pair[0], true)
	c := &keyClient{conn: os.NewFile(uintptr(pair[0]), "helper"), gone: make(chan struct{}), pending: map[uint64]chan keyAnswer{}}
	theirs := os.NewFile(uintptr(pair[1]), "daemon")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", keyHelperName)
	cmd.Args[0] = "plyfs"
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs} // keyHelperFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("start the key helper: %w", err)
	}
	go func() {
		c.read()
		cmd.Wait()
	}()
	return c, nil
}

// read hands answers to those who asked, until the helper is gone.
func (c *keyClient) read() {
	defer close(c.gone)
	in := newMessageReader(c.conn)
	for {
		var a keyAnswer
		secrets, err := in.read(&a)
		if err != nil {
			return
		}
		a.Keys = secrets[0]
		c.mu.Lock()
		asked := c.pending[a.ID]
		delete(c.pending, a.ID)
		if asked != nil {
			asked <- a // it has a slot
		} else {
			clear(a.Keys)
		}
		c.mu.Unlock()
	}
}

// ask asks the helper, which may take validateTime.
func (c *keyClient) ask(ctx context.Context, q keyQuestion) (keyAnswer, error) {
	answer := make(chan keyAnswer, 1)
	c.mu.Lock()
	c.last++
	q.ID = c.last
	c.pending[q.ID] = answer
	var secrets [2][]byte
	if q.Request != nil {
		secrets = [2][]byte{q.Request.Data, q.Request.Infra}
	}
	err := writeMessage(c.conn, q, secrets)
	c.mu.Unlock()
	if err != nil {
		return keyAnswer{}, fmt.Errorf("%w: %w", errNoHelper, err)
	}
	select {
	case a := <-answer:
		return a, nil
	case <-c.gone:
		return keyAnswer{}, errNoHelper
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.pending, q.ID)
		c.mu.Unlock()
		select {
		case a := <-answer: // it came at that moment
			clear(a.Keys)
		default:
		}
		return keyAnswer{}, context.Cause(ctx)
	}
}

// close ends the helper.
func (c *keyClient) close() {
	c.conn.Close()
	<-c.gone
}

// keysOf takes the keys out of an answer.
func (a *keyAnswer) keysOf() (k cipher.Keys, err error) {
	defer clear(a.Keys)
	if len(a.Keys) != len(k.Data)+len(k.Infra) {
		return k, errors.New("the helper gave no keys")
	}
	copy(k.Data[:], a.Keys)
	copy(k.Infra[:], a.Keys[len(k.Data):])
	return k, nil
}

// open has the helper open the volume's keys. The passphrases are the helper's
// from then on, and wiped here.
func (c *keyClient) open(ctx context.Context, r *request, audit *audit) (*unlocked, error) {
	a, err := c.ask(ctx, keyQuestion{Op: "open", Request: r, Keys: true})
	r.wipe()
	if err != nil {
		return nil, err
	}
	if err := a.err(); err != nil {
		for _, f := range a.faults() {
			e := auditEvent{Event: "unlock", Result: auditResultOf(f.Verdict), Reason: f.Error}
			if f.Code == exitTampered {
				e.Result = auditFailed
			}
			audit.event(e.of(f.layers()...))
		}
		return nil, err
	}
	audit.ofVolume(a.Params.VolumeID)
	audit.event(auditEvent{Event: "unlock", Result: auditOK, Keys: keyNotes(a.Notes)})
	keys, err := a.keysOf()
	defer clearKeys(&keys)
	if err != nil {
		return nil, err
	}
	v, err := cipher.NewVolume(a.Params, a.Epoch, keys, nil)
	if err != nil {
		return nil, err
	}
	return &unlocked{params: a.Params, epoch: a.Epoch, cipher: v, notes: a.Notes, warnings: a.Warnings}, nil
}

// keyNotes says for the audit log what opened each layer's key.
func keyNotes(notes []storeNote) (keys []keyNote) {
	for i, n := range notes {
		keys = append(keys, keyNote{Layer: i + 1, By: n.Protection, Store: n.Path, Provider: n.Provider})
	}
	return keys
}

// unmount has the helper unmount, as detachFor: the daemon itself may not any more.
func (c *keyClient) unmount(ctx context.Context, target, device string, lazy bool) error {
	a, err := c.ask(ctx, keyQuestion{Op: "unmount", Target: target, Device: device, Lazy: lazy})
	switch {
	case err != nil:
		return err
	case a.Errno != 0:
		return a.Errno
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}
