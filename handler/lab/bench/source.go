package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"activityarchive/handler/lab/tenant"
)

const (
	contentType = "Audit.General"
	users       = 20
	// templates is how many records are made; contents repeat them under other
	// ids. It is a multiple of users, so that each user has as many.
	templates = 100
	// piece is how many records are handed on at a time.
	piece = 32
)

// template is a record whose Id is filled in for each content.
type template struct {
	text []byte
	id   int // where the Id stands
}

// source makes contents of Dataverse activity: 20 users, one hour.
type source struct {
	hour    string // of every record, as in 2026-03-11T09
	records []template
	serial  uint32 // of contents, part of every Id
}

func newSource(now time.Time) *source {
	s := &source{hour: now.UTC().Add(-time.Hour).Format("2006-01-02T15")}
	for i := range templates {
		text := []byte(s.text(i))
		s.records = append(s.records, template{text, strings.Index(string(text), `"Id":"`) + len(`"Id":"`)})
	}
	return s
}

func userOf(i int) string { return fmt.Sprintf("user%03d@harbor.example", i%users) }

// text is record i: about 1,300 bytes, as Dataverse's are.
func (s *source) text(i int) string {
	verb := [...]string{"Create", "Update", "Delete", "RetrieveMultiple"}[i/users%4]
	return fmt.Sprintf(`{"CreationTime":"%s:%02d:%02d","Id":"00000000-0000-4000-8000-0000%08x","Operation":"CrmDefaultActivity",`+
		`"OrganizationId":"7a10c0de-0001-4000-8000-00000000a001","RecordType":21,"ResultStatus":"Success","UserKey":"1003%012x",`+
		`"UserType":0,"Version":1,"Workload":"CRM","ClientIP":"203.0.113.%d:49%03d","ObjectId":"berth 7a10c0de-0006-4000-8000-%012x",`+
		`"UserId":"%s","CrmOrganizationUniqueName":"harborcrm","Fields":[{"Name":"name","Value":"Berth %d"},`+
		`{"Name":"remark","Value":"Pilot says \"wait\" & <hold>\r\nuntil the tide"},{"Name":"fee","Value":"%d.50"},{"Name":"statecode","Value":"1"}],`+
		`"InstanceUrl":"https://harbor-crm.example/","ItemType":"Dynamics365",`+
		`"ItemUrl":"https://harbor-crm.example/main.aspx?etn=berth&pagetype=entityrecord&id=7a10c0de-0006-4000-8000-%012x",`+
		`"UserAgent":"Mozilla/5.0 (X11; Linux x86_64) Synthetic/1.0","CorrelationId":"7a10c0de-0007-4000-8000-%012x",`+
		`"EntityId":"7a10c0de-0006-4000-8000-%012x","EntityName":"berth","Message":"%s","PrimaryFieldValue":"Berth %d","Query":"",`+
		`"QueryResults":"","ServiceContextId":"00000000-0000-0000-0000-000000000000","ServiceContextIdType":"","ServiceName":"CRM",`+
		`"SystemUserId":"7a10c0de-0008-4000-8000-%012x","UserUpn":"%s"}`,
		s.hour, i%60, i*7%60, i, i%users, 1+i%250, i, i, userOf(i), i, 100+i, i, i, i, verb, i, i%users, userOf(i))
}

// append appends record i of the content with that serial number.
func (s *source) append(dst []byte, serial uint32, i int) []byte {
	t := s.records[i%len(s.records)]
	at := len(dst) + t.id
	dst = append(dst, t.text...)
	var number [4]byte
	binary.BigEndian.PutUint32(number[:], serial)
	hex.Encode(dst[at:], number[:]) // the GUID's first eight digits
	binary.BigEndian.PutUint32(number[:], uint32(i))
	hex.Encode(dst[at+28:], number[:]) // and its last eight
	return dst
}

// content makes a content of n records. Its records come in pieces, which are
// valid only until the next: the tenant copies them as it serves them.
func (s *source) content(created time.Time, n int) tenant.Content {
	s.serial++
	serial := s.serial
	var records iter.Seq[json.RawMessage] = func(yield func(json.RawMessage) bool) {
		var buffer []byte
		for i := 0; i < n; {
			buffer = buffer[:0]
			for range min(piece, n-i) {
				if len(buffer) > 0 {
					buffer = append(buffer, ',')
				}
				buffer = s.append(buffer, serial, i)
				i++
			}
			if !yield(buffer) {
				return
			}
		}
	}
	return tenant.Content{Type: contentType, Created: created, Records: records}
}

// publish adds n contents of so many records, created evenly over span up to a
// moment ago: a client's idea of the tenant's time may be a little behind.
func (s *source) publish(t *tenant.Tenant, n, records int, span time.Duration) []tenant.Content {
	latest := t.Now().Add(-10 * time.Second)
	list := make([]tenant.Content, n)
	for i := range list {
		created := latest.Add(-span * time.Duration(n-1-i) / time.Duration(n))
		list[i] = t.Add(s.content(created, records))
	}
	return list
}

// hide adds contents that no listing shows, for the baselines: whoever has their
// contentUri can fetch them.
func (s *source) hide(t *tenant.Tenant, n, records int) []tenant.Content {
	list := make([]tenant.Content, n)
	for i := range list {
		c := s.content(t.Now(), records)
		c.Listed = t.Now().Add(-30 * 24 * time.Hour)
		list[i] = t.Add(c)
	}
	return list
}

// document is a record as an archive may store it, for the baselines.
func (s *source) document(serial uint32, i int) (user string, body []byte) {
	raw := s.append(nil, serial, i)
	id := raw[s.records[i%len(s.records)].id:][:36]
	body = append(body, `{"id":"`...)
	body = append(body, id...)
	body = append(body, `","archive":{"v":1,"content":"`...)
	body = append(body, strings.Repeat("0", 64)...)
	body = append(body, `","type":"`+contentType+`","day":"`+s.hour[:10]+`","hour":"`+s.hour+`","user":`+strconv.Quote(userOf(i))+`,"sha256":"`...)
	body = append(body, strings.Repeat("0", 64)...)
	body = append(body, `"},`...)
	return userOf(i), append(body, raw[1:]...)
}
