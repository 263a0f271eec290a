package collect

import (
	"testing"

	"activityarchive/handler/ledger"
)

// An entry that is done is not tried, whatever page of a query brought it.
func TestSkipsWhatIsDone(t *testing.T) {
	v := verdict{left: map[string]bool{}, inRow: map[string]int{}, refused: map[string]error{}}
	for _, tt := range []struct {
		entry ledger.Entry
		want  bool
	}{
		{ledger.Entry{ID: "open", ContentType: "Audit.General", State: ledger.Pending, Open: 1}, false},
		{ledger.Entry{ID: "stored", ContentType: "Audit.General", State: ledger.Stored}, true},
		{ledger.Entry{ID: "lost", ContentType: "Audit.General", State: ledger.Lost}, true},
	} {
		if got := v.skips(&tt.entry); got != tt.want {
			t.Errorf("%s: skipped is %v, want %v", tt.entry.ID, got, tt.want)
		}
	}
}
