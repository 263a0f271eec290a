package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Verdicts of a row.
const (
	yes    = "yes"
	no     = "no"
	stated = "stated" // the row has no target
)

// figure is a median with its bounds over N repetitions.
type figure struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// median sums up values, of which there is at least one.
func median(values []float64) figure {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return figure{}
	}
	return figure{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1], N: n}
}

func (f figure) String() string {
	if f.N == 1 {
		return number(f.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", number(f.Median), number(f.Min), number(f.Max))
}

// number writes three digits, or all of a whole part that is longer.
func number(v float64) string {
	if v >= 100 || v <= -100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// row is one line of the table.
type row struct {
	Case     string  `json:"case"`
	Measure  string  `json:"measure"`
	Value    figure  `json:"value"`
	Baseline *figure `json:"baseline"` // null: there is none
	Ratio    float64 `json:"ratio"`    // of the medians; 0: there is no baseline
	Target   string  `json:"target"`
	Met      string  `json:"met"`
}

// against returns a row for values beside those of a baseline, with their ratio.
func against(name, measure string, values, baseline []float64) row {
	r := row{Case: name, Measure: measure, Value: median(values)}
	base := median(baseline)
	r.Baseline = &base
	if base.Median != 0 {
		r.Ratio = r.Value.Median / base.Median
	}
	return r
}

// alone returns a row for values that have neither baseline nor target.
func alone(name, measure string, values ...float64) row {
	return row{Case: name, Measure: measure, Value: median(values)}.stated()
}

// stated returns the row without a target.
func (r row) stated() row {
	r.Target, r.Met = "none", stated
	return r
}

func verdict(ok bool) string {
	if ok {
		return yes
	}
	return no
}

// atLeast and the like set the target and judge the medians.
func (r row) atLeast(v float64) row {
	r.Target, r.Met = "at least "+number(v), verdict(r.Value.Median >= v)
	return r
}

func (r row) atMost(v float64) row {
	r.Target, r.Met = "at most "+number(v), verdict(r.Value.Median <= v)
	return r
}

func (r row) ratioAtLeast(v float64) row {
	r.Target, r.Met = "ratio at least "+number(v), verdict(r.Ratio >= v)
	return r
}

func (r row) ratioAtMost(v float64) row {
	r.Target, r.Met = "ratio at most "+number(v), verdict(r.Ratio > 0 && r.Ratio <= v)
	return r
}

// printTable writes rows as a table in Markdown that is aligned for the eye.
func printTable(w io.Writer, rows []row) {
	lines := [][]string{{"case", "measure", "value", "baseline", "ratio", "target", "met"}}
	for _, r := range rows {
		baseline, ratio := "", ""
		if r.Baseline != nil {
			baseline, ratio = r.Baseline.String(), number(r.Ratio)
		}
		lines = append(lines, []string{r.Case, r.Measure + ", n=" + strconv.Itoa(r.Value.N), r.Value.String(), baseline, ratio, r.Target, r.Met})
	}
	tabs := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for i, cells := range lines {
		fmt.Fprintf(tabs, "| %s\t|\n", strings.Join(cells, "\t| "))
		if i == 0 {
			fmt.Fprintf(tabs, "|%s|\n", strings.Repeat("---\t|", len(cells)-1)+"---\t")
		}
	}
	_ = tabs.Flush() // a table that cannot be written is seen to be missing
}
