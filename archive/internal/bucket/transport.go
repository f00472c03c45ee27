package bucket

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// Tune sets what every client library's transport has to have.
func Tune(t *http.Transport) {
	// Objects come as they are, with the length that was announced.
	t.DisableCompression = true
	t.MaxIdleConnsPerHost = 16
	// A server that takes a request and never answers it is not waited for
	// longer than that; the next attempt may find another server.
	t.ResponseHeaderTimeout = time.Minute
}

// Dated is the transport that a client library sends its requests through, so
// that the vault learns what time the server says it is.
type Dated struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (d Dated) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if note, ok := req.Context().Value(dateKey{}).(*date); ok {
		if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			note.unix.Store(at.Unix())
		}
	}
	return resp, nil
}

type dateKey struct{}

// A date is the Date of the newest answer. It is safe for concurrent use.
type date struct{ unix atomic.Int64 }

// withDate returns a context whose requests note their Date.
func withDate(ctx context.Context) (context.Context, *date) {
	d := new(date)
	return context.WithValue(ctx, dateKey{}, d), d
}

// get returns the zero time if no answer had a Date.
func (d *date) get() time.Time {
	if s := d.unix.Load(); s != 0 {
		return time.Unix(s, 0).UTC()
	}
	return time.Time{}
}
