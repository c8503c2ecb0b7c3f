package mysql

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
)

// place is where a server's files are, and how it writes them.
type place struct {
	name        string
	block       int // of a volume; 0 is the plain disk
	doublewrite bool
	layers      int
	server      *server
	dir         string
}

// TestCost measures the same load of the same server in several places: the
// disk itself, and volumes by block size. Servers of all places run all the time
// and take turns, a few seconds each, so that a noisy machine is noisy for all.
// Figures are medians over rounds of the ratio to the first place.
func TestCost(t *testing.T) {
	if !env.bench {
		return // a measurement, not a test
	}
	rounds := 9
	if s := os.Getenv("PLYFS_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		check(t, err)
		rounds = n
	}
	for _, p := range env.products {
		t.Run(p.name, func(t *testing.T) { measure(t, p, rounds) })
	}
}

func measure(t *testing.T, p *product, rounds int) {
	places := []*place{
		{name: "disk, doublewrite", doublewrite: true},
		{name: "disk, no doublewrite (not safe)"},
		{name: "plyfs 4096", block: 4096, layers: 2},
		{name: "plyfs 4096, doublewrite", block: 4096, layers: 2, doublewrite: true},
		{name: "plyfs 4096, one layer", block: 4096, layers: 1},
		{name: "plyfs 16384", block: 16384, layers: 2},
		{name: "plyfs 65536", block: 65536, layers: 2},
	}
	for i, pl := range places {
		pl.dir = filepath.Join(env.scratch, fmt.Sprint("plain", p.name, i))
		if pl.block != 0 {
			args := []string{"--block-size", fmt.Sprint(pl.block)}
			if pl.layers == 1 {
				args = append(args, "--single-layer")
			}
			pl.dir = newVolume(t, group{}, args...).mnt + "/mysql"
		}
		dw := "--innodb-doublewrite=0"
		if pl.doublewrite {
			dw = "--innodb-doublewrite=1"
		}
		pl.server = newInstalled(t, p, pl.dir, "--innodb-flush-method=O_DIRECT", "--innodb-buffer-pool-size=16M", dw)
		pl.server.prepareSysbench(t, 4, 20_000)
	}
	loads := []string{"oltp_read_write", "oltp_update_index", "oltp_insert", "oltp_read_only"}
	ratios := map[string][]float64{}
	rates := map[string][]float64{}
	for round := range rounds {
		for _, load := range loads {
			base := 0.0
			got := make([]float64, len(places))
			for i := range places {
				at := (i + round) % len(places)
				got[at] = places[at].run(t, load)
			}
			base = got[0]
			for i, pl := range places {
				key := load + pl.name
				ratios[key] = append(ratios[key], got[i]/base)
				rates[key] = append(rates[key], got[i])
			}
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s %s, 4 threads, %d rounds\t%s\n", p.name, p.version, rounds, strings.Join(loads, "\t"))
	for _, pl := range places {
		fmt.Fprint(w, pl.name)
		for _, load := range loads {
			fmt.Fprintf(w, "\t%.2f (%.0f/s)", median(ratios[load+pl.name]), median(rates[load+pl.name]))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, pl := range places {
		pl.server.stop(t)
	}
}

var perSecond = regexp.MustCompile(`transactions:\s+\d+\s+\(([\d.]+) per sec`)

// run returns transactions per second.
func (pl *place) run(t *testing.T, load string) float64 {
	t.Helper()
	out := command(t, pl.server.sysbench(load, "--tables=4", "--table-size=20000", "--threads=4", "--time=4", "run"))
	m := perSecond.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("sysbench says no rate:\n%s", tail(out, 2000))
	}
	rate, err := strconv.ParseFloat(m[1], 64)
	check(t, err)
	return rate
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
