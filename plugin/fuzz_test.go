package plugin

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzRequest has the decoder read whatever may come through the socket.
func FuzzRequest(f *testing.F) {
	for _, call := range allCalls {
		f.Add([]byte(call.body))
	}
	for _, seed := range []string{
		"", "\n", "null", "{", `{"Name":"data"} x`, `{"Name":7}`, `{"name":"a","NAME":"b"}`, `{"Name":"../../evil\u0000"}`,
		`{"Opts":{"a":null}}`, `{"Opts":{"":""}}`, "{\"Name\":\"\xff\"}", strings.Repeat("[", 20_000), `{"Name":"` + strings.Repeat("x", maxBody) + `"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var c call
		err := c.read(httptest.NewRequest("POST", "/VolumeDriver.Create", bytes.NewReader(body)))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		if len(bytes.TrimSpace(body)) == 0 || len(body) > maxBody || !json.Valid(body) {
			t.Fatalf("%d bytes were taken for a request: %.100q", len(body), body)
		}
		encoded, err := json.Marshal(c.request)
		if err != nil {
			t.Fatal(err)
		}
		var again call
		if err := again.read(httptest.NewRequest("POST", "/", bytes.NewReader(encoded))); err != nil && len(encoded) <= maxBody {
			t.Fatalf("%q is read as %+v, which is not: %v", body, c.request, err)
		}
		if len(encoded) <= maxBody && (again.Name != c.Name || again.ID != c.ID || !maps.Equal(again.Opts, c.Opts)) {
			t.Errorf("%+v became %+v", c.request, again.request)
		}
	})
}
