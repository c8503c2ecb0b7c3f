package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/keystore"
)

// The daemon of a mount gives up what it does not need to serve files. What
// takes more is done by a helper process that it started before: the helper
// alone reads key stores and runs provider programs, at the mount and again at
// each validation of the keys, and it unmounts. It holds the passphrases that
// stores ask for, and ends with the daemon. They talk over a socket pair, a
// message each; answers may come in another order than questions.

const (
	// keyHelperName is the hidden command that the daemon starts.
	keyHelperName = "keyhelper"
	keyHelperFD   = 3
	// validateTime bounds one validation; providers have time-outs of their own.
	validateTime = 5 * time.Minute
)

// keyQuestion is what a daemon asks of its helper.
type keyQuestion struct {
	ID      uint64   `json:"id"`
	Op      string   `json:"op"`                // open, validate, unmount, check-pins, raise-pins, config
	Request *request `json:"request,omitempty"` // of open
	Keys    bool     `json:"keys,omitempty"`    // of validate: the answer is to hold them
	Target  string   `json:"target,omitempty"`  // of unmount
	Device  string   `json:"device,omitempty"`  // of unmount: of what is meant, as deviceAt tells
	Lazy    bool     `json:"lazy,omitempty"`    // of unmount: also while it is in use

	Pin    keystore.Pin `json:"pin"`              // of check-pins, raise-pins
	Accept bool         `json:"accept,omitempty"` // of check-pins: an older state is taken
	Config []byte       `json:"config,omitempty"` // of config: what to write
	Erase  bool         `json:"erase,omitempty"`  // of config: overwrite what was there
}

// verdict is what a validation says of a key.
type verdict string

const (
	verdictYes     verdict = "yes"
	verdictNo      verdict = "no"      // definitely
	verdictUnknown verdict = "unknown" // nobody could be asked
)

// keyAnswer is the helper's answer.
type keyAnswer struct {
	ID       uint64        `json:"id"`
	Verdict  verdict       `json:"verdict,omitempty"`
	Faults   []keyFault    `json:"faults,omitempty"` // what the error says of each layer
	Keys     []byte        `json:"-"`                // V1 | V2, 64 bytes, a secret of its message
	Params   cipher.Params `json:"params"`
	Epoch    uint32        `json:"epoch,omitempty"`
	Notes    []storeNote   `json:"notes,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
	Error    string        `json:"error,omitempty"`
	Hint     string        `json:"hint,omitempty"`
	Code     exitCode      `json:"code,omitempty"`
	Errno    unix.Errno    `json:"errno,omitempty"` // of unmount
}

// keyFault is what kept a layer's key from being opened.
type keyFault struct {
	Layer   cipher.Layer `json:"layer,omitempty"` // 0: of both, or of none
	Verdict verdict      `json:"verdict"`
	Error   string       `json:"error"`
	Code    exitCode     `json:"code"`
}

func (f *keyFault) layers() []cipher.Layer {
	if f.Layer == 0 {
		return nil
	}
	return []cipher.Layer{f.Layer}
}

func keyFaultsOf(err error) (faults []keyFault) {
	for _, e := range keystore.LayerErrors(err) {
		faults = append(faults, keyFault{Layer: e.Layer, Verdict: verdictOf(e.Err), Error: e.Error(), Code: codeOf(e.Err)})
	}
	return faults
}

// faults is what the answer says of each layer, or of both.
func (a *keyAnswer) faults() []keyFault {
	if len(a.Faults) > 0 {
		return a.Faults
	}
	return []keyFault{{Verdict: a.Verdict, Error: a.Error, Code: a.Code}}
}

// err is the error that the answer carries, nil if none.
func (a *keyAnswer) err() error {
	if a.Error == "" {
		return nil
	}
	return &problem{err: errors.New(a.Error), code: a.Code, hint: a.Hint}
}

// verdictOf says what an error of unlocking means for a volume that is mounted:
// whether the key was taken away, or just could not be asked for. A definite no
// of one layer is one, whatever the other says.
func verdictOf(err error) verdict {
	if err == nil {
		return verdictYes
	}
	if of := bothLayers(err); of != nil {
		if verdictOf(of[0].Err) == verdictNo || verdictOf(of[1].Err) == verdictNo {
			return verdictNo
		}
		return verdictUnknown
	}
	if errors.Is(err, keystore.ErrUnavailable) {
		return verdictUnknown
	}
	for _, no := range []error{keystore.ErrDenied, keystore.ErrRetired, keystore.ErrWrongKey, keystore.ErrWrongGroup, keystore.ErrWrongLayers} {
		if errors.Is(err, no) {
			return verdictNo
		}
	}
	return verdictUnknown
}

func keyHelperCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:   keyHelperName,
		Usage:  "hold what opens a volume's keys; started by the daemon of a mount",
		Hidden: true,
		Action: func(c *cli.Context) error {
			var st unix.Stat_t
			if unix.Fstat(keyHelperFD, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
				return usageError("use 'plyfs mount'", "the helper is not started by hand")
			}
			unix.CloseOnExec(keyHelperFD)
			daemon := os.NewFile(keyHelperFD, "daemon")
			defer daemon.Close()
			return runKeyHelper(daemon)
		},
	}
}

// helper is the helper's own side.
type helper struct {
	writing sync.Mutex // of answers

	opening sync.Mutex // one validation at a time, which may take long; guards
	request *request   // nil before open
	keys    [sha256.Size]byte

	mu   sync.Mutex // guards
	pins *pinned    // nil before open
}

// runKeyHelper answers until the daemon is gone.
func runKeyHelper(daemon io.ReadWriter) error {
	harden()
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE) // it ends with the daemon
	lockMemory()                                                        // where the daemon could not, it says so for both
	h := &helper{}
	ctx, cancel := context.WithCancel(context.Background())
	var asked sync.WaitGroup
	in := newMessageReader(daemon)
	for {
		var q keyQuestion
		secrets, err := in.read(&q)
		if err != nil {
			break
		}
		if q.Request != nil {
			q.Request.Data, q.Request.Infra = secrets[0], secrets[1]
		}
		asked.Go(func() { h.answer(ctx, daemon, &q) })
	}
	cancel()
	asked.Wait()
	if h.request != nil {
		h.request.wipe()
	}
	return nil
}

func (h *helper) answer(ctx context.Context, to io.Writer, q *keyQuestion) {
	var a keyAnswer
	switch q.Op {
	case "open", "validate":
		clearStack() // which has grown then, and leaves nothing where it was
		a = h.unlock(ctx, q)
		clearStack()
	case "unmount":
		if err := detachFor(q.Target, q.Device, q.Lazy); err != nil {
			a.Error = err.Error()
			errors.As(err, &a.Errno)
		}
	case "check-pins", "raise-pins", "config":
		a = h.remember(q)
	default:
		a.Error = fmt.Sprintf("unknown request %q", q.Op)
	}
	a.ID = q.ID
	defer clear(a.Keys)
	h.writing.Lock()
	defer h.writing.Unlock()
	writeMessage(to, a, [2][]byte{a.Keys})
}

// unlock opens the volume's keys, the first time with what the question brings,
// later with what is left of that.
func (h *helper) unlock(ctx context.Context, q *keyQuestion) (a keyAnswer) {
	h.opening.Lock()
	defer h.opening.Unlock()
	if q.Request != nil {
		h.request = q.Request
	}
	r := h.request
	if r == nil {
		a.Verdict, a.Error = verdictUnknown, "the helper holds nothing that opens a key"
		return a
	}
	ctx, cancel := context.WithTimeout(ctx, validateTime)
	defer cancel()
	before := h.newest()
	u, err := unlock(ctx, r)
	switch {
	case err != nil:
	case q.Op == "open":
		err = h.opened(r, u)
	default:
		err = h.validated(before, u)
	}
	if err != nil {
		if u != nil {
			clearKeys(&u.keys)
		}
		u = &unlocked{}
	}
	defer clearKeys(&u.keys)
	sum := sumOf(&u.keys)
	if err == nil && q.Op == "validate" && sum != h.keys {
		err = &problem{err: errors.New("what the key stores unwrap is not the key that is in use"), code: exitWrongKey,
			hint: "the volume's plyfs.json, or a key store, was exchanged: put back what was there at the mount"}
		a.Verdict = verdictNo
	}
	switch {
	case err != nil:
		if a.Verdict == "" {
			a.Verdict = verdictOf(err)
		}
		a.Faults, a.Error, a.Hint, a.Code = keyFaultsOf(err), err.Error(), hintOf(err), codeOf(err)
	default:
		a.Verdict = verdictYes
		a.Params, a.Epoch, a.Notes, a.Warnings = u.params, u.epoch, u.notes, u.warnings
		if q.Keys {
			a.Keys = keyBytes(&u.keys)
		}
		h.keys = sum
	}
	if !r.Mount.Options.Revalidates() {
		h.request = nil
		r.wipe()
	}
	return a
}

// clearStack overwrites what calls have left of secrets on the goroutine's stack,
// below its caller.
//
//go:noinline
func clearStack() {
	var b [64 << 10]byte
	clear(b[:])
	runtime.KeepAlive(&b)
}

// keyBytes are V1 | V2, a copy, which the caller wipes.
func keyBytes(k *cipher.Keys) []byte { return append(k.Data[:len(k.Data):len(k.Data)], k.Infra[:]...) }

// sumOf tells whether keys are the same as before.
func sumOf(k *cipher.Keys) [sha256.Size]byte {
	b := keyBytes(k)
	defer clear(b)
	return sha256.Sum256(b)
}
