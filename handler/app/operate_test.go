package app

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"activityarchive/handler/collect"
	"activityarchive/handler/settings"
)

// What a terminal gets is no foreign control sequence.
func TestPlain(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"20260310$audit_general$na0001", "20260310$audit_general$na0001"},
		{"größer", "größer"},
		{"\x1b[2Jgone", `"\x1b[2Jgone"`},
		{"two\nlines", `"two\nlines"`},
		{`a "quoted" one`, `"a \"quoted\" one"`},
	} {
		if got := plain(tt.in); got != tt.want {
			t.Errorf("plain(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestPrinter(t *testing.T) {
	finding := collect.Finding{
		What: collect.MissingRecord, ContentType: "Audit.General", Day: "2026-03-10", ContentID: "c\n1", RecordID: "r1",
		Detail: "0 of 2 documents of this id are there", Acknowledged: "ticket 1",
	}
	report := collect.Report{
		ContentType: "Audit.General", Day: "2026-03-10", Listed: 3, New: 1, Contents: 2, Open: 0, Records: 8, Found: 6, Unlisted: "the service\x07 is away",
		Findings: map[string]int{collect.MissingRecord: 2}, Acknowledged: 1,
	}
	tests := []struct {
		json bool
		want string
	}{
		{false, `missing record: Audit.General 2026-03-10 record r1 content "c\n1": 0 of 2 documents of this id are there (acknowledged: ticket 1)
Audit.General 2026-03-10: 3 contents listed now (1 new), 2 in the ledger (0 open); 6 of 8 records found; 0 duplicates, 0 filtered, 0 dead letters; 1 lacking, 1 acknowledged
  not compared with the service: "the service\a is away"
`},
		{true, `{"finding":{"what":"missing record","contentType":"Audit.General","day":"2026-03-10","contentId":"c\n1","recordId":"r1","detail":"0 of 2 documents of this id are there","acknowledged":"ticket 1"}}
{"day":{"contentType":"Audit.General","day":"2026-03-10","listed":3,"unlisted":"the service\u0007 is away","new":1,"contents":2,"open":0,"records":8,"found":6,"counts":{"stored":0,"duplicate":0,"filtered":0,"dead":0},"findings":{"missing record":2},"acknowledged":1}}
`},
	}
	for _, tt := range tests {
		var stdout bytes.Buffer
		out := printer{Options: Options{Stdout: &stdout}, json: tt.json}
		if err := errors.Join(out.finding(finding), out.report(report)); err != nil {
			t.Error(err)
		}
		if got := stdout.String(); got != tt.want {
			t.Errorf("printed\n%s\nwant\n%s", got, tt.want)
		}
	}
}

// Commands begin nothing with settings that are wrong, and end with their
// context.
func TestCommandsNeedSettings(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	wrong := good()
	delete(wrong, "COSMOS_ENDPOINT")
	for name, command := range map[string]func(context.Context, Options) error{
		"completeness": func(ctx context.Context, o Options) error { return Completeness(ctx, o, CompletenessQuery{}) },
		"acknowledge": func(ctx context.Context, o Options) error {
			return Acknowledge(ctx, o, Acknowledgement{Reason: "x", Record: "r1"})
		},
		"redrive":  func(ctx context.Context, o Options) error { return Redrive(ctx, o, Redriving{Lost: true}) },
		"backfill": func(ctx context.Context, o Options) error { return Backfill(ctx, o, Backfilling{From: time.Now()}) },
	} {
		var stdout, stderr bytes.Buffer
		o := Options{Getenv: getenv(wrong), Stdout: &stdout, Stderr: &stderr}
		if _, ok := errors.AsType[settings.Problems](command(t.Context(), o)); !ok {
			t.Errorf("%s without COSMOS_ENDPOINT does not name it", name)
		}
		o.Getenv = getenv(good())
		if err := command(ended, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context = %v", name, err)
		}
	}
}
