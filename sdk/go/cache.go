package agentrouter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

const (
	defaultMaxAge   = 30 * time.Second
	defaultMaxStale = 5 * time.Minute
	// retryPause is how long a failed refresh of one value keeps the next one away.
	retryPause = time.Second
	// sweepAt is how many values are kept before ones too old to be served are looked for.
	sweepAt = 256
)

// ErrClosed is what [Secrets.Get] answers after [Secrets.Close].
var ErrClosed = errors.New("agentrouter: the cache of values is closed")

// Secrets keeps values for services that read them often, in memory only.
//
// How old a value may be: Get answers with one that was read from the server at most MaxAge ago (30 seconds by default),
// so a rotated, changed or deleted secret is noticed after that time at the latest. Values in use are refreshed in the
// background from half that age on. While the server cannot be reached, is overloaded or limits the rate, the last good
// value is served until MaxStale after it was read (5 minutes by default); that is how long a revoked key or a deleted
// secret may go unnoticed during an outage. Any other refusal, such as NOT_FOUND, PERMISSION_DENIED or UNAUTHENTICATED,
// removes the value at once, and Get answers with the error.
//
// It is safe for concurrent use; callers who ask for the same value share one call. Its printed form has no value in it.
type Secrets struct {
	fetch    func(context.Context, *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error)
	maxAge   time.Duration
	maxStale time.Duration
	now      func() time.Time
	ctx      context.Context
	cancel   context.CancelFunc

	mu      sync.Mutex
	entries map[secretKey]*entry
}

type secretKey struct{ name, realm, userID string }

// entry is one value and what is under way for it; guarded by the mutex of its cache.
type entry struct {
	value  string
	readAt time.Time // zero: no value yet
	// failedAt is when the last refresh failed without removing the value; zero if it succeeded.
	failedAt time.Time
	// flight is the call under way, if any.
	flight *flight
}

// flight is one call to the server that any number of callers wait for.
type flight struct {
	done chan struct{}
	// value and err are set before done is closed.
	value string
	err   error
}

// SecretsOption is a setting of [Client.Secrets].
type SecretsOption func(*Secrets)

// WithMaxAge sets how old a value may be while the server answers. Default: 30 seconds. Zero or less: the default.
func WithMaxAge(age time.Duration) SecretsOption {
	return func(s *Secrets) {
		if age > 0 {
			s.maxAge = age
		}
	}
}

// WithMaxStale sets how old a value may be while the server cannot be reached; less than MaxAge counts as MaxAge.
// Default: 5 minutes.
func WithMaxStale(age time.Duration) SecretsOption { return func(s *Secrets) { s.maxStale = age } }

// Secrets makes a cache of values. Close it to end what it does in the background.
func (c *Client) Secrets(options ...SecretsOption) *Secrets {
	return newSecrets(c.secret.GetSecretValue, options)
}

func newSecrets(
	fetch func(context.Context, *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error),
	options []SecretsOption,
) *Secrets {
	s := &Secrets{
		fetch: fetch, maxAge: defaultMaxAge, maxStale: defaultMaxStale, now: time.Now, entries: map[secretKey]*entry{},
	}
	for _, option := range options {
		option(s)
	}
	s.maxStale = max(s.maxStale, s.maxAge)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Get answers with the active value of a secret, from memory if that is fresh enough. An empty realm is the key's current
// one, an empty userID the key's own user. It waits for the server only when it has nothing fresh enough and the last
// refresh has not just failed; the context ends the waiting, not the call, which others may wait for as well.
//
// The error is an [*Error], that of the context, or [ErrClosed].
func (s *Secrets) Get(ctx context.Context, name, realm, userID string) (string, error) {
	if s.ctx.Err() != nil {
		return "", ErrClosed
	}
	value, wait := s.look(secretKey{name, realm, userID})
	if wait == nil {
		return value, nil
	}
	select {
	case <-wait.done:
		return wait.value, wait.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Forget drops a value, so that the next Get reads it anew: for when its user has found it to be wrong.
func (s *Secrets) Forget(name, realm, userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A call under way keeps its entry and is heard by those who wait for it, but not kept here.
	delete(s.entries, secretKey{name, realm, userID})
}

// Close ends calls under way and drops all values.
func (s *Secrets) Close() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.entries)
}

// Format prints the settings and the number of values, for every verb.
func (s *Secrets) Format(f fmt.State, _ rune) {
	s.mu.Lock()
	count := len(s.entries)
	s.mu.Unlock()
	_, _ = io.WriteString(f, fmt.Sprintf("agentrouter.Secrets(%d values, MaxAge %v, MaxStale %v)", count, s.maxAge, s.maxStale))
}

// look answers with a value that may be served now, or with the flight to wait for.
func (s *Secrets) look(key secretKey) (string, *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	e := s.entries[key]
	if e == nil {
		s.sweep(now)
		e = &entry{}
		s.entries[key] = e
	}
	age := now.Sub(e.readAt)
	justFailed := now.Sub(e.failedAt) < retryPause
	if e.flight == nil && age >= s.maxAge/2 && !justFailed {
		e.flight = &flight{done: make(chan struct{})}
		go s.refresh(key, e, e.flight)
	}
	switch {
	case e.readAt.IsZero():
		return "", s.flightOf(key, e)
	case age < s.maxAge:
		return e.value, nil
	// A refresh failed not long ago, so the server is taken to be away: nobody waits for the next.
	case age < s.maxStale && now.Sub(e.failedAt) < s.maxAge:
		return e.value, nil
	}
	return "", s.flightOf(key, e)
}

// flightOf is the call under way for an entry, begun if there is none.
func (s *Secrets) flightOf(key secretKey, e *entry) *flight {
	if e.flight == nil {
		e.flight = &flight{done: make(chan struct{})}
		go s.refresh(key, e, e.flight)
	}
	return e.flight
}

// refresh reads the value from the server and tells those who wait.
func (s *Secrets) refresh(key secretKey, e *entry, f *flight) {
	asked := s.now()
	answer, err := s.fetch(s.ctx, &secretv1.GetSecretValueRequest{Name: key.name, Realm: key.realm, UserId: key.userID})
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	e.flight = nil
	now := s.now()
	switch {
	case s.ctx.Err() != nil:
		f.err = ErrClosed
	case err == nil:
		// As old as the question, not as the answer.
		e.value, e.readAt, e.failedAt = answer.GetValue(), asked, time.Time{}
		f.value = e.value
	case isOutage(err) && !e.readAt.IsZero() && now.Sub(e.readAt) < s.maxStale:
		e.failedAt = now
		f.value = e.value
	default:
		f.err = err
		if s.entries[key] == e {
			delete(s.entries, key)
		}
		e.value = ""
	}
}

// sweep drops values that are too old to be served, once there are many.
func (s *Secrets) sweep(now time.Time) {
	if len(s.entries) < sweepAt {
		return
	}
	for key, e := range s.entries {
		if e.flight == nil && now.Sub(e.readAt) >= s.maxStale {
			delete(s.entries, key)
		}
	}
}

// isOutage tells whether the server gave no answer, or none that says anything about the secret or the key. A proxy's 401
// or 403 counts as the server's.
func isOutage(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case CodeNotFound, CodePermissionDenied, CodeUnauthenticated:
		return false
	case CodeUnavailable, CodeDeadlineExceeded, CodeResourceExhausted:
		return true
	}
	return e.Reason == ""
}
