package main

import (
	"fmt"
	"time"

	"github.com/plyfs/plyfs/fs/volume"
)

// journalStatus is what a journal holds at a moment.
type journalStatus struct {
	Size     int64      `json:"size"`     // bytes of all segments, which are made as they are needed
	Limit    int64      `json:"limit"`    // bytes that all segments may have, journal-size
	Live     int64      `json:"live"`     // bytes in use
	Segments int        `json:"segments"` //
	Files    int        `json:"files"`    // that have records which are not home yet
	Items    int64      `json:"items"`    // blocks and the like in them
	Next     uint64     `json:"next_record"`
	Durable  uint64     `json:"durable_record"`
	Frozen   *time.Time `json:"frozen_since,omitempty"`
	Error    string     `json:"error,omitempty"` // why nothing can be written any more
}

// statusTime is how long status waits for a daemon.
const statusTime = 10 * time.Second

func (j *journalStatus) String() string {
	return fmt.Sprintf("%d of at most %d MiB in use, %d segments, records of %d files", (j.Live+1<<20-1)>>20, j.Limit>>20, j.Segments, j.Files)
}

func journalStatusOf(v *volume.Volume) *journalStatus {
	s, ok := v.Journal()
	if !ok {
		return nil
	}
	j := &journalStatus{Size: s.Size, Limit: s.Limit, Live: s.Live, Segments: s.Segments, Files: s.Files, Items: s.Blocks, Next: uint64(s.Next), Durable: uint64(s.Durable)}
	if f, ok := v.Frozen(); ok {
		j.Frozen = &f.Since
	}
	if s.Err != nil {
		j.Error = s.Err.Error()
	}
	return j
}

// askJournal asks the daemon of a mountpoint; nil if it does not answer.
func askJournal(dir, target string) *journalStatus {
	var j *journalStatus
	if askDaemon(dir, target, "journal", nil, &j, statusTime) != nil {
		return nil
	}
	return j
}
