package blockfile

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// logInterval is the least time between two lines about one file.
const logInterval = time.Second

// limitedLog writes about one file at most once per logInterval, since one bad
// block may be read in a loop.
type limitedLog struct {
	log        *slog.Logger
	last       atomic.Int64 // Unix nanoseconds
	suppressed atomic.Int64
}

func (l *limitedLog) error(msg string, args ...any) {
	now, last := time.Now().UnixNano(), l.last.Load()
	if now-last < int64(logInterval) || !l.last.CompareAndSwap(last, now) {
		l.suppressed.Add(1)
		return
	}
	if n := l.suppressed.Swap(0); n > 0 {
		args = append(args, "suppressed", n)
	}
	l.log.Error(msg, args...)
}
