package treecopy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The target may be somebody else's, who exchanges what is in it meanwhile: what
// a symlink there leads to is not touched, and no other directory taken for one
// of the copy.
func TestCopyIntoForeignTarget(t *testing.T) {
	for name, swap := range map[string]func(place, victim string) error{
		"a symlink": func(place, victim string) error { return os.Symlink(victim, place) },
		"a directory": func(place, victim string) error {
			return os.Rename(victim, place)
		},
	} {
		for _, dir := range []string{"empty", "db"} {
			t.Run(name+" for "+dir, func(t *testing.T) {
				from := filepath.Join(t.TempDir(), "from")
				must(t, os.MkdirAll(filepath.Join(from, "empty"), 0o777))
				must(t, os.Chmod(filepath.Join(from, "empty"), 0o777))
				must(t, os.Mkdir(filepath.Join(from, "db"), 0o777))
				must(t, os.Chmod(filepath.Join(from, "db"), 0o777))
				must(t, os.WriteFile(filepath.Join(from, "db/small"), []byte("small"), 0o600))
				must(t, os.WriteFile(filepath.Join(from, "large"), noise(1, 2*chunk), 0o600))
				to := t.TempDir()
				must(t, os.Chown(to, 1234, 1234))
				victim := filepath.Join(to, "victim")
				must(t, os.Mkdir(victim, 0o700))
				v, err := os.Open(victim)
				must(t, err)
				defer v.Close()
				var once sync.Once
				_, err = copyTree(context.Background(), from, to, func(Progress) {
					once.Do(func() {
						must(t, os.Rename(filepath.Join(to, dir), filepath.Join(to, "away")))
						must(t, swap(filepath.Join(to, dir), victim))
					})
				})
				if !errors.Is(err, ErrReplaced) {
					t.Errorf("%v, want ErrReplaced", err)
				}
				var st unix.Stat_t
				must(t, unix.Fstat(int(v.Fd()), &st))
				if st.Mode&0o7777 != 0o700 {
					t.Errorf("the other directory has mode %o", st.Mode)
				}
				if in, err := v.ReadDir(-1); err != nil || len(in) != 0 {
					t.Errorf("in the other directory: %v, %v", in, err)
				}
			})
		}
	}
}

// A directory for files under way that others get into is refused, and nothing
// copied.
func TestForeignWorkDirIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"everybody's": func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o777)) },
		"another's":   func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chown(p, 1234, 1234)) },
		"a symlink":   func(p string) error { return errors.Join(os.Mkdir(p+"2", 0o700), os.Symlink(p+"2", p)) },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := sourceTree(t), t.TempDir()
			must(t, spoil(filepath.Join(to, WorkDir)))
			if _, err := copyTree(context.Background(), from, to, nil); !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDiffers) {
				t.Errorf("%v, want a refusal", err)
			}
			if _, err := os.Lstat(filepath.Join(to, "large")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("copied: %v", err)
			}
		})
	}
}

// What is under way is given its place only as what was verified.
func TestOnlyTheVerifiedFileIsPlaced(t *testing.T) {
	dir := t.TempDir()
	tg, err := OpenTarget(dir)
	must(t, err)
	defer tg.Close()
	must(t, tg.begin(&Plan{}))
	work := filepath.Join(dir, WorkDir, "1-2")
	must(t, os.WriteFile(work, []byte("verified"), 0o600))
	f, err := os.Open(work)
	must(t, err)
	defer f.Close()
	must(t, os.Rename(work, filepath.Join(dir, "away")))
	must(t, os.WriteFile(work, []byte("another"), 0o600))
	if err := tg.place(f, "1-2", tg.root, "f"); !errors.Is(err, ErrReplaced) {
		t.Errorf("%v, want ErrReplaced", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in its place: %v", err)
	}
}

// No component of the target's path may be a symlink: it was resolved before.
func TestTargetBehindSymlinkIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o700))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	if _, err := copyTree(context.Background(), sourceTree(t), filepath.Join(dir, "link/new"), nil); err == nil {
		t.Error("copied")
	}
}

// The source is not copied into itself, by whatever path the target leads there,
// nor one of its directories changed.
func TestTargetInSourceIsRefused(t *testing.T) {
	for name, places := range map[string]func(dir string) (from, to string, err error){
		"itself": func(dir string) (string, string, error) {
			return dir, dir, nil
		},
		"by another path": func(dir string) (string, string, error) {
			other := dir + "-mounted"
			return other, filepath.Join(dir, "db/new"), errors.Join(os.Mkdir(other, 0o700), unix.Mount(dir, other, "", unix.MS_BIND, ""))
		},
		"in the target": func(dir string) (string, string, error) {
			return filepath.Join(dir, "db"), dir, os.Mkdir(filepath.Join(dir, "db/db"), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			must(t, os.MkdirAll(filepath.Join(dir, "db"), 0o755))
			from, to, err := places(dir)
			must(t, err)
			if from == dir+"-mounted" {
				defer func() { must(t, unix.Unmount(from, unix.MNT_DETACH)) }()
			}
			want := describe(t, dir)
			if _, err := copyTree(context.Background(), from, to, nil); !errors.Is(err, ErrSource) {
				t.Errorf("%v, want ErrSource", err)
			}
			wantSame(t, describe(t, dir), want)
		})
	}
}

// Two copies into one target would write to the same files under way: the second
// is refused, and what the first has verified stays as it is.
func TestSecondCopyAtATimeIsRefused(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	want := noise(1, 3*chunk)
	must(t, os.WriteFile(filepath.Join(from, "large"), want, 0o600))
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	var once sync.Once
	_, first := copyTree(ctx, from, to, func(Progress) {
		once.Do(func() {
			if _, err := copyTree(context.Background(), from, to, nil); !errors.Is(err, ErrBusy) {
				t.Errorf("the second copy: %v, want ErrBusy", err)
			}
			interrupt()
		})
	})
	got, err := os.ReadFile(filepath.Join(to, "large"))
	if err == nil && !bytes.Equal(got, want) {
		t.Errorf("in its place is something else; the first copy: %v", first)
	}
	_, err = copyTree(context.Background(), from, to, nil)
	must(t, err)
}

// What is copied goes where the target was when it was opened, also if its
// filesystem is taken out of the tree since, and is not unmounted meanwhile.
func TestCopyFollowsNoPathOnceTheTargetIsOpen(t *testing.T) {
	for _, sub := range []string{"", "new"} {
		from, mnt := sourceTree(t), t.TempDir()
		must(t, unix.Mount("target", mnt, "tmpfs", 0, ""))
		tg, err := OpenTarget(filepath.Join(mnt, sub))
		must(t, err)
		defer tg.Close()
		if err := unix.Unmount(mnt, 0); !errors.Is(err, unix.EBUSY) {
			t.Fatalf("unmounted: %v", err)
		}
		must(t, unix.Unmount(mnt, unix.MNT_DETACH))
		p, err := MakePlan(context.Background(), from)
		must(t, err)
		_, err = Copy(context.Background(), p, tg, nil)
		must(t, err)
		if in, err := os.ReadDir(mnt); err != nil || len(in) > 0 {
			t.Errorf("below the target's mount: %v, %v", in, err)
		}
	}
}
