package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The daemon of a mount answers on a socket that root, or the mounting user,
// can open. A connection carries one question and one answer, a JSON line each.

// questionTime bounds how long a question may take to arrive.
const questionTime = 10 * time.Second

// question asks a daemon for something.
type question struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
	// Device is that of the mount which is meant, as mountinfo has it. Mount
	// namespaces that share the sockets' directory can have different volumes at
	// one path, and the last one mounted has the socket.
	Device string `json:"device,omitempty"`
}

// reply is its answer: a result, or an error as in a report.
type reply struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
	Hint   string          `json:"hint,omitempty"`
	Code   exitCode        `json:"code,omitempty"`
}

// control answers one kind of question. What it returns becomes the JSON of
// the result. ctx ends when who asked is gone.
type control func(ctx context.Context, args json.RawMessage) (any, error)

// controls is what the daemon of a mount can be asked.
func (m *mounting) controls() map[string]control {
	table := map[string]control{
		"process": m.own.status,
		"collect": m.own.collect,
		"journal": func(context.Context, json.RawMessage) (any, error) { return journalStatusOf(m.volume), nil },
		"remount": m.mayRemount,
		"config":  m.writeConfig,
	}
	maps.Copy(table, m.freezes().controls())
	maps.Copy(table, m.keys.controls())
	maps.Copy(table, m.hygiene.controls())
	return table
}

// socketPath is where the daemon of a mountpoint answers.
func socketPath(dir, target string) string {
	return strings.TrimSuffix(runPath(dir, target), ".json") + ".sock"
}

// answer serves the mount's socket until stop. The mount does without where
// that fails.
func (m *mounting) answer() (stop func()) {
	if m.r.StateDir == "" {
		return func() {}
	}
	l, remove, err := listenAt(m.r.StateDir, socketPath(m.r.StateDir, m.r.Target))
	if err != nil {
		m.log.Warn("the daemon answers no questions", "error", err)
		return func() {}
	}
	table := m.controls()
	go accept(l, func(c net.Conn) { converse(c, m.device, table) })
	return func() {
		remove()
		l.Close()
	}
}

// accept hands connections on, each in a goroutine, until l is closed. Descriptors
// may run out, and come back.
func accept(l net.Listener, converse func(net.Conn)) {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			go converse(c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// listenAt listens on a socket in a state directory, in place of one that is
// there. remove, to be called before the listener is closed, takes it away, unless
// another one has its place by then.
func listenAt(dir, path string) (l *net.UnixListener, remove func(), err error) {
	unlock, _ := lockState(dir)
	defer unlock()
	os.Remove(path) // of a daemon that was killed, or has no mount here any more: the lock on the volume is ours
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(path, 0o600) // the directory is 0700
	own, e := os.Lstat(path)
	if err = errors.Join(err, e); err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, func() {
		unlock, _ := lockState(dir)
		defer unlock()
		if there, err := os.Lstat(path); err == nil && os.SameFile(own, there) {
			os.Remove(path)
		}
	}, nil
}

// deviceAt is the device, major:minor, of what is mounted at target, or "". It is
// known without a request to who serves that, which is this process.
func deviceAt(target string) string {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, target, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st) != nil {
		return ""
	}
	return deviceText(st.Dev_major, st.Dev_minor)
}

// deviceText writes a device as mountinfo does.
func deviceText(major, minor uint32) string { return fmt.Sprintf("%d:%d", major, minor) }

// converse answers the question of one connection about the mount of a device.
func converse(c net.Conn, device string, table map[string]control) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(questionTime))
	in := newMessageReader(c)
	line, err := in.line()
	if err != nil {
		return
	}
	c.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		in.some() // nothing comes: this returns when the other side is gone
		cancel()
	}()
	out := consult(ctx, device, table, line)
	c.SetWriteDeadline(time.Now().Add(questionTime))
	json.NewEncoder(c).Encode(out)
}

// consult finds who answers the question in line, and asks.
func consult(ctx context.Context, device string, table map[string]control, line []byte) reply {
	var q question
	err := json.Unmarshal(line, &q)
	var result any
	if err == nil && q.Device != "" && device != "" && q.Device != device {
		err = &problem{err: errors.New("the daemon that answers has another mount of that path, in another mount namespace"), code: exitFailure,
			hint: "mount one of the two at a path of its own"}
	}
	if err == nil {
		if f := table[q.Op]; f != nil {
			result, err = f(ctx, q.Args)
		} else {
			err = &problem{err: fmt.Errorf("the daemon does not know the request %q", q.Op), code: exitVersion,
				hint: "it is of another version of plyfs: mount the volume again"}
		}
	}
	var out reply
	if err == nil {
		out.Result, err = json.Marshal(result)
	}
	if err != nil {
		out = reply{Error: err.Error(), Hint: hintOf(err), Code: codeOf(err)}
	}
	return out
}

// errNoDaemon reports that no daemon answers for a mountpoint.
var errNoDaemon = errors.New("the mount's daemon does not answer")

// putQuestion asks the daemon of a mountpoint. What it asks for may last as long
// as the connection, which the caller closes.
func putQuestion(dir, target, op string, args any) (net.Conn, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: it has no place for a socket", errNoDaemon)
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	q := question{Op: op}
	if m, ok := mountedAt(mounts, target); ok && m.Type == fsType {
		q.Device = m.Device
	}
	if args != nil {
		if q.Args, err = json.Marshal(args); err != nil {
			return nil, err
		}
	}
	c, err := net.DialTimeout("unix", socketPath(dir, target), questionTime)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	c.SetWriteDeadline(time.Now().Add(questionTime))
	if err := json.NewEncoder(c).Encode(q); err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	return c, nil
}

// askDaemon asks the daemon of a mountpoint and decodes its result, within wait.
func askDaemon(dir, target, op string, args, result any, wait time.Duration) error {
	c, err := putQuestion(dir, target, op, args)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(wait))
	var out reply
	if err := json.NewDecoder(c).Decode(&out); err != nil {
		return fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	if out.Error != "" {
		return &problem{err: errors.New(out.Error), code: out.Code, hint: out.Hint}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(out.Result, result)
}
