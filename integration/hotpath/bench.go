package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// bench is all workloads, opened in all targets.
type bench struct {
	rig     *rig
	works   []workload
	runners [][][]*runner // by workload, target, thread
}

// newBench prepares the workloads, has the targets do all that they put off, by
// a remount, and opens them.
func newBench(r *rig, o options) (*bench, error) {
	b := &bench{rig: r}
	for _, w := range workloads() {
		if o.only == nil || o.only.MatchString(w.Name) {
			b.works = append(b.works, w)
		}
	}
	if len(b.works) == 0 {
		return nil, errors.New("no workload of that name")
	}
	for _, t := range r.targets {
		for i := range b.works {
			if w := &b.works[i]; w.prepare != nil {
				if err := w.prepare(t); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", t.name, w.Name, err)
				}
			}
		}
		if err := t.remount(); err != nil {
			return nil, err
		}
	}
	for i := range b.works {
		w := &b.works[i]
		byTarget := make([][]*runner, len(r.targets))
		b.runners = append(b.runners, byTarget)
		for j, t := range r.targets {
			for thread := range w.Threads {
				x, err := w.open(t, thread)
				if err != nil {
					return nil, errors.Join(fmt.Errorf("%s: %s: %w", t.name, w.Name, err), b.close())
				}
				byTarget[j] = append(byTarget[j], x)
			}
		}
	}
	return b, nil
}

func (b *bench) close() (err error) {
	for _, byTarget := range b.runners {
		for _, runners := range byTarget {
			for _, x := range runners {
				if x.close != nil {
					err = errors.Join(err, x.close())
				}
			}
		}
	}
	return err
}

// wholeEach is how often whole slices have their turn, in rounds.
const wholeEach = 7

// run runs all rounds, and one before them that does not count.
func (b *bench) run(o options) ([]row, error) {
	n := len(b.rig.targets)
	results := make([][][]slice, len(b.works)) // by workload, target, round
	for i := range results {
		results[i] = make([][]slice, n)
	}
	for round := -1; round < o.rounds; round++ {
		for i := range b.works {
			if b.works[i].whole && round%wholeEach != 0 {
				continue
			}
			// In any order, so that no target always follows the same one.
			for _, j := range rand.Perm(n) {
				t := b.rig.targets[j]
				s, err := run(&b.works[i], t, b.runners[i][j], o.slice)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", t.name, b.works[i].Name, err)
				}
				if round >= 0 {
					results[i][j] = append(results[i][j], s)
				}
				if b.works[i].whole {
					t.settle()
				}
			}
		}
	}
	var rows []row
	for i := range b.works {
		for j, t := range b.rig.targets {
			rows = append(rows, summary(&b.works[i], t, results[i][j], results[i][0]))
		}
	}
	return rows, nil
}
