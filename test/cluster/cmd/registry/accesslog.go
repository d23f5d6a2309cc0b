package main

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// accessEntry is one line of the access log.
type accessEntry struct {
	Time       time.Time `json:"time"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Query      string    `json:"query,omitempty"`
	Status     int       `json:"status"`
	User       string    `json:"user,omitempty"`
	UserAgent  string    `json:"userAgent"`
	RemoteAddr string    `json:"remoteAddr"`
}

// logRequests writes one line of JSON to log for every request that handler
// answers. The line is written before the first byte of the answer, so that a
// client that has its answer finds the line: a test can count without waiting.
func logRequests(handler http.Handler, log io.Writer) http.Handler {
	var mu sync.Mutex
	lines := json.NewEncoder(log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		entry := accessEntry{
			Time:       time.Now().UTC(),
			Method:     r.Method,
			Path:       r.URL.Path,
			Query:      r.URL.RawQuery,
			User:       user,
			UserAgent:  r.UserAgent(),
			RemoteAddr: r.RemoteAddr,
		}
		logged := &loggedResponse{ResponseWriter: w, log: func(status int) {
			entry.Status = status
			mu.Lock()
			defer mu.Unlock()
			// A full disk must not fail the pull; the count will be seen wrong.
			_ = lines.Encode(entry)
		}}
		handler.ServeHTTP(logged, r)
		logged.begin(http.StatusOK)
	})
}

// loggedResponse calls log once, when the final status is known.
type loggedResponse struct {
	http.ResponseWriter
	log   func(status int)
	begun bool
}

func (l *loggedResponse) begin(status int) {
	if !l.begun {
		l.begun = true
		l.log(status)
	}
}

// WriteHeader implements [http.ResponseWriter].
func (l *loggedResponse) WriteHeader(status int) {
	// 1xx answers are followed by the one that counts.
	if status >= http.StatusOK {
		l.begin(status)
	}
	l.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (l *loggedResponse) Write(data []byte) (int, error) {
	l.begin(http.StatusOK)
	return l.ResponseWriter.Write(data)
}

// Flush implements [http.Flusher], which uploads of blobs use.
func (l *loggedResponse) Flush() {
	l.begin(http.StatusOK)
	_ = http.NewResponseController(l.ResponseWriter).Flush()
}

// Unwrap lets [http.ResponseController] find what the server offers.
func (l *loggedResponse) Unwrap() http.ResponseWriter { return l.ResponseWriter }
