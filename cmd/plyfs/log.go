package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// logChoice says where a daemon writes its log.
type logChoice struct {
	Stderr   bool   `json:"stderr,omitempty"` // in the foreground
	File     string `json:"file,omitempty"`   // asked for with log=
	Fallback string `json:"fallback"`         // where there is no syslog; crash reports in any case
	Debug    bool   `json:"debug,omitempty"`
}

// logQueue is how many lines may wait for a slow disk or syslog. A line more
// is dropped and counted: the log never holds up the filesystem.
const logQueue = 1024

// maxLogName is the longest name that a mountpoint gives a log file, with room
// for what is added to it and to rotated ones.
const maxLogName = 200

// fallbackLog is the log file of a mountpoint where there is no syslog:
// $XDG_STATE_HOME/plyfs if that is set, else /var/log/plyfs for root and
// ~/.local/state/plyfs for others.
func fallbackLog(con *console, target string) string {
	dir := con.getenv("XDG_STATE_HOME")
	switch home := homeDir(con); {
	case dir != "":
		dir = filepath.Join(dir, "plyfs")
	case os.Geteuid() == 0 || home == "":
		dir = "/var/log/plyfs"
	default:
		dir = filepath.Join(home, ".local/state/plyfs")
	}
	name := strings.ReplaceAll(strings.Trim(target, "/"), "/", "-")
	if len(name) > maxLogName {
		sum := sha256.Sum256([]byte(target))
		name = name[:maxLogName-17] + "-" + hex.EncodeToString(sum[:8])
	}
	return filepath.Join(dir, name+".log")
}

// homeDir returns the user's home directory, or "". mount(8) takes HOME away
// where a user calls it.
func homeDir(con *console) string {
	if home := con.getenv("HOME"); home != "" {
		return home
	}
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.HomeDir
	}
	return ""
}

// daemonLog is an open log: the logger, and where it writes.
type daemonLog struct {
	*slog.Logger
	Place string // a file, "syslog" or "standard error"
	q     *logSink
	crash *os.File // where the runtime reports a crash, nil if to standard error
}

// logFileError says that it is the log that cannot be written, and not the volume.
func logFileError(what string, err error) error {
	return &problem{err: fmt.Errorf("%s: %w", what, err), code: codeOf(err), hint: "name a file that can be written: -o log=FILE"}
}

// openLog opens the place that c names.
func openLog(c logChoice) (*daemonLog, error) {
	l := &daemonLog{Place: "standard error"}
	var w lineWriter = fileLines{w: os.Stderr}
	switch {
	case c.File != "":
		f, err := openLogFile(c.File)
		if err != nil {
			return nil, logFileError("log file", err)
		}
		w, l.Place, l.crash = f, c.File, f.f
	case !c.Stderr:
		var err error
		if w, err = dialSyslog(); err == nil {
			l.Place = "syslog"
			if f, err := openLogFile(c.Fallback); err == nil {
				l.crash = f.f
			}
			break
		}
		f, err := openLogFile(c.Fallback)
		if err != nil {
			return nil, logFileError("log file (there is no syslog)", err)
		}
		w, l.Place, l.crash = f, c.Fallback, f.f
	}
	if l.crash != nil {
		debug.SetCrashOutput(l.crash, debug.CrashOptions{})
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	l.q = newLogSink(w)
	l.Logger = slog.New(newLogHandler(l.q, level, l.Place == "syslog"))
	return l, nil
}

// reopen opens the log file anew, after logrotate(8) has moved it away.
func (l *daemonLog) reopen() {
	l.q.do(func(w lineWriter) lineWriter {
		old, ok := w.(fileLines)
		if !ok || old.f == nil {
			return w
		}
		f, err := openLogFile(old.f.Name())
		if err != nil {
			return w
		}
		debug.SetCrashOutput(f.f, debug.CrashOptions{})
		old.f.Close()
		return f
	})
}

// close writes out what waits, within a second.
func (l *daemonLog) close() {
	l.q.close()
	if l.crash == nil {
		return
	}
	if st, err := l.crash.Stat(); err == nil && st.Size() == 0 && l.Place == "syslog" {
		os.Remove(l.crash.Name())
	}
}

// lineWriter takes whole lines.
type lineWriter interface {
	writeLine(level slog.Level, line []byte)
}

// fileLines writes to a file, or to standard error where f is nil.
type fileLines struct {
	w io.Writer
	f *os.File
}

func (f fileLines) writeLine(_ slog.Level, line []byte) { f.w.Write(line) }

func openLogFile(path string) (fileLines, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fileLines{}, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fileLines{}, err
	}
	return fileLines{w: f, f: f}, nil
}

// syslogLines writes to syslog, or to the journal through its socket.
type syslogLines struct{ w *syslog.Writer }

func dialSyslog() (lineWriter, error) {
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "plyfs")
	if err != nil {
		return nil, err
	}
	return syslogLines{w}, nil
}

func (s syslogLines) writeLine(level slog.Level, line []byte) {
	text := string(bytes.TrimSuffix(line, []byte("\n")))
	switch {
	case level >= slog.LevelError:
		s.w.Err(text)
	case level >= slog.LevelWarn:
		s.w.Warning(text)
	case level >= slog.LevelInfo:
		s.w.Info(text)
	default:
		s.w.Debug(text)
	}
}

// logSink is the queue between the filesystem and the log, with a goroutine
// that empties it.
type logSink struct {
	lines   chan logLine
	onDrop  func(lines uint64) []byte // what to write instead of lines that were dropped; nil: nothing
	dropped atomic.Uint64
	done    chan struct{}
}

type logLine struct {
	level  slog.Level
	text   []byte
	change func(lineWriter) lineWriter // instead of a line
}

func newLogSink(w lineWriter) *logSink {
	q := &logSink{lines: make(chan logLine, logQueue), done: make(chan struct{})}
	q.onDrop = func(n uint64) []byte { return fmt.Appendf(nil, "level=WARN msg=\"log lines dropped\" lines=%d\n", n) }
	go func() {
		defer close(q.done)
		for l := range q.lines {
			if l.change != nil {
				w = l.change(w)
			} else if l.text != nil {
				w.writeLine(l.level, l.text)
			} else {
				return
			}
			if n := q.dropped.Swap(0); n > 0 {
				if line := q.onDrop(n); line != nil {
					w.writeLine(slog.LevelWarn, line)
				}
			}
		}
	}()
	return q
}

// put queues a line, which the sink owns from then on.
func (q *logSink) put(level slog.Level, text []byte) {
	select {
	case q.lines <- logLine{level: level, text: text}:
	default:
		q.dropped.Add(1)
	}
}

func (q *logSink) do(change func(lineWriter) lineWriter) {
	select {
	case q.lines <- logLine{change: change}:
	default:
	}
}

// close writes what waits, within a second.
func (q *logSink) close() {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case q.lines <- logLine{}:
	case <-timer.C:
		return
	}
	select {
	case <-q.done:
	case <-timer.C:
	}
}

// logHandler formats records as slog's text and queues them.
type logHandler struct {
	slog.Handler // writes to buf
	buf          *bytes.Buffer
	mu           *sync.Mutex // guards buf
	q            *logSink
}

func newLogHandler(q *logSink, level slog.Level, isSyslog bool) *logHandler {
	buf := new(bytes.Buffer)
	o := &slog.HandlerOptions{Level: level}
	if isSyslog { // which has time and level of its own
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		}
	}
	return &logHandler{Handler: slog.NewTextHandler(buf, o), buf: buf, mu: new(sync.Mutex), q: q}
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Reset()
	err := h.Handler.Handle(ctx, r)
	h.q.put(r.Level, bytes.Clone(h.buf.Bytes()))
	return err
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.Handler = h.Handler.WithAttrs(attrs)
	return &n
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	n := *h
	n.Handler = h.Handler.WithGroup(name)
	return &n
}
