package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/treecopy"
)

func importCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "copy a directory, such as a datadir, into a mounted volume",
		UsageText: "plyfs import [--json] DIR TARGET",
		Description: "TARGET is a directory in a mounted volume, its mountpoint or a new one. What DIR\n" +
			"holds is copied with owners, modes, times, hard links, ACLs and holes, synced,\n" +
			"read back through both layers of encryption and compared; the disk itself may\n" +
			"not be read for that. Interrupted, it goes on where it was when it is run again.\n" +
			"DIR is not changed, and nothing in TARGET overwritten. Stop the server that uses\n" +
			"DIR first.",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			p, err := places(c, "DIR", "TARGET")
			if err != nil {
				return err
			}
			return importDir(con, p[0], p[1], c.Bool("json"))
		},
	}
}

// importDir copies from into to, and says what it did.
func importDir(con *console, from, to string, asJSON bool) error {
	from, err := filepath.EvalSymlinks(from)
	if err == nil {
		from, err = filepath.Abs(from)
	}
	if err != nil {
		return fmt.Errorf("directory to import: %w", err)
	}
	if to, err = importTarget(to); err != nil {
		return err
	}
	if to == from || strings.HasPrefix(to, from+"/") {
		return usageError("", "%s lies in %s", to, from)
	}
	if strings.HasPrefix(from, to+"/") {
		return usageError("import into a new directory in it", "%s lies in %s", from, to)
	}
	target, err := openInVolume(to)
	if err != nil {
		return err
	}
	defer target.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	plan, err := treecopy.MakePlan(ctx, from)
	if err != nil {
		return importError(ctx, err)
	}
	if users := writersOf(plan.Files()); len(users) > 0 {
		return &problem{err: fmt.Errorf("%s is in use", from), code: exitBusy, hint: "stop " + strings.Join(users, ", ") + " first"}
	}
	result, err := treecopy.Copy(ctx, plan, target, newMeter(con).show)
	if err != nil {
		return importError(ctx, err)
	}
	if asJSON {
		return con.json(result)
	}
	for _, s := range result.Sockets {
		con.note("left out the socket %s", s)
	}
	noteOthers(con, result.Others, from, to)
	con.print("%d files copied and verified, %d present already, %s in all\n", result.Files, result.Present, gib(result.Bytes))
	return nil
}

// noteOthers names what is in the target and not of the source.
func noteOthers(con *console, others []string, from, to string) {
	const shown = 5
	if len(others) == 0 {
		return
	}
	more := ""
	if len(others) > shown {
		more = " …"
	}
	con.note("%d in %s that %s does not have: %q%s", len(others), to, from, others[:min(shown, len(others))], more)
}

// importTarget returns the absolute path of a place, without symlinks.
func importTarget(to string) (string, error) {
	to, err := filepath.Abs(to)
	if err != nil {
		return "", err
	}
	// The place itself may be new.
	dir, err := filepath.EvalSymlinks(to)
	if errors.Is(err, os.ErrNotExist) {
		if dir, err = filepath.EvalSymlinks(filepath.Dir(to)); err == nil {
			dir = filepath.Join(dir, filepath.Base(to))
		}
	}
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	return dir, nil
}

// openInVolume opens a directory in a mounted volume, or the place of a new one.
// What it has opened is looked at, and not the path: nothing is ever written to what
// the path leads to once the volume is unmounted.
func openInVolume(path string) (*treecopy.Target, error) {
	target, err := treecopy.OpenTarget(path)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	device, err := target.Device()
	var mounts []mountEntry
	if err == nil {
		mounts, err = readMounts()
	}
	if err == nil && !slices.ContainsFunc(volumeMounts(mounts), func(m mountEntry) bool { return m.Device == deviceText(unix.Major(device), unix.Minor(device)) }) {
		err = &problem{err: fmt.Errorf("%s is not in a mounted volume", path), code: exitNotMounted, hint: "mount the volume first: plyfs mount CIPHERDIR MOUNTPOINT"}
	}
	if err != nil {
		target.Close()
		return nil, err
	}
	return target, nil
}

// importError says what to do.
func importError(ctx context.Context, err error) error {
	const again = "run the same command again, it goes on where it was"
	switch {
	case ctx.Err() != nil:
		return &problem{err: errors.New("interrupted"), code: exitFailure, hint: again}
	case errors.Is(err, treecopy.ErrDiffers):
		return &problem{err: err, code: exitExists, hint: "import into a new directory, or move away what is there"}
	case errors.Is(err, treecopy.ErrChanged):
		return &problem{err: err, code: exitBusy, hint: "stop what writes to it, and " + again}
	case errors.Is(err, treecopy.ErrSource):
		return usageError("", "%w", err)
	case errors.Is(err, treecopy.ErrForeign):
		return &problem{err: err, code: exitExists, hint: "find out who made it, and remove it"}
	case errors.Is(err, treecopy.ErrBusy):
		return &problem{err: err, code: exitBusy, hint: "wait for its end"}
	case errors.Is(err, treecopy.ErrReplaced):
		return &problem{err: err, code: exitBusy, hint: "look at what is there, keep others out of the target, and " + again}
	case errors.Is(err, treecopy.ErrVerify):
		return &problem{err: err, code: exitIO, hint: "check the disk and the memory of this machine"}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
		return &problem{err: err, code: exitIO, hint: again}
	}
	return err
}

// meter shows how far a copy is, now and then.
type meter struct {
	con   *console
	start time.Time
	every time.Duration

	mu   sync.Mutex
	last time.Time
}

func newMeter(con *console) *meter {
	now := time.Now()
	return &meter{con: con, start: now, last: now, every: 5 * time.Second}
}

func (m *meter) show(p treecopy.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Sub(m.last) < m.every {
		return
	}
	m.last = now
	rate := float64(p.Bytes) / now.Sub(m.start).Seconds() / (1 << 20)
	m.con.note("%s of %s, %d of %d files, %.0f MiB/s", gib(p.Bytes), gib(p.AllBytes), p.Files, p.AllFiles, rate)
}

// gib writes a number of bytes in GiB.
func gib(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }
