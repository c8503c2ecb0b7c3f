package backing

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// streamBuffer is what one getdents64 call may bring, in bytes.
const streamBuffer = 32 << 10

// osStream reads a directory through a descriptor of its own, since position
// belongs to the descriptor.
type osStream struct {
	h   *handle
	buf []byte // unread part of arr
	arr [streamBuffer]byte
}

func (d osDir) ReadDir() (DirStream, error) {
	fd, err := d.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &osStream{h: newHandle(fd)}, nil
}

// NoAtime is for the owner and root.
func (s *osStream) NoAtime() error {
	return s.h.do(func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NOATIME)
		return err
	})
}

func (s *osStream) Next() (Dirent, bool, error) {
	if len(s.buf) == 0 {
		n := 0
		err := s.h.do(func(fd int) (err error) {
			n, err = unix.Getdents(fd, s.arr[:])
			return err
		})
		if err != nil || n == 0 {
			return Dirent{}, false, err
		}
		s.buf = s.arr[:n]
	}
	// struct linux_dirent64: ino 8 | off 8 | reclen 2 | type 1 | name, NUL
	const fixed = 19
	if len(s.buf) < fixed {
		return Dirent{}, false, unix.EIO
	}
	size := int(binary.NativeEndian.Uint16(s.buf[16:]))
	if size < fixed || size > len(s.buf) {
		return Dirent{}, false, unix.EIO
	}
	name := s.buf[fixed:size]
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	e := Dirent{
		Name: string(name),
		Ino:  binary.NativeEndian.Uint64(s.buf),
		Off:  int64(binary.NativeEndian.Uint64(s.buf[8:])),
		Type: s.buf[18],
	}
	s.buf = s.buf[size:]
	return e, true, nil
}

func (s *osStream) SeekTo(off int64) error {
	s.buf = nil
	return s.h.do(func(fd int) error {
		_, err := unix.Seek(fd, off, unix.SEEK_SET)
		return err
	})
}

func (s *osStream) Close() error { return s.h.close() }
