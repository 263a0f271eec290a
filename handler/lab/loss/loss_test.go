package loss_test

import (
	"fmt"
	"slices"
	"testing"
)

// row is one known way to lose, double or leak something. Its test shows what
// the product does about it, end to end.
type row struct {
	name string // as in D01 or X-kill
	what string // the defect, in one sentence
	set  func(*options)
	test func(t *testing.T, s *system)
}

// TestLoss runs every row in a world of its own. D rows are defects that other
// collectors shipped; X rows go beyond them.
func TestLoss(t *testing.T) {
	rows := slices.Concat(listingRows, cursorRows, fetchRows, subscriptionRows, contentRows, recordRows, outageRows, crashRows, incidentRows, hostileRows, guardRows, knobRows, reviewRows, operatorRows)
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("row %s stands twice", r.name)
		}
		names[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			run(t, r.set, r.test)
		})
	}
	for i := range 38 {
		if name := fmt.Sprintf("D%02d", i+1); !names[name] {
			t.Errorf("there is no row %s", name)
		}
	}
}
