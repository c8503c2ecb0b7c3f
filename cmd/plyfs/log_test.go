package main

import (
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects lines; it blocks while gate is locked.
type lines struct {
	gate sync.Mutex
	mu   sync.Mutex
	text []string
}

func (l *lines) writeLine(_ slog.Level, line []byte) {
	l.gate.Lock()
	defer l.gate.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(line))
}

// A log that takes nothing must not hold up whoever logs; what is lost is
// counted.
func TestLogNeverBlocks(t *testing.T) {
	w := &lines{}
	q := newLogSink(w)
	log := slog.New(newLogHandler(q, slog.LevelInfo, false))
	w.gate.Lock()
	done := make(chan struct{})
	go func() {
		for i := range 3 * logQueue {
			log.Info("line", "i", i)
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("logging waits for the log")
	}
	w.gate.Unlock()
	q.close()
	all := strings.Join(w.text, "")
	wantText(t, "the log", all, "msg=line i=0\n", `msg="log lines dropped" lines=`)
	if n := strings.Count(all, "msg=line"); n < logQueue || n > logQueue+1 {
		t.Errorf("%d lines were written, the queue takes %d", n, logQueue)
	}
}

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new/dir/log")
	l, err := openLog(logChoice{File: path, Fallback: "/does/not/exist/log"})
	if err != nil {
		t.Fatal(err)
	}
	if l.Place != path {
		t.Errorf("place %q", l.Place)
	}
	l.Info("one", "file", 7)
	l.Debug("not shown")
	l.With("a", 1).WithGroup("g").Warn("two", "b", 2)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if b, _ := os.ReadFile(path); strings.Contains(string(b), "two") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nothing was written")
		}
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.reopen()
	l.Info("three")
	l.close()
	old, _ := os.ReadFile(path + ".1")
	fresh, _ := os.ReadFile(path)
	wantText(t, "the old file", string(old), "level=INFO msg=one file=7\n", "level=WARN msg=two a=1 g.b=2\n")
	wantText(t, "the new file", string(fresh), "msg=three")
	if strings.Contains(string(old), "not shown") || strings.Contains(string(old), "three") {
		t.Errorf("the old file has too much:\n%s", old)
	}
}

func TestLogFileThatCannotBe(t *testing.T) {
	if _, err := openLog(logChoice{File: "/proc/nothing/log"}); err == nil {
		t.Error("no error")
	}
}

func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	s, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w, err := syslog.Dial("unixgram", path, syslog.LOG_DAEMON|syslog.LOG_INFO, "plyfs")
	if err != nil {
		t.Fatal(err)
	}
	q := newLogSink(syslogLines{w})
	log := slog.New(newLogHandler(q, slog.LevelDebug, true))
	for _, tt := range []struct {
		log  func(string, ...any)
		want string // priority: facility daemon is 3·8
	}{{log.Error, "<27>"}, {log.Warn, "<28>"}, {log.Info, "<30>"}, {log.Debug, "<31>"}} {
		tt.log("hello", "x", 1)
		b := make([]byte, 1024)
		s.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _, err := s.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		got := string(b[:n])
		if !strings.HasPrefix(got, tt.want) || !strings.HasSuffix(got, ": msg=hello x=1\n") {
			t.Errorf("got %q, want %s...", got, tt.want)
		}
	}
	q.close()
}

func TestFallbackLog(t *testing.T) {
	tests := []struct{ vars, want string }{
		{"XDG_STATE_HOME=/s HOME=/h", "/s/plyfs/var-lib-mysql.log"},
		{"HOME=/h", "/var/log/plyfs/var-lib-mysql.log"}, // as root
		{"", "/var/log/plyfs/var-lib-mysql.log"},
	}
	if os.Geteuid() != 0 {
		tests[1].want = "/h/.local/state/plyfs/var-lib-mysql.log"
	}
	for _, tt := range tests {
		con := &console{getenv: func(name string) string {
			for v := range strings.FieldsSeq(tt.vars) {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		}}
		if got := fallbackLog(con, "/var/lib/mysql"); got != tt.want {
			t.Errorf("with %q: %s, want %s", tt.vars, got, tt.want)
		}
	}
}
