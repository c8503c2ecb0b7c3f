package journal

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

func (w *world) Checkpoint(files []Ref, through LSN) (gone []cipher.FileID, err error) {
	for _, f := range files {
		if w.files[f.ID] == nil {
			gone = append(gone, f.ID)
		} else if ferr := w.checkpoint(f.ID, through); ferr != nil {
			err = ferr
		}
	}
	return gone, err
}

// checkpoint is what blockfile does: bodies, tag block, header, sync, done.
func (w *world) checkpoint(id cipher.FileID, through LSN) error {
	h := w.files[id]
	if w.stuck[id] == stuckFile {
		return errTestStuck
	}
	d, err := h.jf.Dirty(through)
	if err != nil || d.Empty() {
		return err
	}
	var skipped error
	if w.beforeCopy != nil {
		w.beforeCopy(id)
	}
	done := Done{Cut: d.Cut}
	if d.VoidFrom != NoCut {
		st, err := h.f.Stat()
		if err != nil {
			return err
		}
		if end := w.l.PhysicalSize(int64(d.VoidFrom) * testBlock); st.Size > end {
			if err := h.f.Truncate(end); err != nil {
				return err
			}
		}
	}
	for _, g := range d.Groups {
		if w.stuck[id] == stuckGroups && g%2 > 0 {
			skipped = errTestStuck
			continue
		}
		lsn, err := h.groupHome(g)
		if err != nil {
			return err
		}
		done.Groups = append(done.Groups, GroupDone{g, lsn})
	}
	if err := h.headerHome(d, &done); err != nil {
		return err
	}
	if err := h.f.Sync(); err != nil {
		return err
	}
	if w.beforeDone != nil {
		w.beforeDone(id)
	}
	h.jf.Checkpointed(done)
	return skipped
}

// groupHome copies a group with all its records.
func (h *homeFile) groupHome(g uint64) (LSN, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.w.j.Pin().Unpin()
	c, err := h.jf.Copy(g)
	if c == nil || err != nil {
		return 0, err
	}
	tag := make([]byte, 4096)
	if err := readFull(h.f, tag, h.w.l.TagOffset(g)); err != nil {
		return 0, err
	}
	for s := range cipher.EntriesPerGroup {
		if c.Trailer.Present>>s&1 == 0 {
			clear(tag[s*cipher.EntrySize:][:cipher.EntrySize])
		}
	}
	body := make([]byte, testBlock)
	for _, b := range c.Blocks {
		entry := tag[h.w.l.Slot(b.Index)*cipher.EntrySize:][:cipher.EntrySize]
		if err := errors.Join(h.w.j.ReadAt(entry, b.Entry), h.w.j.ReadAt(body, b.Body)); err != nil {
			return 0, err
		}
		if _, err := h.f.WriteAt(body, h.w.l.BlockOffset(b.Index)); err != nil {
			return 0, err
		}
	}
	return c.LSN, h.putTag(g, tag, c.Trailer.Present, c.LSN)
}

// headerHome writes size and mtime, and gives home the length it needs.
func (h *homeFile) headerHome(d Dirty, done *Done) error {
	if d.Header != 0 {
		if err := h.putHeader(d.Size, d.Last); err != nil {
			return err
		}
		done.Header = d.Header
		st, err := h.f.Stat()
		if err != nil {
			return err
		}
		if end := h.w.l.PhysicalSize(d.Size); st.Size < end {
			if err := h.f.Truncate(end); err != nil {
				return err
			}
		}
	}
	if d.Mtime != 0 {
		ts := unix.Timespec{Sec: d.MtimeSec, Nsec: int64(d.MtimeNsec)}
		if err := h.f.Utimes(unix.Timespec{Nsec: unix.UTIME_OMIT}, ts); err != nil {
			return err
		}
		done.Mtime = d.Mtime
	}
	return nil
}
