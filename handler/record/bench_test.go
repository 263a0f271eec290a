package record_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"activityarchive/handler/record"
)

// synthetic returns a record of the size and shape of Dataverse activity.
func synthetic(n int) string {
	verb := [...]string{"Create", "Update", "Delete", "RetrieveMultiple"}[n%4]
	return fmt.Sprintf(`{"CreationTime":"2026-04-%02dT%02d:17:%02d","Id":"5a000000-0000-4000-8000-%012x","Operation":"CrmDefaultActivity",`+
		`"OrganizationId":"7b000000-0000-4000-8000-000000000001","RecordType":21,"ResultStatus":"Success","UserKey":"1003200%09d","UserType":0,"Version":1,`+
		`"Workload":"CRM","ClientIP":"198.51.100.%d:50%03d","ObjectId":"%s 9c000000-0000-4000-8000-%012x","UserId":"user%03d@harbor.example",`+
		`"CrmOrganizationUniqueName":"unq17harbor","Fields":[{"Name":"fullname","Value":"Person %d"},{"Name":"emailaddress1","Value":"person%d@quay.example"},`+
		`{"Name":"description","Value":"said \"yes\" on the phone\r\nand <again> & again"},{"Name":"revenue","Value":"%d.50"}],`+
		`"InstanceUrl":"https://harbor.crm.example/","ItemType":"Dynamics365","ItemUrl":"https://harbor.crm.example/main.aspx?etn=contact&pagetype=entityrecord",`+
		`"UserAgent":"Mozilla/5.0 (Windows NT 10.0; Win64; x64) Synthetic/1.0","CorrelationId":"3d000000-0000-4000-8000-%012x",`+
		`"EntityId":"9c000000-0000-4000-8000-%012x","EntityName":"contact","Message":"%s","PrimaryFieldValue":"Person %d","Query":"","QueryResults":"",`+
		`"ServiceContextId":"00000000-0000-0000-0000-000000000000","ServiceContextIdType":"","ServiceName":"D365",`+
		`"SystemUserId":"8e000000-0000-4000-8000-%012x","UserUpn":"user%03d@harbor.example"}`,
		n%28+1, n%24, n%60, n, n, n%256, n%1000, verb, n, n%300, n, n, n, n, n, verb, n, n%300, n%300)
}

func BenchmarkScanner(b *testing.B) {
	var body bytes.Buffer
	for i := range 10_000 {
		fmt.Fprintf(&body, "%c%s", "[,"[min(i, 1)], synthetic(i))
	}
	body.WriteByte(']')
	b.SetBytes(int64(body.Len()))
	b.ReportAllocs()
	for b.Loop() {
		s := record.NewScanner(bytes.NewReader(body.Bytes()))
		n := 0
		_, err := s.Next()
		for ; err == nil; _, err = s.Next() {
			n++
		}
		if err != io.EOF || n != 10_000 {
			b.Fatalf("%d elements, then %v", n, err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	var parser record.Parser
	raw := []byte(synthetic(17))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parser.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendDocument(b *testing.B) {
	raw := []byte(synthetic(17))
	r, err := record.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	var buf []byte
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		buf = r.AppendDocument(buf[:0], meta)
	}
}
