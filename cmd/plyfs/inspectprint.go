package main

import (
	"fmt"
	"strings"
)

// print lays the inspection out for reading: first the file, then each group
// of blocks with its trailer and its entries.
func (i *inspection) print(con *console) {
	con.print("%s\n", i.File)
	s, h := i.Static, i.Header
	con.print("\nstatic header, sector 0, written once\n")
	rows := [][2]string{
		{"format", fmt.Sprint(s.Format)},
		{"suite", fmt.Sprintf("%d (%s), %s", s.Suite, s.SuiteName, layersText(s.Layers))},
		{"layer 1, inside", "AES-256-GCM, sub-key per block-salt"},
	}
	if s.Layers > 1 {
		rows = append(rows, [2]string{"layer 2, outside", "XChaCha20-Poly1305 over body, N1 and T1 of layer 1"})
	}
	rows = append(rows, [][2]string{
		{"block size", fmt.Sprintf("%d bytes", s.BlockSize)},
		{"volume", s.VolumeID},
		{"file", s.FileID},
		{"file salt", s.Salt},
		{"key epoch", fmt.Sprint(s.Epoch)},
	}...)
	con.table("   ", append(rows, i.macRows(s.MAC)...))

	con.print("\nheader, sector 1, changes with the size\n")
	con.table("   ", append([][2]string{
		{"size", fmt.Sprintf("%d bytes, %d blocks", h.Size, h.Blocks)},
		{"on disk", fmt.Sprintf("%d bytes", i.Length)},
		{"key epochs", strings.Trim(fmt.Sprint(h.Epochs), "[]")},
		{"journal position", fmt.Sprint(h.LSN)},
	}, i.macRows(h.MAC)...))

	for _, g := range i.Groups {
		i.printGroup(con, g)
	}
	con.print("\n%d blocks sealed, %d holes, %d tag blocks; nothing verified: that takes the keys\n",
		i.Summary.Present, i.Summary.Holes, i.Summary.Groups)
	if shown := i.shown(); shown < h.Blocks {
		con.print("%d of %d blocks shown; more with --blocks FIRST-LAST or --blocks all\n", shown, h.Blocks)
	}
	for _, p := range i.Problems {
		con.warn("%s", p)
	}
}

func (i *inspection) shown() (n uint64) {
	for _, g := range i.Groups {
		n += uint64(len(g.Blocks))
	}
	return n
}

// macRows are the MACs that both layers make with keys of their own.
func (i *inspection) macRows(mac [2]string) [][2]string {
	rows := [][2]string{{"MAC of layer 1", mac[0] + "  HMAC-SHA-256"}}
	if i.Static.Layers > 1 {
		rows = append(rows, [2]string{"MAC of layer 2", mac[1] + "  keyed BLAKE2b"})
	}
	return rows
}

func (i *inspection) printGroup(con *console, g inspectGroup) {
	con.print("\ngroup %d, blocks %d to %d, tag block at %d\n", g.Group, g.First, g.Last, g.Offset)
	gap := ""
	if g.Gap > 0 {
		gap = fmt.Sprintf(", the %d groups before it were never written", g.Gap)
	}
	con.table("   ", append([][2]string{
		{"trailer", fmt.Sprintf("%d blocks present%s", g.Present, gap)},
		{"key epoch", fmt.Sprint(g.Epoch)},
		{"journal position", fmt.Sprint(g.LSN)},
	}, i.macRows(g.MAC)...))
	for from := 0; from < len(g.Blocks); {
		to := from
		for to < len(g.Blocks) && g.Blocks[to].Hole {
			to++
		}
		if to > from {
			printHole(con, g.Blocks[from].Block, g.Blocks[to-1].Block)
			from = to
			continue
		}
		i.printBlock(con, g.Blocks[from])
		from++
	}
}

func printHole(con *console, first, last uint64) {
	if first == last {
		con.print("   block %d: hole\n", first)
		return
	}
	con.print("   blocks %d to %d: holes\n", first, last)
}

func (i *inspection) printBlock(con *console, b inspectBlock) {
	con.print("   block %d: %d bytes at %d, key epoch %d\n", b.Block, b.Length, b.Offset, b.Epoch)
	sealed := ""
	if i.Static.Layers > 1 {
		sealed = "  (sealed by layer 2)"
	}
	rows := [][2]string{
		{"body", b.Body + " ..."},
		{"block-salt", b.Salt},
		{"layer 1", "nonce " + b.N1 + "  tag " + b.T1 + sealed},
	}
	if i.Static.Layers > 1 {
		rows = append(rows, [2]string{"layer 2", "nonce " + b.N2 + "  tag " + b.T2})
	}
	con.table("      ", rows)
}
