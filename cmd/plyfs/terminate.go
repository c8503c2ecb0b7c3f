package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// unmountTime bounds how long an unmount may take the helper.
const unmountTime = 30 * time.Second

// wait serves until the mount ends, and returns the error of closing the
// volume. SIGTERM and SIGINT unmount; SIGHUP opens the log file anew.
func (m *mounting) wait(signals <-chan os.Signal, log *daemonLog, h host) error {
	closed := make(chan error, 1)
	go func() { closed <- m.server.Wait() }()
	ended := m.server.Ended()
	for {
		select {
		case <-ended:
			ended = nil
			h.stopping()
		case err := <-closed:
			return err
		case s := <-signals:
			if s == unix.SIGHUP {
				log.reopen()
				m.audit.reopen()
				continue
			}
			select {
			case <-m.server.Ended(): // what is at the mountpoint now is not this mount
			default:
				m.unmount(s, log)
			}
		}
	}
}

// unmount ends the mount. While files are open in it, it is taken out of the
// tree and served on until the last is closed: killing it would lose nothing
// that was synced, but take a database's files from under it. Another signal
// then is answered with a line in the log.
func (m *mounting) unmount(s os.Signal, log *daemonLog) {
	if m.detached {
		log.Warn("files are still open; they are served until they are closed, SIGKILL would end that", "target", m.r.Target, "signal", s.String())
		return
	}
	log.Info("unmounting", "target", m.r.Target, "signal", s.String())
	m.volume.Thaw() // what is written while it ends would wait for ever
	ctx, cancel := context.WithTimeout(context.Background(), unmountTime)
	defer cancel()
	err := m.detach(ctx, false)
	if errors.Is(err, unix.EBUSY) {
		if err = m.detach(ctx, true); err == nil {
			log.Warn("files are open; the mount is detached and serves them until they are closed", "target", m.r.Target)
			m.detached = true
		}
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		log.Warn("the mount was detached before; files are open, and served until they are closed", "target", m.r.Target)
		m.detached = true
	case err != nil:
		log.Error("cannot unmount", "target", m.r.Target, "error", err)
	}
}

// detach is detachFor of the mount, by the helper, or, where that has ended, by
// this process, which may only where it is not confined.
func (m *mounting) detach(ctx context.Context, lazy bool) error {
	err := m.helper.unmount(ctx, m.r.Target, m.device, lazy)
	if !errors.Is(err, errNoHelper) {
		return err
	}
	own := detachFor(m.r.Target, m.device, lazy)
	if own == nil {
		return nil
	}
	return fmt.Errorf("%w, and the daemon does not unmount by itself: %w; run 'plyfs umount %s'", err, own, m.r.Target)
}
