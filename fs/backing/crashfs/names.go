package crashfs

import (
	"slices"

	"golang.org/x/sys/unix"
)

// nameOp is one atomic operation on directories.
type nameOp struct {
	at   int64
	node *node // that got a name, if one did
	sets []set
}

// set changes what one name stands for.
type set struct {
	dir      *node
	name     string
	old, new *node // nil: no such name
}

// do carries out a name operation, volatile.
func (fs *FS) do(op *nameOp) {
	op.at = fs.clock
	for _, s := range op.sets {
		if s.old != nil {
			s.old.unname(s.dir)
		}
	}
	for _, s := range op.sets {
		if s.new == nil {
			delete(s.dir.names, s.name)
		} else {
			s.dir.names[s.name] = s.new
			s.new.name(s.dir)
		}
		fs.touch(s.dir)
	}
	fs.pending = append(fs.pending, op)
}

func (n *node) unname(from *node) {
	if n.kind == unix.S_IFDIR {
		n.nlink, n.parent = 0, nil
		from.nlink--
		return
	}
	n.nlink--
}

func (n *node) name(in *node) {
	if n.kind != unix.S_IFDIR {
		n.nlink++
		return
	}
	n.nlink, n.parent = 2, in
	for _, c := range n.names {
		if c.kind == unix.S_IFDIR {
			n.nlink++
		}
	}
	in.nlink++
}

// syncNames makes durable the pending operations that want picks, and all
// earlier ones that they build on.
func (fs *FS) syncNames(want func(*nameOp) bool) {
	type key struct {
		dir  *node
		name string
	}
	needed := map[key]bool{}
	var sync, rest []*nameOp
	for _, op := range slices.Backward(fs.pending) {
		take := want(op) || slices.ContainsFunc(op.sets, func(s set) bool { return needed[key{s.dir, s.name}] })
		if !take {
			rest = append(rest, op)
			continue
		}
		sync = append(sync, op)
		for _, s := range op.sets {
			needed[key{s.dir, s.name}] = true
		}
	}
	for _, op := range slices.Backward(sync) {
		for _, s := range op.sets {
			if s.new == nil {
				delete(s.dir.durable, s.name)
			} else {
				s.dir.durable[s.name] = s.new
			}
		}
	}
	slices.Reverse(rest)
	fs.pending = rest
}
