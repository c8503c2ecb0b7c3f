package fs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Requests about extended attributes.

// fill copies value to dst as getxattr(2) and listxattr(2) want it: its length
// alone where dst is empty, ERANGE where dst is too small.
func fill(dst, value []byte) (uint32, fuse.Status) {
	if len(dst) > 0 && len(dst) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	copy(dst, value)
	return uint32(len(value)), fuse.OK
}

func (a *adapter) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dst []byte) (uint32, fuse.Status) {
	value, err := a.v.GetXattr(id(in.NodeId), name)
	if err != nil {
		return 0, status(err)
	}
	return fill(dst, value)
}

func (a *adapter) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dst []byte) (uint32, fuse.Status) {
	names, err := a.v.ListXattr(id(in.NodeId))
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for _, n := range names {
		// As on a disk filesystem, who could not read these is not shown them.
		if in.Uid != 0 && strings.HasPrefix(n, "trusted.") {
			continue
		}
		list = append(append(list, n...), 0)
	}
	return fill(dst, list)
}

func (a *adapter) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	killSetGID := in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0
	return status(a.v.SetXattr(id(in.NodeId), name, value, int(in.Flags), killSetGID))
}

func (a *adapter) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(a.v.RemoveXattr(id(in.NodeId), name))
}
