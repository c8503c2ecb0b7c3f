package main

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// inspection is what the ciphertext of one file shows without keys. Byte
// strings are in hexadecimal.
type inspection struct {
	File     string         `json:"file"`
	Length   int64          `json:"length"` // of the backing file
	Static   inspectStatic  `json:"static_header"`
	Header   inspectHeader  `json:"header"`
	Summary  inspectSummary `json:"summary"`
	Groups   []inspectGroup `json:"groups"` // those with blocks that were asked for
	Problems []string       `json:"problems"`
	Verified bool           `json:"verified"` // always false: it takes the keys
}

type inspectStatic struct {
	Format    int       `json:"format"`
	Suite     int       `json:"suite"`
	SuiteName string    `json:"suite_name"`
	Layers    int       `json:"layers"`
	BlockSize int       `json:"block_size"`
	Epoch     uint32    `json:"epoch"`
	VolumeID  string    `json:"volume_id"`
	FileID    string    `json:"file_id"`
	Salt      string    `json:"file_salt"`
	MAC       [2]string `json:"mac"` // of layer 1 and layer 2, as below
}

type inspectHeader struct {
	Size   int64     `json:"size"`
	Blocks uint64    `json:"blocks"`
	LSN    uint64    `json:"lsn"`
	Epochs []uint32  `json:"epochs"`
	Last   uint64    `json:"last_group"` // the highest group that has a tag block
	MAC    [2]string `json:"mac"`
}

// inspectSummary counts over the whole file.
type inspectSummary struct {
	Groups  uint64 `json:"groups"`  // with a tag block
	Present uint64 `json:"present"` // sealed blocks
	Holes   uint64 `json:"holes"`   // blocks that read as zeros
}

type inspectGroup struct {
	Group   uint64         `json:"group"`
	First   uint64         `json:"first_block"`
	Last    uint64         `json:"last_block"`
	Offset  int64          `json:"offset"` // of its tag block
	Epoch   uint32         `json:"epoch"`
	LSN     uint64         `json:"lsn"`
	Present int            `json:"present"`
	Gap     uint64         `json:"gap"` // groups directly before it that were never written
	MAC     [2]string      `json:"mac"`
	Blocks  []inspectBlock `json:"blocks"`
}

type inspectBlock struct {
	Block  uint64 `json:"block"`
	Hole   bool   `json:"hole,omitempty"`
	Offset int64  `json:"offset,omitempty"` // of its body
	Length int64  `json:"length,omitempty"`
	Epoch  uint32 `json:"epoch,omitempty"`
	Salt   string `json:"block_salt,omitempty"` // both layers: sub-key of layer 1, nonce of layer 2
	N1     string `json:"n1,omitempty"`         // nonce of layer 1, itself sealed by layer 2
	T1     string `json:"t1,omitempty"`         // tag of layer 1, itself sealed by layer 2
	N2     string `json:"n2,omitempty"`         // nonce of layer 2, second half
	T2     string `json:"t2,omitempty"`         // tag of layer 2
	Body   string `json:"body,omitempty"`       // its first bytes
}

// bodySample is how much of a body is shown, in bytes.
const bodySample = 16

func inspectCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show both layers of one encrypted file, without keys",
		UsageText: "plyfs inspect [--json] [--blocks FIRST-LAST|all] CIPHERFILE",
		Description: "For an auditor: headers, suite, and what is kept of each block and of each\n" +
			"group of blocks. It reads the ciphertext alone and verifies nothing: that takes\n" +
			"the keys. FORMAT.md explains each field.",
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "blocks", Value: "0-7", Usage: "which blocks to show: `FIRST-LAST`, one number, or all (default: 0-7)"},
		},
		Action: func(c *cli.Context) error {
			p, err := places(c, "CIPHERFILE")
			if err != nil {
				return err
			}
			want, err := parseRange(c.String("blocks"))
			if err != nil {
				return err
			}
			i, err := inspect(p[0], want)
			if err != nil {
				return inspectError(p[0], err)
			}
			if c.Bool("json") {
				return con.json(i)
			}
			i.print(con)
			return nil
		},
	}
}

// blockRange is a range of block numbers, both ends included.
type blockRange struct{ first, last uint64 }

func (r blockRange) overlaps(first, last uint64) bool { return first <= r.last && last >= r.first }

func parseRange(s string) (blockRange, error) {
	if s == "all" {
		return blockRange{0, ^uint64(0)}, nil
	}
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	first, err1 := strconv.ParseUint(a, 10, 64)
	last, err2 := strconv.ParseUint(b, 10, 64)
	if err1 != nil || err2 != nil || first > last {
		return blockRange{}, usageError("--blocks 0-99, --blocks 5 or --blocks all", "%q is not a range of blocks", s)
	}
	return blockRange{first, last}, nil
}

// inspect reads a backing file.
func inspect(path string, want blockRange) (*inspection, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, cipher.ErrMagic
	}
	i := &inspection{File: path, Length: st.Size(), Groups: []inspectGroup{}, Problems: []string{}}
	layout, err := i.readHeaders(f)
	if err != nil {
		return nil, err
	}
	return i, i.readGroups(f, layout, want)
}

// inspectError tells a file that is none of plyfs's from a damaged one.
func inspectError(path string, err error) error {
	err = fmt.Errorf("%s: %w", path, err)
	switch {
	case errors.Is(err, cipher.ErrMagic):
		return &problem{err: err, code: exitNotVolume, hint: "name a file below a ciphertext directory, not plyfs.json, nor one of the plyfs.* beside the files"}
	case errors.Is(err, cipher.ErrZero), errors.Is(err, io.ErrUnexpectedEOF):
		return &problem{err: fmt.Errorf("%w: the header is missing", err), code: exitTampered}
	}
	return err
}

// readHeaders reads both sectors of the header, FORMAT.md §6.
func (i *inspection) readHeaders(f io.ReaderAt) (cipher.Layout, error) {
	var sectors [2 * cipher.SectorSize]byte
	if _, err := f.ReadAt(sectors[:], 0); err == io.EOF {
		if i.Length >= 4 && string(sectors[:4]) != "PLYF" {
			return cipher.Layout{}, cipher.ErrMagic
		}
		return cipher.Layout{}, io.ErrUnexpectedEOF
	} else if err != nil {
		return cipher.Layout{}, err
	}
	static, changing := sectors[:cipher.SectorSize], sectors[cipher.SectorSize:]
	s, err := cipher.InspectStatic(static)
	if err != nil {
		return cipher.Layout{}, err
	}
	i.Static = inspectStatic{
		Format: int(s.Format), Suite: int(s.Suite), SuiteName: s.Suite.String(), Layers: int(s.Layers),
		BlockSize: int(s.BlockSize), Epoch: s.Epoch, VolumeID: s.VolumeID.String(), FileID: s.FileID.String(),
		Salt: hexOf(s.Salt[:]), MAC: macsAt(static, cipher.SectorSize-32),
	}
	layout, err := cipher.NewLayout(int(s.BlockSize))
	if err != nil {
		return layout, err
	}
	h, err := cipher.InspectHeader(changing)
	if err != nil {
		return layout, err
	}
	if h.Size < 0 || h.Size > layout.MaxSize() {
		return layout, fmt.Errorf("the header says %d bytes: %w", uint64(h.Size), cipher.ErrAuth)
	}
	i.Header = inspectHeader{
		Size: h.Size, Blocks: uint64(h.Size+int64(s.BlockSize)-1) / uint64(s.BlockSize), LSN: h.LSN,
		Epochs: h.Epochs, Last: h.Last, MAC: macsAt(changing, cipher.SectorSize-32),
	}
	if need := layout.PhysicalSize(h.Size); need > i.Length {
		i.problem("the backing file has %d bytes, %d fewer than a file of this size takes", i.Length, need-i.Length)
	}
	return layout, nil
}

// maxDamaged is how many damaged tag blocks are reported before the walk stops.
const maxDamaged = 100

// readGroups walks the tag blocks from the last one down, FORMAT.md §7. Groups
// that were never written are skipped, as the gap before each group says.
func (i *inspection) readGroups(f io.ReaderAt, l cipher.Layout, want blockRange) error {
	g := i.Header.Last
	if most := l.LastGroup(i.Header.Size); g > most {
		i.problem("the header says that group %d is the last one written, and the size allows %d", g, most)
		g = most
	}
	tag := make([]byte, cipher.TagBlockSize)
	for damaged := 0; damaged < maxDamaged; g-- {
		n, err := f.ReadAt(tag, l.TagOffset(g))
		if err != nil && err != io.EOF {
			return err
		}
		clear(tag[n:])
		t, err := cipher.InspectTrailer(tag)
		if err != nil {
			i.problem("group %d: %v", g, err)
			damaged++
		} else if err := i.readGroup(f, l, g, t, tag, want); err != nil {
			return err
		}
		if t.Gap >= g {
			break
		}
		g -= t.Gap
	}
	slices.Reverse(i.Groups)
	i.Summary.Holes = i.Header.Blocks - min(i.Header.Blocks, i.Summary.Present)
	return nil
}

// readGroup adds one group that has a tag block.
func (i *inspection) readGroup(f io.ReaderAt, l cipher.Layout, g uint64, t cipher.Trailer, tag []byte, want blockRange) error {
	present := bits.OnesCount64(t.Present)
	i.Summary.Groups++
	i.Summary.Present += uint64(present)
	first := l.FirstBlock(g)
	end := min(first+uint64(l.Blocks(g)), i.Header.Blocks)
	if end <= first && g > 0 || end > first && !want.overlaps(first, end-1) {
		return nil
	}
	group := inspectGroup{
		Group: g, First: first, Last: first + uint64(l.Blocks(g)) - 1, Offset: l.TagOffset(g), Epoch: t.Epoch, LSN: t.LSN, Present: present,
		Gap: t.Gap, MAC: macsAt(tag, cipher.TagBlockSize-32), Blocks: []inspectBlock{},
	}
	for index := max(first, want.first); index < end && index <= want.last; index++ {
		b, err := i.readBlock(f, l, index, t, tag)
		if err != nil {
			return err
		}
		group.Blocks = append(group.Blocks, b)
	}
	i.Groups = append(i.Groups, group)
	return nil
}

// readBlock reads a block's entry, FORMAT.md §5, and the start of its body.
func (i *inspection) readBlock(f io.ReaderAt, l cipher.Layout, index uint64, t cipher.Trailer, tag []byte) (inspectBlock, error) {
	slot := l.Slot(index)
	if t.Present>>slot&1 == 0 {
		return inspectBlock{Block: index, Hole: true}, nil
	}
	e, err := cipher.InspectEntry(tag[slot*cipher.EntrySize:][:cipher.EntrySize])
	if err != nil {
		return inspectBlock{}, err
	}
	b := inspectBlock{
		Block: index, Offset: l.BlockOffset(index), Length: min(int64(i.Static.BlockSize), i.Header.Size-int64(index)*int64(i.Static.BlockSize)),
		Epoch: e.Epoch, Salt: hexOf(e.Salt[:]), N1: hexOf(e.N1[:]), T1: hexOf(e.T1[:]),
	}
	if i.Static.Layers > 1 {
		b.N2, b.T2 = hexOf(e.N2[:]), hexOf(e.T2[:])
	}
	body := make([]byte, min(bodySample, b.Length))
	n, err := f.ReadAt(body, b.Offset)
	if err != nil && err != io.EOF {
		return b, err
	}
	b.Body = hexOf(body[:n])
	return b, nil
}

func (i *inspection) problem(format string, args ...any) {
	i.Problems = append(i.Problems, fmt.Sprintf(format, args...))
}

func hexOf(b []byte) string { return fmt.Sprintf("%x", b) }

// macsAt returns the MACs of both layers, which lie one after the other.
func macsAt(b []byte, off int) [2]string {
	return [2]string{hexOf(b[off:][:16]), hexOf(b[off+16:][:16])}
}
