package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
)

func umountCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "umount",
		Usage:     "unmount a volume and wait until it is closed",
		UsageText: "plyfs umount MOUNTPOINT",
		Description: "When it returns with 0 the volume is closed cleanly and the ciphertext directory\n" +
			"at rest, but for two cases that it tells of on standard error: the volume is\n" +
			"still mounted at another place (by mount --bind), or the mount was dead, its\n" +
			"daemon lost, and there was nothing left to close; the next mount recovers.\n" +
			"The ciphertext directory's name does as well as the mountpoint's. umount(8)\n" +
			"waits for the end too where its helper, umount.fuse.plyfs, is installed; without\n" +
			"it, it loses nothing, but does not wait.",
		Action: func(c *cli.Context) error {
			p, err := places(c, "MOUNTPOINT")
			if err != nil {
				return err
			}
			m, err := findMount(p[0])
			if err != nil {
				return err
			}
			err = unmounting{}.unmount(con, m)
			if err == nil {
				leaveTable(m.Target)
			}
			return err
		},
	}
}

const (
	// closeWait bounds how long umount waits for a daemon that cannot be seen.
	closeWait = 60 * time.Second
	// closeStep is how often it looks.
	closeStep = 5 * time.Millisecond
)

// findMount returns the mount that place names: by its mountpoint, or by the
// ciphertext directory where that is mounted once.
func findMount(place string) (mountEntry, error) {
	target, err := resolveTarget(place)
	if err != nil {
		return mountEntry{}, err
	}
	mounts, err := readMounts()
	if err != nil {
		return mountEntry{}, err
	}
	if m, ok := mountedAt(mounts, target); ok && m.Type == fsType {
		return m, nil
	}
	var of []mountEntry
	var places []string
	for _, m := range volumeMounts(mounts) {
		if sameDir(m.Source, target) {
			of, places = append(of, m), append(places, m.Target)
		}
	}
	switch len(of) {
	case 0:
		return mountEntry{}, errNotMounted(target, "see 'plyfs status'")
	case 1:
		return of[0], nil
	}
	return mountEntry{}, usageError("name one of "+strings.Join(places, ", "), "%s is mounted at %d places", target, len(of))
}

// unmounting says how to unmount. The zero value is umount(2) and waits for
// as long as the daemon lives.
type unmounting struct {
	flags    int           // MNT_DETACH or MNT_FORCE, or 0
	patience time.Duration // how long to wait for a daemon that lives; 0: without end
	last     bool          // only if it is the last mount of the volume, in any mount namespace
}

// unmount takes m away and waits for its daemon's end, unless it was detached.
func (how unmounting) unmount(con *console, m mountEntry) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	target := m.Target
	run := runFileOf(stateDir(con), m)
	if j := askJournal(stateDir(con), target); j != nil && j.Frozen != nil {
		return &problem{err: fmt.Errorf("%s is frozen", target), code: exitBusy, hint: "end that first: plyfs thaw " + target}
	}
	dead := isDead(m)
	var clone *os.File
	if how.last && !dead {
		if clone, err = cloneMount(target); err != nil { // a kernel or a container that does not let it
			con.warn("a copy of the mount in another mount namespace will hold the volume: %s", err)
		} else {
			defer clone.Close()
		}
	}
	if err := detach(target, how.flags); err != nil {
		return err
	}
	if dead {
		if run != nil {
			takeRunFile(stateDir(con), run)
		}
		con.warn("%s had lost its daemon; the volume was not closed cleanly", target)
		return nil
	}
	if clone != nil {
		if err := putBack(clone, m.Device, target); err != nil {
			return err
		}
		clone.Close()
	}
	for _, other := range mounts {
		if other.Device == m.Device && other.Target != target {
			con.note("the volume is still mounted at %s", other.Target)
			return nil
		}
	}
	if how.flags&unix.MNT_DETACH != 0 {
		return nil
	}
	return how.awaitClosed(con, m.Source, target, run)
}

// whereMounted helps somebody who named the wrong place.
func whereMounted(mounts []mountEntry, place string) string {
	for _, m := range volumeMounts(mounts) {
		if m.Source == place {
			return "it is mounted at " + m.Target
		}
	}
	return "see 'plyfs status'"
}

// detach is umount(2), through fusermount3 for users who may not.
func detach(target string, flags int) error {
	err := unix.Unmount(target, flags|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) {
		args := []string{"-u"}
		if flags&unix.MNT_DETACH != 0 {
			args = append(args, "-z")
		}
		out, e := exec.Command(fusermount(), append(args, "--", target)...).CombinedOutput()
		switch {
		case e == nil:
			return nil
		case strings.Contains(string(out), "busy"):
			err = unix.EBUSY
		case len(out) > 0:
			err = fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(out)))
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		hint := "close the files that are open in it, and leave its directories"
		if users := usersOf(target); len(users) > 0 {
			hint = "in use by " + strings.Join(users, ", ")
		}
		return &problem{err: fmt.Errorf("%s is busy", target), code: exitBusy, hint: hint}
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

// fusermount finds the program that unmounts for users. umount(8) takes PATH
// away where a user calls it.
func fusermount() string {
	if path, err := exec.LookPath("fusermount3"); err == nil {
		return path
	}
	return "/usr/bin/fusermount3"
}

// detachFor is umount(2) for a daemon that may not itself, of the filesystem of a
// device alone: another one may be mounted at target by now. It is EINVAL where
// that filesystem is mounted nowhere. A lazy one also takes a mount out of the
// tree that is in use.
func detachFor(target, device string, lazy bool) error {
	if deviceAt(target) != device {
		return notAt(target, device)
	}
	flags, words := unix.UMOUNT_NOFOLLOW, []string{"-u", target}
	if lazy {
		flags, words = flags|unix.MNT_DETACH, []string{"-u", "-z", target}
	}
	err := unix.Unmount(target, flags)
	if errors.Is(err, unix.EPERM) {
		if out, e := exec.Command(fusermount(), words...).CombinedOutput(); e == nil {
			return nil
		} else if strings.Contains(string(out), "busy") {
			err = unix.EBUSY
		}
	}
	return err
}

// notAt says why the filesystem of a device is not what is seen at target.
func notAt(target, device string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	err = unix.EINVAL
	for _, m := range mounts {
		switch {
		case m.Device != device:
		case m.Target == target:
			return fmt.Errorf("something else is mounted over it at %s", target)
		default:
			err = fmt.Errorf("it is not mounted at %s any more, but at %s", target, m.Target)
		}
	}
	return err
}

// awaitClosed returns when the daemon has closed the volume and given up its
// lock. What the run file says then is final.
func (how unmounting) awaitClosed(con *console, source, target string, run *runFile) error {
	for start, told := time.Now(), false; ; {
		held, err := isHeld(source)
		if err == nil && !held {
			break
		}
		if run != nil && !run.alive() {
			break // another host, which waited for it, has the volume by now
		}
		if err != nil && run == nil {
			return &problem{err: fmt.Errorf("%s is unmounted, but whether the volume is closed cannot be seen: ciphertext directory: %w", target, err), code: codeOf(err),
				hint: "its daemon has ended when 'ps' shows none with that mountpoint"}
		}
		waited := time.Since(start)
		if waited > closeWait && (run == nil || !run.alive()) || how.patience > 0 && waited > how.patience {
			return &problem{err: fmt.Errorf("%s is unmounted here, but the volume is still in use", target), code: exitBusy,
				hint: "another mount namespace or container may hold the mount"}
		} else if waited > 2*time.Second && !told {
			told = true
			con.note("waiting until the volume is closed")
		}
		time.Sleep(closeStep)
	}
	if run == nil {
		return nil // nothing is known of its end
	}
	left := takeRunFile(stateDir(con), run)
	if left == nil {
		return nil
	}
	if left.CloseError == "" {
		left.CloseError = "its daemon ended early"
	}
	return &problem{err: fmt.Errorf("%s is unmounted, but the volume was not closed cleanly: %s", target, left.CloseError), code: exitIO,
		hint: "the log has more: " + run.Log}
}

// isHeld reports whether somebody holds the lock of the volume in a ciphertext
// directory. The directory may have been moved away from under its mount.
func isHeld(source string) (bool, error) {
	root, err := backing.OpenDir(source)
	if err != nil {
		return false, err
	}
	defer root.Close()
	lock, err := volume.Lock(root, 0)
	if err == nil {
		return false, lock.Close()
	}
	if errors.Is(err, volume.ErrBusy) {
		return true, nil
	}
	return false, err
}

// usersOf names processes that keep a mount busy: their working or root
// directory, an open file or a mapping lies in it. It needs root to see all.
func usersOf(target string) []string {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var users []string
	for _, proc := range procs {
		if !usesMount(proc, target) {
			continue
		}
		users = append(users, processName(proc))
	}
	slices.SortFunc(users, func(a, b string) int { return len(a) - len(b) })
	if len(users) > 5 {
		users = append(users[:5], strconv.Itoa(len(users)-5)+" more")
	}
	return users
}

// processName tells who a directory of /proc is.
func processName(proc string) string {
	name, _ := os.ReadFile(proc + "/comm")
	return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(proc))
}

func usesMount(proc, target string) bool {
	links, _ := filepath.Glob(proc + "/fd/*")
	maps, _ := filepath.Glob(proc + "/map_files/*")
	links = append(append(links, maps...), proc+"/cwd", proc+"/root")
	for _, link := range links {
		to, err := os.Readlink(link)
		if err == nil && (to == target || strings.HasPrefix(to, target+"/")) {
			return true
		}
	}
	return false
}
