package keystore

import (
	"os"
	"syscall"
)

// owner returns user and group of a file.
func owner(st os.FileInfo) [2]uint32 {
	s := st.Sys().(*syscall.Stat_t)
	return [2]uint32{s.Uid, s.Gid}
}
