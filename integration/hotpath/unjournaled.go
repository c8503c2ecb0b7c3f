package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/fs"
	"github.com/plyfs/plyfs/fs/backing"
	"github.com/plyfs/plyfs/fs/volume"
)

// bareCommand is the argument with which this program serves a volume without a
// journal.
const bareCommand = "serve-without-journal"

// addBare adds a new volume without a journal, served by this program in another
// process: no plyfs program mounts one, for a power cut may leave blocks in it that
// do not open. What it is slower than is what FUSE and the ciphers cost.
func (r *rig) addBare() error {
	t, err := r.add("no-journal")
	if err != nil {
		return err
	}
	c, err := bareCipher()
	if err == nil {
		err = formatBare(t.backing, c)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	t.start = []string{"/proc/self/exe", bareCommand, t.backing, t.dir}
	return t.mount()
}

// bareCipher has keys that everybody knows: nobody reads what is written.
func bareCipher() (*cipher.Volume, error) {
	p := cipher.Params{Format: cipher.FormatVersion, Suite: cipher.SuiteDouble, Layers: 2, BlockSize: 4096, VolumeID: cipher.VolumeID{1}}
	return cipher.NewVolume(p, 1, cipher.Keys{Data: [32]byte{1}, Infra: [32]byte{2}}, nil)
}

func formatBare(dir string, c *cipher.Volume) error {
	root, err := backing.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(volume.Format(root, c), root.Close())
}

// serveBare mounts the volume in dir and returns when it was unmounted.
func serveBare(dir, mountpoint string) error {
	unix.Umask(0)
	c, err := bareCipher()
	if err != nil {
		return err
	}
	root, err := backing.OpenDir(dir)
	if err != nil {
		return err
	}
	v, err := volume.OpenWithoutJournal(volume.Config{Root: root, Cipher: c})
	if err != nil {
		return errors.Join(err, root.Close())
	}
	s, err := fs.Mount(mountpoint, v, fs.Options{Source: dir, AllowOther: os.Getuid() == 0})
	if err != nil {
		return errors.Join(err, v.Close())
	}
	return s.Wait()
}
