package mysql

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"text/tabwriter"
)

// results is the table that a run ends with.
type results struct {
	mu   sync.Mutex
	rows []row
}

// row says how a server did with a feature.
type row struct {
	server, feature, result string
}

// record adds rows with a test's outcome when the test, with what it cleans
// up, is over. note, which may be nil, adds to a success.
func (r *results) record(t *testing.T, p *product, note *string, features ...string) {
	t.Cleanup(func() {
		result := "ok"
		if t.Failed() {
			result = "FAILED"
		} else if note != nil && *note != "" {
			result += ", " + *note
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, f := range features {
			r.rows = append(r.rows, row{p.name + " " + p.version, f, result})
		}
	})
}

// print writes the table, in the order of servers, and nothing when no row was
// recorded.
func (r *results) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\nserver\tfeature\tresult")
	for _, p := range env.products {
		for _, row := range r.rows {
			if row.server == p.name+" "+p.version {
				fmt.Fprintf(out, "%s\t%s\t%s\n", row.server, row.feature, row.result)
			}
		}
	}
	out.Flush()
}
