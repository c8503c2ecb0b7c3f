package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/dockervolume"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// dockerHost makes and mounts the volumes of the plugin. It does that with
// this program's own commands in processes of their own: keys never come into
// the memory of the plugin, and a daemon is nobody's child when its 'plyfs
// mount' has left.
type dockerHost struct {
	stateDir string // of run files
	keys     dockerKeys
	log      *slog.Logger
}

// dockerKeys says what opens the plugin's volumes and how their keys are watched.
// All of it is the host's: nothing of it comes from Docker. Paths are absolute.
type dockerKeys struct {
	StoreArgs    []string // flags that name the key stores and providers
	Provider     string   // of a customer-managed key for new volumes; empty: none
	ConfigDir    string   // of the wrapped keys of new volumes; empty: in their ciphertext
	JournalDir   string   // of the journals; empty: in the ciphertext
	MountOptions []string // as after -o
}

// config is where the wrapped keys of a volume lie if they are not in its
// ciphertext directory, or "".
func (k *dockerKeys) config(name string) string {
	if k.ConfigDir == "" {
		return ""
	}
	return filepath.Join(k.ConfigDir, name, keystore.ConfigName)
}

// configOf is config for a volume that is there: one that was made before keys
// were kept elsewhere, or was taken from elsewhere, has them in its ciphertext.
func (k *dockerKeys) configOf(name string) (string, error) {
	path := k.config(name)
	if path == "" {
		return "", nil
	}
	if there, err := exists(filepath.Dir(path)); !there || err != nil {
		return "", err
	}
	return path, nil
}

// journal is the directory of a volume's journal, or "".
func (k *dockerKeys) journal(name string) string {
	if k.JournalDir == "" {
		return ""
	}
	return filepath.Join(k.JournalDir, name)
}

var _ dockervolume.Host = (*dockerHost)(nil)

func (h *dockerHost) Make(ctx context.Context, name, dir string, o dockervolume.Options) error {
	args := append([]string{"init"}, h.keys.StoreArgs...)
	// With '=', since a name may start with '-'.
	args = append(args, "--cluster="+o.Cluster, "--group="+o.Group, "--block-size="+strconv.Itoa(o.BlockSize))
	if o.Layers == 1 {
		args = append(args, "--single-layer")
	}
	if h.keys.Provider != "" {
		args = append(args, "--provider="+h.keys.Provider)
	}
	config := h.keys.config(name)
	if config == "" {
		return h.run(ctx, true, append(args, "--", dir)...)
	}
	place := filepath.Dir(config)
	dropUnmade(place)
	if err := os.Mkdir(place, 0o700); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there and may hold the keys of a volume of that name: move it away only if that volume is gone for good: %w", place, err)
	} else if err != nil {
		return fmt.Errorf("directory of the wrapped keys: %w", err)
	}
	mark := markOf(place, dir)
	err := os.WriteFile(mark, nil, 0o600)
	if err == nil {
		err = h.run(ctx, true, append(args, "--config="+config, "--", dir)...)
	}
	if err == nil {
		err = os.Remove(mark)
	}
	if err != nil {
		return errors.Join(err, forgetConfig(config))
	}
	return nil
}

const markPrefix = "unmade-"

// markOf is a file that says, until the keys in place are whole, that they are of
// the volume that is made in dir.
func markOf(place, dir string) string { return filepath.Join(place, markPrefix+filepath.Base(dir)) }

// dropUnmade removes a place for keys that holds none.
func dropUnmade(place string) {
	entries, err := os.ReadDir(place)
	if err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !strings.HasPrefix(e.Name(), markPrefix) }) {
		os.RemoveAll(place)
	}
}

func (h *dockerHost) Unmake(name, dir string) error {
	config := h.keys.config(name)
	if config == "" {
		return nil
	}
	mine, err := exists(markOf(filepath.Dir(config), dir))
	if err != nil || !mine {
		return err
	}
	return forgetConfig(config)
}

// Forget erases the wrapped keys of a volume and removes its journal.
func (h *dockerHost) Forget(name string) error {
	var err error
	if config := h.keys.config(name); config != "" {
		err = forgetConfig(config)
	}
	if dir := h.keys.journal(name); dir != "" {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// forgetConfig erases a config that has a directory of its own.
func forgetConfig(path string) error {
	if err := keystore.DestroyConfig(path); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(path))
}

func (h *dockerHost) Describe(name, dir string) (d dockervolume.Description, err error) {
	named, err := h.keys.configOf(name)
	if err != nil {
		return d, err
	}
	config, err := readConfig(configPath(dir, named))
	if err != nil {
		return d, err
	}
	d.BlockSize, d.Layers = int(config.Params().BlockSize), len(config.Layers())
	for _, layer := range config.Layers() {
		for _, slot := range config.Slots(layer) {
			if slot.Kind != keystore.KindRecovery {
				d.Cluster, d.Group = slot.Names.Cluster, slot.Names.Group
			}
		}
	}
	return d, nil
}

func (h *dockerHost) Mount(ctx context.Context, name, source, target string, o dockervolume.Options) error {
	args := append([]string{"mount"}, h.keys.StoreArgs...)
	config, err := h.keys.configOf(name)
	if err != nil {
		return err
	}
	if config != "" {
		args = append(args, "--config="+config)
	}
	if dir := h.keys.journal(name); dir != "" {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("directory of the journal: %w", err)
		}
		args = append(args, "-o", "journal="+mountopt.Escape(dir))
	}
	for _, option := range h.keys.MountOptions {
		args = append(args, "-o", option)
	}
	for name, value := range map[string]string{"cluster": o.Cluster, "group": o.Group, "journal-size": o.JournalSize} {
		if value != "" {
			args = append(args, "-o", name+"="+value)
		}
	}
	if o.Layers != 0 {
		args = append(args, "-o", "layers="+strconv.Itoa(o.Layers))
	}
	return h.run(ctx, true, append(args, "--", source, target)...)
}

// Unmount leaves a volume mounted, and is ErrBusy, if it is mounted elsewhere too:
// a container of which all of the host is a volume has copies of its mounts. It is
// ErrBusy as well if the daemon goes on after closingTime: it has much to close, or
// serves where this process does not see it. A Mount then waits for its end.
func (h *dockerHost) Unmount(ctx context.Context, source, target string) error {
	err := h.run(ctx, false, dockerUnmountName, "--", target)
	var p *problem
	if errors.As(err, &p) && p.code == exitBusy {
		return fmt.Errorf("%w: %w", dockervolume.ErrBusy, err)
	}
	return err
}

// settleTime is how long the files of a container that has ended may stay open:
// the kernel closes those of io_uring, and mount namespaces, after the fact.
const settleTime = 3 * time.Second

// dyingTime is how long a daemon that does not answer may take to be gone.
const dyingTime = 5 * time.Second

// State asks a daemon that seems to be there whether it is: one that is being
// killed holds its lock until its last thread has ended.
func (h *dockerHost) State(source, target string) (dockervolume.State, error) {
	for start := time.Now(); ; time.Sleep(closeStep) {
		st, err := h.look(source, target)
		if err != nil || st != dockervolume.Serving {
			return st, err
		}
		err = askDaemon(h.stateDir, target, "journal", nil, nil, questionTime)
		if !errors.Is(err, errNoDaemon) {
			return dockervolume.Serving, nil
		}
		if time.Since(start) > dyingTime {
			h.log.Warn("a daemon holds its volume and does not answer", "target", target)
			return dockervolume.Serving, nil
		}
	}
}

// look is State without asking.
func (h *dockerHost) look(source, target string) (dockervolume.State, error) {
	mounts, err := readMounts()
	if err != nil {
		return dockervolume.Absent, err
	}
	m, ok := mountedAt(mounts, target)
	if !ok {
		if held, err := isHeld(source); err == nil && held {
			return dockervolume.Held, nil
		}
		return dockervolume.Absent, nil
	}
	// By another name it may be from a plugin that was started with another path.
	if m.Type != fsType || !sameDir(m.Source, source) {
		return dockervolume.Absent, fmt.Errorf("something else is mounted at %s: %s", target, m.Source)
	}
	switch stateOf(m) {
	case stateServing:
		return dockervolume.Serving, nil
	case stateDead:
		return dockervolume.Dead, nil
	}
	// Its ciphertext cannot be seen: go by the process.
	if run := runFileOf(h.stateDir, m); run != nil && !run.alive() {
		return dockervolume.Dead, nil
	}
	return dockervolume.Serving, nil
}

func (h *dockerHost) Detach(target string) error { return removeDead(target) }

// run runs one of this program's commands and returns its error. Where tied,
// it does not outlive the plugin.
func (h *dockerHost) run(ctx context.Context, tied bool, args ...string) error {
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = "plyfs"
	cmd.Dir = "/"
	cmd.Stderr = &errs
	// What the command has started, such as a passphrase program, ends with it,
	// and whatever keeps its standard error open is not waited for.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	if tied {
		// The kernel sends it when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	}
	err := cmd.Run()
	for line := range strings.Lines(errs.String()) {
		h.log.Info(args[0], "place", filepath.Base(args[len(args)-1]), "says", strings.TrimSpace(line))
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // the command itself succeeded
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	code := exitFailure
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		code = exitCode(exit.ExitCode())
	}
	return &problem{err: fmt.Errorf("plyfs %s: %s", args[0], saidOf(errs.String(), err)), code: code}
}

// saidOf is what a command said of its failure, in one line.
func saidOf(stderr string, err error) string {
	var said []string
	for line := range strings.Lines(stderr) {
		for _, kind := range []string{"error: ", "hint: "} {
			if text, ok := strings.CutPrefix(strings.TrimSpace(line), "plyfs: "+kind); ok {
				said = append(said, text)
			}
		}
	}
	if len(said) == 0 {
		return err.Error()
	}
	return strings.Join(said, "; ")
}
