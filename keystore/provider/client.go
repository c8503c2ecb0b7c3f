package provider

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// Between two tries there is a pause, which doubles each time up to maxBackoff; up to half of it more is random, so
// that the hosts of a fleet do not come back together.
const (
	defaultBackoff = 250 * time.Millisecond
	maxBackoff     = 5 * time.Second
)

// transient marks an error after which another try may get an answer.
type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

// ask runs the program until it answers, cannot be asked, or was tried often enough.
func (c *Client) ask(ctx context.Context, n keystore.Names, req *protocol.Request) (*protocol.Answer, error) {
	if err := n.Validate(); err != nil {
		return nil, err
	}
	req.Version, req.Cluster, req.Group = protocol.Version, n.Cluster, n.Group
	req.TimeoutMS, req.Settings = c.program.timeout.Milliseconds(), c.settings
	pause := c.backoff
	for try := 1; ; try++ {
		a, err := c.once(ctx, req)
		if err == nil {
			return a, nil
		}
		if !errors.As(err, new(transient)) || try >= c.tries || ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", c.program.name, err)
		}
		c.program.log(fmt.Sprintf("try %d of %d: %s", try, c.tries, protocol.Line(err.Error(), protocol.MaxText)))
		if !sleep(ctx, pause+mathrand.N(pause/2+1)) {
			return nil, fmt.Errorf("%s: %w", c.program.name, err)
		}
		pause = min(2*pause, maxBackoff)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once runs the program once. The ID is new each time, so that no answer passes for that of another request.
func (c *Client) once(ctx context.Context, req *protocol.Request) (*protocol.Answer, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("read random bytes: %w", err)
	}
	req.ID = hex.EncodeToString(id)
	line, err := req.Encode()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrUsage, err)
	}
	defer clear(line)

	out, errOut := newCapture(protocol.MaxMessage), newCapture(maxStderr)
	defer out.wipe()
	defer errOut.wipe()
	if err := c.program.run(ctx, line, out, errOut); err != nil {
		c.program.logStderr(errOut.bytes(), req.Secret)
		return nil, fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	a, err := protocol.DecodeAnswer(out.bytes())
	if err != nil {
		c.program.logStderr(errOut.bytes(), req.Secret)
		return nil, fmt.Errorf("%w: its answer is not of the protocol: %w", keystore.ErrUnavailable, err)
	}
	c.program.logStderr(errOut.bytes(), req.Secret, a.Secret)
	if err := checkAnswer(req, a); err != nil {
		clear(a.Secret)
		return nil, err
	}
	return a, nil
}

// checkAnswer returns the error that an answer is, and refuses one of another request or with other members than the
// operation has.
func checkAnswer(req *protocol.Request, a *protocol.Answer) error {
	unusable := func(why string) error { return fmt.Errorf("%w: %s", keystore.ErrUnavailable, why) }
	if a.Version != protocol.Version {
		return unusable(fmt.Sprintf("it answered in version %d of the protocol", a.Version))
	}
	if a.ID != req.ID {
		return unusable("it answered another request")
	}
	var members int
	for _, there := range []bool{a.Description != nil, a.Wrapped != nil, a.Secret != nil, a.Error != nil} {
		if there {
			members++
		}
	}
	if members != 1 {
		return unusable(fmt.Sprintf("its answer has %d results", members))
	}
	if a.Error != nil {
		return failureError(a.Error)
	}
	ok := false
	switch req.Op {
	case protocol.OpDescribe:
		ok = a.Description != nil
	case protocol.OpWrap:
		ok = len(a.Wrapped) > 0 && len(a.Wrapped) <= keystore.MaxWrapped
	case protocol.OpUnwrap:
		ok = len(a.Secret) > 0
	}
	if !ok {
		return unusable("its answer has no result of " + req.Op)
	}
	return nil
}

// failureError turns the program's word into the error that its kind stands for.
func failureError(f *protocol.Failure) error {
	text := protocol.Line(f.Message, protocol.MaxText)
	switch f.Kind {
	case protocol.KindDenied:
		return fmt.Errorf("%w: %s", keystore.ErrDenied, text)
	case protocol.KindInvalid:
		return fmt.Errorf("%w: %s", keystore.ErrTampered, text)
	case protocol.KindUsage:
		return fmt.Errorf("%w: %s", keystore.ErrUsage, text)
	case protocol.KindUnavailable:
		return transient{fmt.Errorf("%w: %s", keystore.ErrUnavailable, text)}
	}
	return fmt.Errorf("%w: a failure of unknown kind: %s", keystore.ErrUnavailable, text)
}
