package journal

// Peek returns what live records say of a group, durable or not; nil if
// nothing. It is for reading: home takes what Copy returns. The caller keeps the
// group from changing, and is pinned until it has read the blocks.
func (f *File) Peek(g uint64) *GroupCopy {
	f.mu.RLock()
	defer f.mu.RUnlock()
	gr := f.groups[g]
	if gr == nil {
		return nil
	}
	c := &GroupCopy{Trailer: gr.trailer, LSN: gr.lsn, Blocks: make([]IndexedBlock, len(gr.blocks))}
	for i, b := range gr.blocks {
		c.Blocks[i] = IndexedBlock{b.index, Block{b.lsn, int(b.size), Pos{b.seg, b.entry}, Pos{b.seg, b.body}}}
	}
	return c
}

// Kick has the checkpointer look for work soon.
func (j *Journal) Kick() { j.kick() }
