package blockfile

import (
	"log/slog"
	"sync"
	"time"
)

const (
	logBurst    = 50 // lines at once
	logInterval = 200 * time.Millisecond
)

// logLimit bounds how many lines about damage are written, since one bad block
// may be read in a loop. It belongs to all files of a Cache.
type logLimit struct {
	mu         sync.Mutex
	next       time.Time // when the allowance is whole again
	suppressed int
}

// take reports whether a line may be written now, and how many were not since
// the last.
func (l *logLimit) take(now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next.Before(now) {
		l.next = now
	}
	if l.next.Sub(now) >= logBurst*logInterval {
		l.suppressed++
		return 0, false
	}
	l.next = l.next.Add(logInterval)
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// limitedLog is a file's log.
type limitedLog struct {
	log   *slog.Logger
	limit *logLimit
}

func (l *limitedLog) error(msg string, args ...any) {
	suppressed, ok := l.limit.take(time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	l.log.Error(msg, args...)
}
