package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs/blockfile"
	"github.com/plyfs/plyfs/fs/journal"
	"github.com/plyfs/plyfs/fs/volume"
)

// auditEvent is one line of the audit log, JSON. plyfs(1) documents the members;
// none is taken away or given another meaning.
type auditEvent struct {
	Time   time.Time   `json:"time"`
	Event  string      `json:"event"`
	Result auditResult `json:"result"`
	// The mount that it is about.
	Volume     string `json:"volume,omitempty"` // ID
	CipherDir  string `json:"cipherdir"`
	MountPoint string `json:"mountpoint"`
	PID        int    `json:"pid"`
	// The key.
	Layer int `json:"layer,omitempty"` // 1 data, 2 infra; absent: both, or not known
	// Layers says in a word of what failed in which layers that was.
	Layers auditLayers `json:"layers,omitempty"`
	Keys   []keyNote   `json:"keys,omitempty"`
	// What did not authenticate.
	Object string  `json:"object,omitempty"`
	File   string  `json:"file,omitempty"` // ID
	Block  *uint64 `json:"block,omitempty"`
	Group  *uint64 `json:"group,omitempty"`
	Inode  uint64  `json:"inode,omitempty"` // of the backing file
	Name   string  `json:"name,omitempty"`  // sealed
	Reason string  `json:"reason,omitempty"`
	// Suppressed counts events of the same kind that were not written since the
	// last one, so that a damaged file cannot fill the disk.
	Suppressed int `json:"suppressed,omitempty"`
	Dropped    int `json:"dropped,omitempty"` // events lost before this one, to a log that was too slow
}

// keyNote is what a layer's key was opened by.
type keyNote struct {
	Layer int    `json:"layer"`
	By    string `json:"by"`
	Store string `json:"store,omitempty"`
	// Provider of a customer-managed key.
	Provider string `json:"provider,omitempty"`
}

type auditLayers string

const (
	auditBoth         auditLayers = "both"
	auditLayerUnknown auditLayers = "unknown"
)

// of says in which layers it was that something failed; none: that is not known.
func (e auditEvent) of(layers ...cipher.Layer) auditEvent {
	switch len(layers) {
	case 0:
		e.Layers = auditLayerUnknown
	case 1:
		e.Layer, e.Layers = int(layers[0]), auditLayers(layers[0].String())
	default:
		e.Layers = auditBoth
	}
	return e
}

type auditResult string

const (
	auditOK      auditResult = "ok"
	auditDenied  auditResult = "denied"  // a definite no
	auditUnknown auditResult = "unknown" // nobody could be asked
	auditFailed  auditResult = "failed"
)

// auditResultOf is the result of a validation.
func auditResultOf(v verdict) auditResult {
	switch v {
	case verdictYes:
		return auditOK
	case verdictNo:
		return auditDenied
	}
	return auditUnknown
}

// audit is the audit log of one mount. It never holds up who writes to it. It is
// safe for concurrent use, and nil drops everything.
type audit struct {
	Place string // a file, "syslog" or "log"

	mount   auditEvent // what all lines have in common
	volume  atomic.Pointer[string]
	log     *slog.Logger // where Place is "log"
	q       *logSink
	dropped atomic.Int64
}

// auditLog and auditSyslog name places of an audit log that are no files.
const (
	auditSyslog = "syslog"
	auditLog    = "log"
)

// openAudit opens the audit log that the mount asks for: a file, syslog, or
// where nothing is asked for syslog, if there is any, else the log.
func openAudit(r *request, log *daemonLog) (*audit, error) {
	a := &audit{mount: auditEvent{CipherDir: r.Source, MountPoint: r.Target, PID: os.Getpid()}}
	var w lineWriter
	var err error
	switch choice := r.Mount.Options.Audit; choice {
	case "", auditSyslog:
		if w, err = dialSyslog(); err == nil {
			a.Place = auditSyslog
		} else if choice == auditSyslog {
			return nil, fmt.Errorf("audit log: there is no syslog: %w", err)
		} else {
			a.Place, a.log = auditLog, log.Logger
			return a, nil
		}
	default:
		f, err := openAuditFile(choice)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		w, a.Place = f, choice
	}
	a.q = newLogSink(w)
	a.q.onDrop = func(n uint64) []byte { a.dropped.Add(int64(n)); return nil }
	return a, nil
}

// openAuditFile opens a file that only its owner may read.
func openAuditFile(path string) (fileLines, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fileLines{}, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	return fileLines{w: f, f: f}, err
}

// ofVolume says which volume further events are about.
func (a *audit) ofVolume(id cipher.VolumeID) {
	if a != nil {
		s := id.String()
		a.volume.Store(&s)
	}
}

// event writes a line.
func (a *audit) event(e auditEvent) {
	if a == nil {
		return
	}
	e.Time = time.Now().UTC()
	e.CipherDir, e.MountPoint, e.PID = a.mount.CipherDir, a.mount.MountPoint, a.mount.PID
	if v := a.volume.Load(); v != nil {
		e.Volume = *v
	}
	e.Dropped = int(a.dropped.Swap(0))
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	level := slog.LevelInfo
	if e.Result != auditOK {
		level = slog.LevelWarn
	}
	if a.log != nil {
		a.log.Log(context.Background(), level, "audit", "event", string(line))
		return
	}
	a.q.put(level, append(line, '\n'))
}

// reopen opens the file anew, after logrotate(8) has moved it away.
func (a *audit) reopen() {
	if a == nil || a.q == nil {
		return
	}
	a.q.do(func(w lineWriter) lineWriter {
		old, ok := w.(fileLines)
		if !ok {
			return w
		}
		f, err := openAuditFile(old.f.Name())
		if err != nil {
			return w
		}
		old.f.Close()
		return f
	})
}

func (a *audit) close() {
	if a != nil && a.q != nil {
		a.q.close()
	}
}

// unauthentic are the errors that say that something is not what was sealed.
var unauthentic = []error{
	cipher.ErrAuth, cipher.ErrMagic, cipher.ErrZero, cipher.ErrForeign, cipher.ErrSuite, cipher.ErrVersion, blockfile.ErrCorrupt,
	volume.ErrDamaged, journal.ErrTampered, journal.ErrForeign, journal.ErrMissing,
}

func isUnauthentic(err error) bool {
	for _, e := range unauthentic {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// auditHandler passes records of the log on, and makes an audit event of those
// whose error says that something did not authenticate. The log bounds how many
// there are; what it left out is told as suppressed.
type auditHandler struct {
	slog.Handler
	audit *audit
}

// auditing is a logger whose records are audited.
func (a *audit) auditing(log *slog.Logger) *slog.Logger {
	return slog.New(auditHandler{log.Handler(), a})
}

func (h auditHandler) Handle(ctx context.Context, r slog.Record) error {
	e := auditEvent{Event: "authentication-failure", Result: auditFailed}
	var failure error
	r.Attrs(func(attr slog.Attr) bool {
		v := attr.Value.Any()
		switch attr.Key {
		case "err", "error":
			failure, _ = v.(error)
		case "file":
			if id, ok := v.(cipher.FileID); ok {
				e.File = id.String()
			}
		case "block":
			e.Block = number(v)
		case "group":
			e.Group = number(v)
		case "inode", "directory":
			if n := number(v); n != nil {
				e.Inode = *n
			}
		case "name":
			e.Name, _ = v.(string)
		case "xattr":
			e.Name, _ = v.(string)
			e.Object = "xattr"
		case "suppressed", "not logged before":
			if n := number(v); n != nil {
				e.Suppressed = int(*n)
			}
		}
		return true
	})
	h.audit.failed(e, r.Message, failure)
	return h.Handler.Handle(ctx, r)
}

// failure writes an event if err says that something did not authenticate.
func (a *audit) failure(what string, err error) {
	a.failed(auditEvent{Event: "authentication-failure", Result: auditFailed}, what, err)
}

func (a *audit) failed(e auditEvent, what string, err error) {
	if isUnauthentic(err) {
		e.Reason, e.Object = what+": "+err.Error(), e.objectOf(err)
		a.event(e.of(cipher.LayersOf(err)...))
	}
}

// objectOf says what kind of thing did not authenticate.
func (e *auditEvent) objectOf(err error) string {
	switch {
	case e.Object != "":
		return e.Object
	case errors.Is(err, journal.ErrTampered), errors.Is(err, journal.ErrForeign), errors.Is(err, journal.ErrMissing):
		return "journal"
	case e.Block != nil:
		return "block"
	case e.Group != nil:
		return "tag-block"
	case e.Name != "":
		return "name"
	case e.File != "":
		return "file"
	}
	return "other"
}

func (h auditHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return auditHandler{h.Handler.WithAttrs(attrs), h.audit}
}

func (h auditHandler) WithGroup(name string) slog.Handler {
	return auditHandler{h.Handler.WithGroup(name), h.audit}
}

// number is an integer attribute's value, nil for others.
func number(v any) *uint64 {
	var n uint64
	switch v := v.(type) {
	case uint64:
		n = v
	case int64:
		n = uint64(v)
	case int:
		n = uint64(v)
	default:
		return nil
	}
	return &n
}
