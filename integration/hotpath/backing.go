package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// imageSize is enough for a journal and the files of all workloads in each
// target: new ones stay until the end.
func imageSize(targets, rounds int) int64 {
	whole := int64(rounds/wholeEach + 1)
	return int64(targets) * (512*mib + whole*2*seqOps*mib)
}

// image is a filesystem of its own, in a file of the disk to be measured.
type image struct {
	base, dir string

	mu     sync.Mutex
	loop   string
	closed bool
}

// newImage makes the directories of an image below base.
func newImage(base string) (*image, error) {
	base, err := os.MkdirTemp(base, "plyfs-hotpath-image-")
	if err != nil {
		return nil, err
	}
	m := &image{base: base, dir: filepath.Join(base, "mnt")}
	return m, os.Mkdir(m.dir, 0o755)
}

// mount makes an ext4 with a journal, of size bytes. Its file is written once
// before, so that the filesystem beneath has nothing to allocate any more.
func (m *image) mount(size int64) error {
	file := filepath.Join(m.base, "img")
	if err := zeros(file, size); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("interrupted")
	}
	_, err := command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", file)
	if err == nil {
		m.loop, err = command("losetup", "--find", "--show", "--direct-io=on", file)
	}
	if err == nil {
		err = unix.Mount(m.loop, m.dir, "ext4", 0, "")
	}
	return err
}

func zeros(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	p := make([]byte, mib)
	for off := int64(0); off < size && err == nil; off += mib {
		err = pwrite(f, p, off)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// close unmounts and removes the image. nil is fine.
func (m *image) close() (err error) {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if m.loop != "" {
		for range 50 { // what a killed daemon had open may take a while
			if err = unix.Unmount(m.dir, 0); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if errors.Is(err, unix.EINVAL) { // was not mounted
			err = nil
		}
		_, e := command("losetup", "--detach", m.loop)
		err = errors.Join(err, e)
	}
	if err != nil {
		return err // removing the tree must not reach into the mount
	}
	return os.RemoveAll(m.base)
}

// command runs a program and returns what it printed, trimmed.
func command(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		cmd.Path, cmd.Err = path, nil
	} else if path, err := exec.LookPath("/sbin/" + name); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// describe names the filesystem of dir, and says of an ext4 whether it has a
// journal: without one its fdatasync is cheaper than on most machines.
func describe(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err.Error()
	}
	id := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		_, rest, ok := strings.Cut(line, " - ")
		if what := strings.Fields(rest); ok && len(what) > 1 && f[2] == id {
			if what[0] != "ext4" {
				return what[0]
			}
			if j, _ := filepath.Glob("/proc/fs/jbd2/" + filepath.Base(what[1]) + "-*"); len(j) > 0 {
				return "ext4 with a journal"
			}
			return "ext4 without a journal"
		}
	}
	return "an unknown filesystem"
}
