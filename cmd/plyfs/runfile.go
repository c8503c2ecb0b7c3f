package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runFile is what a daemon leaves under /run while it serves, for status and
// umount. It goes when the volume is closed cleanly; one that is left over
// tells that it was not. It holds no secret.
type runFile struct {
	PID        int         `json:"pid"`
	Start      string      `json:"start"` // field 22 of /proc/PID/stat: with PID, the process for good
	Source     string      `json:"source"`
	Config     string      `json:"config"` // path of the volume's config
	Target     string      `json:"target"`
	Since      time.Time   `json:"since"`
	ReadOnly   bool        `json:"read_only"`
	Layers     int         `json:"layers"`
	Log        string      `json:"log"`
	Audit      string      `json:"audit"` // a file, syslog, or log
	Stores     []storeNote `json:"key_stores"`
	CloseError string      `json:"close_error,omitempty"` // why the volume could not be closed cleanly
}

// storeNote says what guards a layer's key.
type storeNote struct {
	Layer      string `json:"layer"`
	Path       string `json:"path,omitempty"` // of the key store; none for a recovery slot
	Protection string `json:"protection"`
	KeyFile    string `json:"key_file,omitempty"`
	Provider   string `json:"provider,omitempty"` // of a customer-managed key
}

// stateDir returns where run files of this user lie, or "".
func stateDir(con *console) string {
	if os.Geteuid() == 0 {
		return "/run/plyfs"
	}
	if dir := con.getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "plyfs")
	}
	return ""
}

// runPath is the run file of a mountpoint.
func runPath(dir, target string) string {
	sum := sha256.Sum256([]byte(target))
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+".json")
}

// writeRunFile writes r, replacing what is there.
func writeRunFile(dir string, r *runFile) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := runPath(dir, r.Target)
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// readRunFile returns the run file of a mountpoint, or nil.
func readRunFile(dir, target string) *runFile {
	if dir == "" {
		return nil
	}
	b, err := os.ReadFile(runPath(dir, target))
	if err != nil {
		return nil
	}
	var r runFile
	if json.Unmarshal(b, &r) != nil || r.Target != target {
		return nil
	}
	return &r
}

// runFileOf returns the run file of a mount, or nil. The one of its mountpoint may
// be that of another volume, which is mounted there in another mount namespace.
func runFileOf(dir string, m mountEntry) *runFile {
	r := readRunFile(dir, m.Target)
	if r == nil || r.Source != m.Source {
		return nil
	}
	return r
}

// takeRunFile removes the run file of r's daemon, and returns it as it was; nil if
// it is gone, or is that of another mount by now.
func takeRunFile(dir string, r *runFile) *runFile {
	unlock, _ := lockState(dir)
	defer unlock()
	there := readRunFile(dir, r.Target)
	if there == nil || !there.sameProcess(r) {
		return nil
	}
	os.Remove(runPath(dir, r.Target))
	return there
}

// sameProcess reports whether r and o are of one daemon.
func (r *runFile) sameProcess(o *runFile) bool { return r.PID == o.PID && r.Start == o.Start }

// stateLockTime bounds how long lockState waits.
const stateLockTime = 10 * time.Second

// lockState takes the lock on a state directory, which it makes. Mounts appear,
// and run files and sockets change, under it, so that who looks before he acts
// acts on what he saw. Who cannot have it goes on without; unlock is never nil.
func lockState(dir string) (unlock func(), err error) {
	unlock = func() {}
	if dir == "" {
		return unlock, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unlock, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return unlock, err
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { d.Close() }, nil
		}
		if time.Since(start) > stateLockTime || err != unix.EWOULDBLOCK && err != unix.EINTR {
			d.Close()
			return unlock, &os.PathError{Op: "lock", Path: dir, Err: err}
		}
	}
}

// alive reports whether the daemon still runs.
func (r *runFile) alive() bool {
	start, err := startOf(r.PID)
	return err == nil && start == r.Start
}

// startOf returns when a process started, in the kernel's ticks since boot. It
// fails for one that has ended, also if nobody has waited for it yet.
func startOf(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The name in field 2 may hold anything; what follows it does not.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return "", fmt.Errorf("process %d: unexpected stat", pid)
	}
	// A main thread that has ended while others are still at it (a kill takes
	// them one by one) is no end: they hold the volume's lock.
	if state, threads := f[0], f[17]; state == "X" || state == "Z" && threads <= "1" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return f[19], nil
}
