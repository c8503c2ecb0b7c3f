package treecopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// WorkDir is the name, in the target, of the directory of files under way. A
// finished copy removes it.
const WorkDir = ".plyfs-import"

var (
	// ErrDiffers reports something in the target that is not what the source has.
	ErrDiffers = errors.New("is there already and differs")
	// ErrChanged reports a source that changed while it was copied.
	ErrChanged = errors.New("changed while it was copied")
	// ErrVerify reports that what was read back is not what was written.
	ErrVerify = errors.New("does not read back as it was written")
	// ErrSource reports a target with a directory that is one of the source, or in one.
	ErrSource = errors.New("is in the source")
	// ErrForeign reports a WorkDir that others than the caller get into.
	ErrForeign = errors.New("is not a directory of the user who imports with mode 0700")
	// ErrBusy reports another copy into the same target that is under way.
	ErrBusy = errors.New("another import into it is under way")
	// ErrReplaced reports something in the target that somebody exchanged while
	// it was copied.
	ErrReplaced = errors.New("was replaced by somebody while it was copied")
)

// FileID tells files apart, by whatever path they are reached.
type FileID struct{ Dev, Ino uint64 }

// entry is something to copy. The first name of an inode is copied, further
// ones become links.
type entry struct {
	path string // relative to the source, "." the source itself
	st   unix.Stat_t
	link string // path of the inode's first name, for a further one
}

func (e *entry) kind() uint32 { return e.st.Mode & unix.S_IFMT }

func (e *entry) id() FileID { return FileID{e.st.Dev, e.st.Ino} }

// workName is what the entry's file is called while it is under way.
func (e *entry) workName() string { return fmt.Sprintf("%x-%x", e.st.Dev, e.st.Ino) }

// Plan is what a copy has to do, parents before what is in them.
type Plan struct {
	root               string   // the source
	dirs, files, links []*entry // files: all that is neither directory nor link
	bytes              int64    // of regular files
	sockets            []string
}

// MakePlan looks at everything below the directory root. A mountpoint there is an
// error: what lies under it belongs to another filesystem.
func MakePlan(ctx context.Context, root string) (*Plan, error) {
	p := &Plan{root: root}
	first := map[FileID]string{}
	var dev uint64
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel == WorkDir {
			return fmt.Errorf("%s: an import into %s did not end; run it again first", path, root)
		}
		e := &entry{path: rel}
		if err := unix.Lstat(path, &e.st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		if rel == "." {
			dev = e.st.Dev
		} else if e.st.Dev != dev {
			return fmt.Errorf("%s: another filesystem is mounted there; copy it by itself", path)
		}
		p.add(e, first)
		return nil
	})
	return p, err
}

func (p *Plan) add(e *entry, first map[FileID]string) {
	switch e.kind() {
	case unix.S_IFDIR:
		p.dirs = append(p.dirs, e)
		return
	case unix.S_IFSOCK:
		p.sockets = append(p.sockets, e.path)
		return
	}
	if e.st.Nlink > 1 {
		if old, ok := first[e.id()]; ok {
			e.link = old
			p.links = append(p.links, e)
			return
		}
		first[e.id()] = e.path
	}
	p.files = append(p.files, e)
	if e.kind() == unix.S_IFREG {
		p.bytes += e.st.Size
	}
}

// Files returns the regular files of the source.
func (p *Plan) Files() map[FileID]bool {
	files := map[FileID]bool{}
	for _, e := range p.files {
		if e.kind() == unix.S_IFREG {
			files[e.id()] = true
		}
	}
	return files
}

// sources returns the directories of the source.
func (p *Plan) sources() map[FileID]bool {
	dirs := map[FileID]bool{}
	for _, e := range p.dirs {
		dirs[e.id()] = true
	}
	return dirs
}

// names returns the paths of everything in the source.
func (p *Plan) names() map[string]bool {
	names := map[string]bool{}
	for _, e := range slices.Concat(p.dirs, p.files, p.links) {
		names[e.path] = true
	}
	for _, path := range p.sockets {
		names[path] = true
	}
	return names
}

// unchanged compares the source with what it was when the plan was made: a file
// that was written to after it was copied, and names that came or went, show.
func (p *Plan) unchanged() error {
	for _, e := range slices.Concat(p.files, p.dirs) {
		var now unix.Stat_t
		err := unix.Lstat(filepath.Join(p.root, e.path), &now)
		if err != nil || now.Ino != e.st.Ino || now.Size != e.st.Size || now.Mtim != e.st.Mtim || now.Ctim != e.st.Ctim {
			return errors.Join(fmt.Errorf("%s: %w", e.path, ErrChanged), err)
		}
	}
	return nil
}

// largestFirst orders files so that workers end at about the same time.
func (p *Plan) largestFirst() []*entry {
	files := slices.Clone(p.files)
	slices.SortStableFunc(files, func(a, b *entry) int { return cmp.Compare(b.st.Size, a.st.Size) })
	return files
}
