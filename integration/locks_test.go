package integration

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLocks(t *testing.T) {
	lock := func(kind int16, start, n int64) *unix.Flock_t {
		return &unix.Flock_t{Type: kind, Start: start, Len: n}
	}
	onBoth(t, []posixCase{
		{"flock", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			a := open(t, p.path("f"), unix.O_RDONLY, 0)
			b := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(b)
			check(t, unix.Flock(a, unix.LOCK_SH))
			check(t, unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB))
			wantErr(t, "exclusive beside shared", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
			check(t, unix.Flock(b, unix.LOCK_UN))
			check(t, unix.Flock(a, unix.LOCK_EX))
			wantErr(t, "shared beside exclusive", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
			got := make(chan error, 1)
			go func() { got <- unix.Flock(b, unix.LOCK_EX) }()
			select {
			case err := <-got:
				t.Errorf("a blocked lock came at once: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			unix.Close(a) // releases
			select {
			case err := <-got:
				check(t, err)
			case <-time.After(10 * time.Second):
				t.Error("closing the holder's descriptor does not wake the waiter")
			}
		}},
		{"POSIX locks between processes", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(1000, 1))
			f := p.path("f")
			fd := open(t, f, unix.O_RDWR, 0)
			try := func(kind string, start, n int) string {
				return helper(t, "setlk", f, kind, fmt.Sprint(start), fmt.Sprint(n))
			}
			set := func(l *unix.Flock_t) { check(t, unix.FcntlFlock(uintptr(fd), unix.F_SETLK, l)) }
			set(lock(unix.F_WRLCK, 100, 100))
			set(lock(unix.F_RDLCK, 500, 0)) // to the end, wherever that is
			for _, c := range []struct {
				kind     string
				start, n int
				want     string
			}{
				{"w", 0, 100, "ok"}, {"w", 0, 101, "EAGAIN"}, {"r", 150, 1, "EAGAIN"}, {"w", 200, 300, "ok"}, {"r", 600, 5, "ok"},
				{"w", 600, 5, "EAGAIN"}, {"w", 1 << 40, 1, "EAGAIN"}, {"w", 499, 0, "EAGAIN"},
			} {
				if got := try(c.kind, c.start, c.n); got != c.want {
					t.Errorf("%s %d+%d: got %s, want %s", c.kind, c.start, c.n, got, c.want)
				}
			}
			want := fmt.Sprint(unix.F_WRLCK, 100, 100, os.Getpid())
			if got := helper(t, "getlk", f, "w", "120", "1"); got != want {
				t.Errorf("F_GETLK: got %s, want %s", got, want)
			}
			set(lock(unix.F_UNLCK, 120, 10)) // splits
			if got := try("w", 120, 10); got != "ok" {
				t.Errorf("unlocked part: %s", got)
			}
			if got := try("w", 119, 1); got != "EAGAIN" {
				t.Errorf("part before it: %s", got)
			}
			other := open(t, f, unix.O_RDONLY, 0)
			unix.Close(other) // any close of the process releases them all
			if got := try("w", 0, 0); got != "ok" {
				t.Errorf("after a close: %s", got)
			}
			unix.Close(fd)
		}},
		{"locks of open files (OFD)", func(t *testing.T, p place) {
			touch(t, p.path("f"), pattern(1000, 1))
			a := open(t, p.path("f"), unix.O_RDWR, 0)
			b := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(b)
			set := func(fd int, l *unix.Flock_t) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, l) }
			check(t, set(a, lock(unix.F_WRLCK, 0, 10)))
			wantErr(t, "the same range", set(b, lock(unix.F_WRLCK, 5, 10)), unix.EAGAIN)
			check(t, set(b, lock(unix.F_WRLCK, 10, 10)))
			got := make(chan error, 1)
			go func() {
				got <- unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLKW, lock(unix.F_RDLCK, 0, 5))
			}()
			time.Sleep(30 * time.Millisecond)
			unix.Close(a)
			select {
			case err := <-got:
				check(t, err)
			case <-time.After(10 * time.Second):
				t.Error("closing the holder does not wake the waiter")
			}
		}},
		{"on a file without a name", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			a := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(a)
			b := open(t, p.path("f"), unix.O_RDWR, 0)
			defer unix.Close(b)
			check(t, unix.Unlink(p.path("f")))
			check(t, unix.Flock(a, unix.LOCK_EX))
			wantErr(t, "second", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		}},
		{"modes must fit", func(t *testing.T, p place) {
			touch(t, p.path("f"), nil)
			r := open(t, p.path("f"), unix.O_RDONLY, 0)
			defer unix.Close(r)
			wantErr(t, "write lock on O_RDONLY", unix.FcntlFlock(uintptr(r), unix.F_SETLK, lock(unix.F_WRLCK, 0, 1)), unix.EBADF)
		}},
	})
}
