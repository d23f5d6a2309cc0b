package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// MaxBody is the most that is read of any answer: a manifest, a configuration, a token.
	MaxBody = 4 << 20

	maxRedirects   = 5
	maxHeaderBytes = 64 << 10
)

// TooLargeError says that a registry sent, or announced, more than MaxBody bytes.
type TooLargeError struct{}

func (*TooLargeError) Error() string { return fmt.Sprintf("more than %d bytes", MaxBody) }

var (
	errPlainHTTP        = errors.New("plain HTTP without the insecure flag")
	errTooManyRedirects = errors.New("too many redirects")
)

// transports returns the transport of secure and that of insecure requests.
func transports(given http.RoundTripper) (secure, insecure http.RoundTripper) {
	if given == nil {
		given = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  20 * time.Second,
			IdleConnTimeout:        90 * time.Second,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    8,
			MaxResponseHeaderBytes: maxHeaderBytes,
			ForceAttemptHTTP2:      true,
		}
	}
	verified, ok := given.(*http.Transport)
	if !ok {
		return given, given
	}
	unverified := verified.Clone()
	if unverified.TLSClientConfig == nil {
		unverified.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	unverified.TLSClientConfig.InsecureSkipVerify = true // Only where the user or the administrator said so.
	return verified, unverified
}

// guard refuses what no registry needs: plain HTTP where it was not asked for, redirects without end
// and endless answers.
type guard struct {
	inner    http.RoundTripper
	insecure bool
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.insecure {
		return nil, errPlainHTTP
	}
	if redirects(req) > maxRedirects {
		return nil, errTooManyRedirects
	}
	resp, err := g.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > MaxBody && req.Method != http.MethodHead {
		_ = resp.Body.Close()
		return nil, &TooLargeError{}
	}
	resp.Body = &cappedBody{ReadCloser: resp.Body, left: MaxBody}
	return resp, nil
}

// redirects counts the answers that led to a request. The library's own check of redirects replaces
// the limit that net/http has.
func redirects(req *http.Request) int {
	n := 0
	for ; req != nil && req.Response != nil; req = req.Response.Request {
		n++
	}
	return n
}

// cappedBody fails where more than left bytes come, where io.LimitReader would pretend the end.
type cappedBody struct {
	io.ReadCloser
	left int64
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		return 0, &TooLargeError{}
	}
	b.left -= int64(n)
	return n, err
}
