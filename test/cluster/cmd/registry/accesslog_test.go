package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestLogRequests(t *testing.T) {
	cases := map[string]struct {
		reason  string
		handler http.HandlerFunc
		status  int
	}{
		"status": {"the status is the handler's", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, 401},
		"body":   {"a body without a status is 200", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) }, 200},
		"empty":  {"no answer at all is 200", func(http.ResponseWriter, *http.Request) {}, 200},
		"twice": {"only the first status is sent", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte("x"))
		}, 404},
		"informational": {"1xx is not the answer", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusCreated)
		}, 201},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			request := httptest.NewRequest(http.MethodHead, "/v2/quay.io/a/b/manifests/1.0?n=1", nil)
			request.SetBasicAuth("istag", "secret")
			logRequests(tc.handler, &log).ServeHTTP(httptest.NewRecorder(), request)
			var entry accessEntry
			if err := json.Unmarshal(log.Bytes(), &entry); err != nil {
				t.Fatalf("one request must make one line of JSON, not %q: %v", log.String(), err)
			}
			if entry.Status != tc.status {
				t.Errorf("%s: status is %d, want %d", tc.reason, entry.Status, tc.status)
			}
			if entry.Method != http.MethodHead || entry.Path != "/v2/quay.io/a/b/manifests/1.0" || entry.Query != "n=1" || entry.User != "istag" {
				t.Errorf("the request must be told apart: %+v", entry)
			}
			if bytes.Contains(log.Bytes(), []byte("secret")) {
				t.Error("the password is in the log")
			}
		})
	}
}

func TestLineIsThereBeforeTheAnswer(t *testing.T) {
	var log bytes.Buffer
	server := httptest.NewServer(logRequests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // the handler never returns while the client is there
	}), &log))
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if log.Len() == 0 {
		t.Error("whoever has the answer must find its line")
	}
	_ = response.Body.Close()
}
