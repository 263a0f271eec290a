package emulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/pikami/cosmium/parsers"
	"github.com/pikami/cosmium/parsers/nosql"
	memoryexecutor "github.com/pikami/cosmium/query_executors/memory_executor"
)

// query answers a query of the container whose feed is at path. The caller has
// the container's lock. An error means a query that Cosmium cannot read.
//
// Cosmium looks at every document for every query. One that names the ids of
// what it wants, as a client does after a 409, is answered from those documents
// alone, by Cosmium's own executor: the id is indexed in Cosmos DB too.
func (g *gate) query(r *http.Request, path string, body []byte) (*answer, error) {
	var q struct {
		Query      string
		Parameters []Param
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, fmt.Errorf("read query: %w", err)
	}
	parsed, err := nosql.Parse("", []byte(q.Query))
	if err != nil {
		return nil, fmt.Errorf("parse query %q: %w", q.Query, err)
	}
	statement, ok := parsed.(parsers.SelectStmt)
	if !ok {
		return nil, fmt.Errorf("parse query %q: it is no SELECT", q.Query)
	}
	statement.Parameters = map[string]any{}
	for _, p := range q.Parameters {
		statement.Parameters[p.Name] = p.Value
	}
	ids, ok := namedIDs(statement)
	if !ok {
		return g.ask(r, body), nil
	}

	var docs []memoryexecutor.RowType
	for _, id := range ids {
		get := r.Clone(r.Context())
		get.Method, get.URL = http.MethodGet, &url.URL{Path: path + "/" + id}
		a := g.ask(get, nil)
		var doc map[string]any
		if a.status == http.StatusOK && json.Unmarshal(a.body.Bytes(), &doc) == nil {
			docs = append(docs, doc)
		}
	}
	rows := memoryexecutor.ExecuteQuery(statement, docs)
	a := &answer{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}}
	if err := json.NewEncoder(&a.body).Encode(map[string]any{"_rid": "", "Documents": rows, "_count": len(rows)}); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return a, nil
}

// namedIDs returns the ids, without repetition, that a condition of the form
// c.id IN (@a, …) restricts a query to, and whether there is such a condition.
func namedIDs(s parsers.SelectStmt) (ids []string, ok bool) {
	conditions := []any{s.Filters}
	if and, isLogical := s.Filters.(parsers.LogicalExpression); isLogical {
		if and.Operation != parsers.LogicalExpressionTypeAnd {
			return nil, false
		}
		conditions = and.Expressions
	}
	for _, c := range conditions {
		item, _ := c.(parsers.SelectItem)
		call, isCall := item.Value.(parsers.FunctionCall)
		if !isCall || item.Invert || call.Type != parsers.FunctionCallIn || !isID(call.Arguments[0]) || len(s.JoinItems) > 0 {
			continue
		}
		for _, argument := range call.Arguments[1:] {
			value, _ := argument.(parsers.SelectItem)
			constant, _ := value.Value.(parsers.Constant)
			name, _ := constant.Value.(string)
			id, isString := s.Parameters[name].(string)
			if constant.Type != parsers.ConstantTypeParameterConstant || !isString {
				return nil, false
			}
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return slices.Compact(ids), true
	}
	return nil, false
}

// isID reports whether an operand is the id of the container's document.
func isID(operand any) bool {
	item, ok := operand.(parsers.SelectItem)
	return ok && item.Type == parsers.SelectItemTypeField && slices.Equal(item.Path, []string{"c", "id"})
}
