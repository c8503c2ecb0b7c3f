package volume

import "golang.org/x/sys/unix"

// After an unclean stop a file's backing length may run past what its header
// says, until the file is opened, which trims it. lookAtAll opens every file
// once, in the background; when it is through, the volume is as after a clean
// unmount, and a file without a header is damage again.

// lookAtAll ends early, without having cleared v.unclean, when v.stop is
// closed.
func (v *Volume) lookAtAll() {
	defer v.walk.Done()
	files := 0
	whole := v.lookAt(RootID, &files)
	if !whole {
		return
	}
	v.unclean.Store(false)
	v.log.Info("every file was looked at after the unclean stop", "files", files)
}

// lookAt looks at the files below a directory, which is known to the table,
// and reports whether it got to all of them.
func (v *Volume) lookAt(id NodeID, files *int) bool {
	dirs, ok := v.lookAtDir(id, files)
	for i, d := range dirs {
		ok = ok && v.lookAt(d, files)
		v.Forget(dirs[i], 1)
	}
	return ok
}

// lookAtDir opens the files of one directory and returns the directories in
// it, looked up. What cannot be read is logged where it fails and counts as
// looked at: it will fail in the same way for whoever asks for it.
func (v *Volume) lookAtDir(id NodeID, files *int) (dirs []NodeID, ok bool) {
	h, err := v.OpenDir(id)
	if err != nil {
		v.complain("directory cannot be looked at", "err", err)
		return nil, true
	}
	defer h.Close()
	ok = true
	var entries []DirEntry
	err = h.Read(0, func(e DirEntry) bool {
		if e.back != "" && (e.Kind == unix.S_IFREG || e.Kind == unix.S_IFDIR || e.Kind == 0) {
			entries = append(entries, e)
		}
		return true
	})
	if err != nil {
		v.complain("directory cannot be looked at", "err", err)
	}
	for _, e := range entries {
		select {
		case <-v.stop:
			return dirs, false
		default:
		}
		// A lookup opens the file, for its size.
		child, err := h.Enter(e)
		if err != nil {
			continue
		}
		if child.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
			dirs = append(dirs, child.ID)
			continue
		}
		*files++
		v.Forget(child.ID, 1)
	}
	return dirs, ok
}
