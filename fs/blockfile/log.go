package blockfile

import (
	"log/slog"
	"sync"
	"time"
)

// How much is logged of one open file, since a bad block may be read in a loop, and
// of all files of a Cache.
var (
	fileLines  = allowance{burst: 5, interval: 10 * time.Second}
	cacheLines = allowance{burst: 500, interval: 200 * time.Millisecond}
)

// allowance is how many lines may come at once, and how long it takes until one more
// may.
type allowance struct {
	burst    int
	interval time.Duration
}

// logLimit bounds how many lines about damage are written.
type logLimit struct {
	mu         sync.Mutex
	next       time.Time // when the allowance is whole again
	suppressed int
}

// take reports whether a line may be written now, and how many were suppressed since
// the last one.
func (l *logLimit) take(a allowance, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next.Before(now) {
		l.next = now
	}
	if l.next.Sub(now) >= time.Duration(a.burst)*a.interval {
		l.suppressed++
		return 0, false
	}
	l.next = l.next.Add(a.interval)
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// limitedLog is a file's log.
type limitedLog struct {
	log   *slog.Logger
	own   logLimit
	limit *logLimit // of the cache
}

func (l *limitedLog) error(msg string, args ...any) {
	now := time.Now()
	own, ok := l.own.take(fileLines, now)
	if !ok {
		return
	}
	all, ok := l.limit.take(cacheLines, now)
	if !ok {
		return
	}
	if suppressed := own + all; suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	l.log.Error(msg, args...)
}
