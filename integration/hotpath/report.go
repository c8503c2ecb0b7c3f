package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// row is the result of one workload in one target. Times are in microseconds,
// figures of a slice are medians of the rounds.
type row struct {
	Workload string  `json:"workload"`
	Target   string  `json:"target"`
	Threads  int     `json:"threads"`
	Rounds   int     `json:"rounds"`
	PerOp    float64 `json:"us_per_op"`     // wall time over operations of all threads
	Median   float64 `json:"us_median"`     // of one operation in one thread, as are p99
	P99      float64 `json:"us_p99"`        //
	MBps     float64 `json:"mb_per_second"` // 10^6 bytes
	CPU      float64 `json:"cpu_us_per_op"` // of the daemon, all rounds together; not that of the kernel on the caller's side
	Ratio    float64 `json:"ratio"`         // speed to plain's in the same round: 2 is twice as fast
	Low      float64 `json:"ratio_q1"`      // quartiles of the rounds
	High     float64 `json:"ratio_q3"`
	ByMedian float64 `json:"ratio_of_medians,omitempty"` // the same of us_median; none where a slice ends with an fsync
}

// summary makes the row of a target from its slices and those of plain.
func summary(w *workload, t *target, own, plain []slice) row {
	var perOp, ratios []float64
	var times []time.Duration
	var ops int
	var cpu time.Duration
	for i := range own {
		perOp = append(perOp, own[i].perOp())
		ratios = append(ratios, plain[i].perOp()/own[i].perOp())
		times = append(times, own[i].times...)
		ops += own[i].ops
		cpu += own[i].cpu
	}
	slices.Sort(times)
	at := func(q float64) float64 { return micro(float64(times[int(q*float64(len(times)-1))])) }
	byMedian := 0.0
	if !w.whole {
		byMedian = medianTime(plain) / at(0.5)
	}
	per := quantile(perOp, 0.5)
	return row{
		Workload: w.Name, Target: t.name, Threads: w.Threads, Rounds: len(own),
		PerOp: micro(per), Median: at(0.5), P99: at(0.99), MBps: float64(w.Bytes) / per * 1e3,
		CPU:   micro(float64(cpu) / float64(max(ops, 1))),
		Ratio: quantile(ratios, 0.5), Low: quantile(ratios, 0.25), High: quantile(ratios, 0.75), ByMedian: byMedian,
	}
}

// medianTime is the median of all operations, in microseconds.
func medianTime(ss []slice) float64 {
	var times []time.Duration
	for i := range ss {
		times = append(times, ss[i].times...)
	}
	slices.Sort(times)
	return micro(float64(times[(len(times)-1)/2]))
}

func micro(ns float64) float64 { return ns / 1e3 }

// quantile interpolates between the two values nearest.
func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	at := q * float64(len(v)-1)
	lo, hi := v[int(math.Floor(at))], v[int(math.Ceil(at))]
	return lo + (hi-lo)*(at-math.Floor(at))
}

func printJSON(w io.Writer, rows []row) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}

func printText(out io.Writer, rows []row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	last := ""
	speed := func(x float64) string {
		if x == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", x)
	}
	for _, r := range rows {
		if r.Workload != last {
			last = r.Workload
			fmt.Fprintf(w, "\n%s\n", r.Workload)
			fmt.Fprintln(w, "\ttime/op\tmedian\tp99\tMB/s\tdaemon cpu/op\tspeed to plain\tquartiles\tof medians\t")
		}
		fmt.Fprintf(w, "%s\t%.0f µs\t%.0f µs\t%.0f µs\t%.1f\t%.0f µs\t%.2f\t%.2f - %.2f\t%s\t\n",
			r.Target, r.PerOp, r.Median, r.P99, r.MBps, r.CPU, r.Ratio, r.Low, r.High, speed(r.ByMedian))
	}
	return w.Flush()
}
