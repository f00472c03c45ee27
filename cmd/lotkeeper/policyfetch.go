package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lotkeeper/lotkeeper/lifecycle/policy"
)

// How a policy is fetched: so long for one try, and so many tries, each after twice the
// pause of the one before.
const (
	fetchTimeout = 30 * time.Second
	fetchTries   = 4
	fetchPause   = time.Second
)

// fetchPolicy fetches a policy over TLS and checks all of it.
func (a *app) fetchPolicy(ctx context.Context, address, token string) (*policy.Policy, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "":
		return nil, usagef("%s is not an address", withoutQuery(address))
	case u.Scheme != "https":
		return nil, usagef("a policy is fetched over https, not %s", u.Scheme)
	case u.User != nil:
		return nil, usagef("the address has credentials in it; use --token-file")
	}
	client := &http.Client{Transport: a.transport, Timeout: fetchTimeout, CheckRedirect: onlyTLS}
	for try, pause := 1, fetchPause; ; try, pause = try+1, 2*pause {
		b, again, err := fetch(ctx, client, address, token)
		if err == nil {
			return parsePolicy(withoutQuery(address), b)
		}
		if !again || try == fetchTries || !a.wait(ctx, pause) {
			return nil, fmt.Errorf("couldn't fetch the policy from %s: %w", withoutQuery(address), err)
		}
		a.log.Warn().Err(err).Int("try", try).Msg("the policy could not be fetched; once more")
	}
}

// onlyTLS follows no redirect out of TLS.
func onlyTLS(to *http.Request, via []*http.Request) error {
	if to.URL.Scheme != "https" {
		return errors.New("it redirects to plain " + to.URL.Scheme)
	}
	if len(via) >= 5 {
		return errors.New("it redirects more than five times")
	}
	return nil
}

// fetch tries once. Again says whether another try can help.
func fetch(ctx context.Context, client *http.Client, address, token string) (b []byte, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, false, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		// The library's text has the address with its query.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		var untrusted *tls.CertificateVerificationError
		return nil, res == nil && !errors.As(err, &untrusted), err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests, fmt.Errorf("it answers %s", res.Status)
	}
	if b, err = io.ReadAll(io.LimitReader(res.Body, policy.MaxSize+1)); err != nil {
		return nil, true, err
	}
	if len(b) > policy.MaxSize {
		return nil, false, fmt.Errorf("it is longer than %d bytes", policy.MaxSize)
	}
	return b, false, nil
}

// withoutQuery is an address as logs may have it: what follows its ? may be a secret.
func withoutQuery(address string) string {
	before, _, _ := strings.Cut(address, "?")
	if at := strings.LastIndex(before, "@"); at >= 0 {
		before = "https://" + before[at+1:]
	}
	return before
}
