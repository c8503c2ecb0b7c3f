package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/plyfs/plyfs/fs/volume"
)

// journalStatus is what a journal holds at a moment.
type journalStatus struct {
	Size     int64  `json:"size"`     // bytes of all segments
	Live     int64  `json:"live"`     // bytes in use
	Segments int    `json:"segments"` //
	Files    int    `json:"files"`    // that have records which are not home yet
	Items    int64  `json:"items"`    // blocks and the like in them
	Next     uint64 `json:"next_record"`
	Durable  uint64 `json:"durable_record"`
	Error    string `json:"error,omitempty"` // why nothing can be written any more
}

func (j *journalStatus) String() string {
	return fmt.Sprintf("%d of %d MiB in use, %d segments, records of %d files", (j.Live+1<<20-1)>>20, j.Size>>20, j.Segments, j.Files)
}

func journalStatusOf(v *volume.Volume) *journalStatus {
	s, ok := v.Journal()
	if !ok {
		return nil
	}
	j := &journalStatus{Size: s.Size, Live: s.Live, Segments: s.Segments, Files: s.Files, Items: s.Blocks, Next: uint64(s.Next), Durable: uint64(s.Durable)}
	if s.Err != nil {
		j.Error = s.Err.Error()
	}
	return j
}

// answerTime bounds a conversation over the socket.
const answerTime = 2 * time.Second

// socketPath is where the daemon of a mountpoint answers.
func socketPath(dir, target string) string {
	return strings.TrimSuffix(runPath(dir, target), ".json") + ".sock"
}

// answer tells whoever connects to the mount's socket, root or the mounting
// user, what the journal holds. The mount does without where that fails.
func (m *mounting) answer() (stop func()) {
	if m.r.StateDir == "" {
		return func() {}
	}
	path := socketPath(m.r.StateDir, m.r.Target)
	os.Remove(path) // of a daemon that was killed: the lock on the volume is ours
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600) // the directory is 0700
	}
	if err != nil {
		m.log.Warn("status will not know what the journal holds", "error", err)
		return func() {}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(answerTime))
			json.NewEncoder(c).Encode(journalStatusOf(m.volume))
			c.Close()
		}
	}()
	return func() { l.Close() }
}

// askJournal asks the daemon of a mountpoint; nil if it does not answer.
func askJournal(dir, target string) *journalStatus {
	c, err := net.DialTimeout("unix", socketPath(dir, target), answerTime)
	if err != nil {
		return nil
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(answerTime))
	var j *journalStatus
	if json.NewDecoder(c).Decode(&j) != nil {
		return nil
	}
	return j
}
