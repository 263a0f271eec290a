package reconcile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// decode reads a JSON value and keeps numbers as they are written.
func decode(raw []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// equalExact reports whether two texts hold the same JSON value, numbers by
// exact decimal: 1.50 is 1.5, and 9007199254740993 is not 9007199254740992.
func equalExact(a, b []byte) bool { return equalBy(a, b, sameDecimal) }

// equalRounded is equalExact with numbers as float64 holds them; one beyond its
// range is null.
func equalRounded(got, want []byte) bool { return equalBy(got, want, sameFloat) }

func equalBy(a, b []byte, number func(a, b any) bool) bool {
	x, errX := decode(a)
	y, errY := decode(b)
	return errX == nil && errY == nil && equalValues(x, y, number)
}

func equalValues(a, b any, number func(a, b any) bool) bool {
	switch b := b.(type) {
	case json.Number:
		return number(a, b)
	case []any:
		x, ok := a.([]any)
		if !ok || len(x) != len(b) {
			return false
		}
		for i := range b {
			if !equalValues(x[i], b[i], number) {
				return false
			}
		}
		return true
	case map[string]any:
		x, ok := a.(map[string]any)
		if !ok || len(x) != len(b) {
			return false
		}
		for name := range b {
			v, ok := x[name]
			if !ok || !equalValues(v, b[name], number) {
				return false
			}
		}
		return true
	default:
		return a == b // string, bool, nil
	}
}

func sameDecimal(a, b any) bool {
	x, okX := a.(json.Number)
	y, okY := b.(json.Number)
	return okX && okY && decimal(string(x)) == decimal(string(y))
}

func sameFloat(a, b any) bool {
	y, ok := b.(json.Number)
	if !ok {
		return false
	}
	f, err := strconv.ParseFloat(string(y), 64)
	if err != nil {
		return a == nil
	}
	x, ok := a.(json.Number)
	if !ok {
		return false
	}
	g, err := strconv.ParseFloat(string(x), 64)
	return err == nil && f == g
}

// decimal writes a JSON number in one form for each value: sign, digits without
// zeros at either end, and the exponent of the last digit. The exponent is a
// big number because a record may hold any.
func decimal(s string) string {
	sign := ""
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		sign, s = "-", rest
	}
	mantissa, power, _ := strings.Cut(strings.ToLower(s), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent := new(big.Int)
	if power != "" {
		exponent.SetString(strings.TrimPrefix(power, "+"), 10)
	}
	exponent.Sub(exponent, big.NewInt(int64(len(fraction))))
	digits := strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return "0" // -0 is 0
	}
	exponent.Add(exponent, big.NewInt(int64(len(digits)-len(trimmed))))
	return fmt.Sprintf("%s%se%s", sign, trimmed, exponent)
}

// beyondDocument names something in a record that Cosmos DB cannot give back
// and that comparing decoded values would not show: a name that occurs twice in
// one object, or half of a surrogate pair. It is empty if there is none.
func beyondDocument(raw []byte) string {
	if loneSurrogate(raw) {
		return "half of a surrogate pair"
	}
	if d := json.NewDecoder(bytes.NewReader(raw)); doubledName(d) {
		return "a name twice in one object"
	}
	return ""
}

// doubledName reads one value from d and reports whether an object in it has a
// name twice.
func doubledName(d *json.Decoder) bool {
	token, err := d.Token()
	if err != nil {
		return false
	}
	switch token {
	case json.Delim('['):
		for d.More() {
			if doubledName(d) {
				return true
			}
		}
		_, _ = d.Token() // the closing bracket
	case json.Delim('{'):
		seen := map[any]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil || seen[name] {
				return err == nil
			}
			seen[name] = true
			if doubledName(d) {
				return true
			}
		}
		_, _ = d.Token() // the closing brace
	}
	return false
}

// loneSurrogate reports whether an escape in raw is half of a surrogate pair.
func loneSurrogate(raw []byte) bool {
	high := -1 // where the low half must follow
	for i := 0; i < len(raw); i++ {
		if high >= 0 && i == high && (raw[i] != '\\' || i+1 >= len(raw) || raw[i+1] != 'u') {
			return true
		}
		if raw[i] != '\\' {
			continue
		}
		i++ // the escaped byte
		if i >= len(raw) || raw[i] != 'u' || i+4 >= len(raw) {
			continue
		}
		code, err := strconv.ParseUint(string(raw[i+1:i+5]), 16, 32)
		if err != nil {
			continue
		}
		isLow, expected := code >= 0xdc00 && code <= 0xdfff, high == i-1
		if isLow != expected {
			return true
		}
		high = -1
		if code >= 0xd800 && code <= 0xdbff {
			high = i + 5
		}
		i += 4
	}
	return false
}
