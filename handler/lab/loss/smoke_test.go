package loss_test

import (
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	run(t, func(o *options) { o.webhook = true }, func(t *testing.T, s *system) {
		for i := range 20 {
			s.tenant.Publish(general, time.Now().Add(-time.Duration(i)*7*time.Hour), recs(i*10, 10)...)
		}
		p := s.process()
		p.ticks(2)
		for i := range 20 {
			s.tenant.Publish(general, time.Now(), recs(1000+i*10, 10)...)
			s.later(time.Second)
		}
		p.ticks(3)
		r := s.reconciled(nil)
		if r.Stored != 400 {
			t.Errorf("%d documents, want 400", r.Stored)
		}
		sum, states := s.counts()
		t.Log(sum, states, s.account.Charge())
	})
}
