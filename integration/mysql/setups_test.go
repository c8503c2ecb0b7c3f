package mysql

import (
	"fmt"
	"strings"
	"testing"
)

// setup is a way to run a server.
type setup struct {
	page        int    // innodb_page_size, KiB
	flush       string // innodb_flush_method
	aio         string // "io_uring", "libaio", "off"
	doublewrite bool
	block       int // of the volume, bytes
}

func (c setup) String() string {
	s := fmt.Sprintf("page %dK, %s, ", c.page, c.flush)
	if c.aio == "off" {
		s += "no native AIO"
	} else {
		s += c.aio
	}
	if c.doublewrite {
		s += ", doublewrite"
	}
	return fmt.Sprintf("%s, blocks of %d", s, c.block)
}

func (c setup) options(p *product) []string {
	opts := []string{fmt.Sprintf("--innodb-page-size=%dK", c.page), "--innodb-flush-method=" + c.flush}
	onOff := map[bool]string{true: "1", false: "0"}
	opts = append(opts, "--innodb-use-native-aio="+onOff[c.aio != "off"], "--innodb-doublewrite="+onOff[c.doublewrite])
	if p.isMariaDB() && c.aio != "off" {
		opts = append(opts, "--innodb-linux-aio="+strings.TrimPrefix(c.aio, "lib"))
	}
	return opts
}

// effective wants the server to run as the setup says.
func (c setup) effective(t testing.TB, s *server) {
	t.Helper()
	got := s.sql(t, "SELECT @@innodb_page_size, @@innodb_flush_method, @@innodb_use_native_aio, @@innodb_doublewrite")
	native, dw := "1", "0"
	if c.aio == "off" {
		native = "0"
	}
	if !s.isMariaDB() {
		dw = "OFF"
	}
	if c.doublewrite {
		dw = map[bool]string{true: "1", false: "ON"}[s.isMariaDB()]
	}
	if want := fmt.Sprintf("%d\t%s\t%s\t%s", c.page<<10, c.flush, native, dw); got != want {
		t.Fatalf("the server runs with %q, wanted: %q\n%s", got, want, tail(s.log(), 3000))
	}
	if !s.isMariaDB() {
		return
	}
	// It falls back from one interface to the other, and says which it uses.
	said := map[string]string{"io_uring": "Using io_uring", "libaio": "Using Linux native AIO", "off": ""}[c.aio]
	if !strings.Contains(s.log(), said) {
		t.Fatalf("the server does not say %q:\n%s", said, tail(s.log(), 3000))
	}
}

// shortSetups have each flush method, page size and way of I/O once.
func shortSetups(p *product) []setup {
	if p.isMariaDB() {
		return []setup{
			{4, "fsync", "libaio", false, 4096},
			{64, "O_DSYNC", "io_uring", true, 16384},
			{16, "O_DIRECT_NO_FSYNC", "off", false, 4096},
		}
	}
	return []setup{
		{4, "O_DSYNC", "libaio", true, 4096},
		{64, "O_DIRECT_NO_FSYNC", "libaio", false, 16384},
		{16, "fsync", "off", false, 4096},
	}
}

// allSetups have every combination of flush method, page size and way of I/O;
// doublewrite is off in two of three, block sizes take turns.
func allSetups(p *product) (all []setup) {
	ways := []string{"libaio", "off"}
	if p.isMariaDB() {
		ways = []string{"io_uring", "libaio", "off"}
	}
	for _, flush := range []string{"fsync", "O_DSYNC", "O_DIRECT", "O_DIRECT_NO_FSYNC"} {
		for _, page := range []int{4, 16, 64} {
			for _, aio := range ways {
				n := len(all)
				all = append(all, setup{page, flush, aio, n%3 == 2, []int{4096, 16384, 65536, 4096}[n%4]})
			}
		}
	}
	return all
}

// TestSetups lives through load, a server that is killed, a filesystem whose
// daemon is killed, and a remount, in each way to run a server. (O_DIRECT with
// pages of 16K is TestFeatures in the short run.)
func TestSetups(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		setups := shortSetups(p)
		if env.long {
			setups = allSetups(p)
		}
		for _, c := range setups {
			t.Run(strings.NewReplacer(" ", "-", ",", "").Replace(c.String()), func(t *testing.T) {
				env.results.record(t, p, nil, c.String()+", kill -9 of both, remount")
				v := newVolume(t, group{}, "--block-size", fmt.Sprint(c.block))
				s := newInstalled(t, p, v.mnt+"/mysql", c.options(p)...)
				c.effective(t, s)
				prepareLedger(t, s)
				survive(t, v, s)
				wantAfterRemount(t, v, s)
				s.stop(t)
			})
		}
	})
}

// survive kills the server, and then the filesystem with it, under load. What
// was acknowledged must be there each time.
func survive(t *testing.T, v *volume, s *server) {
	t.Helper()
	l := startLedger(s)
	l.await(t, 15)
	s.kill()
	l.broken()
	s.mustStart(t)
	l.verify(t, s)

	l2 := startLedger(s)
	l2.await(t, 15)
	killUnder(t, v, s, l2)
	l.verify(t, s)
	s.checkTables(t)
}

// killUnder ends the daemon and the server that loses its files by that, both
// hard, brings both up again and wants what the load had acknowledged.
func killUnder(t testing.TB, v *volume, s *server, l *ledger) {
	t.Helper()
	v.kill()
	s.kill()
	l.broken()
	v.clear(t)
	v.mustMount(t)
	s.mustStart(t)
	l.verify(t, s)
}

// wantAfterRemount stops the server well, mounts the volume anew, and wants
// every table as it was.
func wantAfterRemount(t testing.TB, v *volume, s *server) {
	t.Helper()
	want := s.checksums(t)
	s.stop(t)
	v.remount(t)
	s.mustStart(t)
	wantSame(t, "after the remount", s.checksums(t), want)
	s.checkTables(t)
}
