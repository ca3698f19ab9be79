package agentrouter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// The defaults of [Client.Cache].
const (
	// DefaultMaxAge is the default of [WithMaxAge].
	DefaultMaxAge = 30 * time.Second
	// DefaultMaxStale is the default of [WithMaxStale].
	DefaultMaxStale = 5 * time.Minute
	// DefaultMaxEntries is the default of [WithMaxEntries].
	DefaultMaxEntries = 10_000
)

// refreshDelay is the shortest time between a failed refresh of a value and its next refresh.
const refreshDelay = time.Second

// ErrClosed is the error of [Secrets.Read] and [Secrets.Get] after [Secrets.Close].
var ErrClosed = errors.New("agentrouter: the cache of values is closed")

// Secrets is a cache of values for services that read them often. It keeps them in memory only.
//
// A value from Get was current at most MaxAge ago. From half of MaxAge on, Get also refreshes the value in the
// background. While the server is unavailable, Get returns the last value until it is MaxStale old: for that long a
// revoked key or a deleted secret may go unnoticed in an outage. An outage is UNAVAILABLE, DEADLINE_EXCEEDED,
// RESOURCE_EXHAUSTED, or any error without a reason except NOT_FOUND, PERMISSION_DENIED and UNAUTHENTICATED. Any other
// error removes the value at once.
//
// It is safe for concurrent use. Concurrent calls for the same value share one request. Its printed form contains no
// value. [Client.Cache] makes one.
type Secrets struct {
	fetch      func(context.Context, *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error)
	maxAge     time.Duration
	maxStale   time.Duration
	maxEntries int
	now        func() time.Time
	ctx        context.Context
	cancel     context.CancelFunc

	mu      sync.Mutex
	entries map[SecretRef]*entry
	// lookups counts the calls of look; entries note it as the time of their last use.
	lookups uint64
	// sweptAt is when values too old to be served were last removed.
	sweptAt time.Time
}

// SecretRef names a secret.
type SecretRef struct {
	// Name is its name.
	Name string
	// Realm is its realm. Empty: the current realm of the key.
	Realm string
	// UserID is its owner. Empty: the user of the key.
	UserID string
}

// SecretValue is a value and the version that it is of. Its printed form does not contain the value.
type SecretValue struct {
	// Value is the plaintext.
	Value string
	// Version is the number of the version.
	Version int32
}

// Format prints the version and nothing else, for every verb.
func (v SecretValue) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, fmt.Sprintf("agentrouter.SecretValue(version %d)", v.Version))
}

// LogValue returns the version as a group.
func (v SecretValue) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("version", int(v.Version)))
}

// entry is one value and its request in flight. The mutex of the cache guards it.
type entry struct {
	value    SecretValue
	readAt   time.Time // When the request for the value was sent; zero if there is no value.
	failedAt time.Time // When the last refresh failed without removing the value; zero if it succeeded.
	waitTill time.Time // No refresh before this time.
	lastUse  uint64
	flight   *flight
}

// flight is one request to the server. Any number of callers wait for it.
type flight struct {
	done chan struct{}
	// value and err are set before done is closed.
	value SecretValue
	err   error
}

// SecretsOption is a setting of [Client.Cache].
type SecretsOption func(*Secrets)

// WithMaxAge sets the age up to which Get returns a value without waiting for the server. Default, and when not above
// zero: 30 seconds. Keep it below the grace period of rotations.
func WithMaxAge(age time.Duration) SecretsOption {
	return func(s *Secrets) {
		if age > 0 {
			s.maxAge = age
		}
	}
}

// WithMaxStale sets the age up to which Get returns a value while the server is unavailable. A value below MaxAge counts
// as MaxAge. Default: 5 minutes.
func WithMaxStale(age time.Duration) SecretsOption { return func(s *Secrets) { s.maxStale = age } }

// WithMaxEntries sets the largest number of values in the cache. At the limit the least recently used value is dropped.
// Default, and when not above zero: 10,000.
func WithMaxEntries(count int) SecretsOption {
	return func(s *Secrets) {
		if count > 0 {
			s.maxEntries = count
		}
	}
}

// Cache makes a cache of values. Close it to end its background requests. Each call makes another cache: make one, and
// share it.
func (c *Client) Cache(options ...SecretsOption) *Secrets {
	return newSecrets(c.secret.GetSecretValue, options)
}

// Secrets is the same as [Client.Cache], which is harder to mistake for [Client.Secret].
func (c *Client) Secrets(options ...SecretsOption) *Secrets { return c.Cache(options...) }

func newSecrets(
	fetch func(context.Context, *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error),
	options []SecretsOption,
) *Secrets {
	s := &Secrets{
		fetch: fetch, maxAge: DefaultMaxAge, maxStale: DefaultMaxStale, maxEntries: DefaultMaxEntries,
		now: time.Now, entries: map[SecretRef]*entry{},
	}
	for _, option := range options {
		option(s)
	}
	s.maxStale = max(s.maxStale, s.maxAge)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Read returns the active value of a secret with its version, from memory if that is fresh enough:
//
//	key, err := cache.Read(ctx, agentrouter.SecretRef{Name: "openai-api-key", Realm: "llm-keys"})
//
// It waits for the server only if the cache has no value that it may return. The context ends the wait and not the
// request, which other callers may wait for.
//
// The error is an [*Error], that of the context, or [ErrClosed].
func (s *Secrets) Read(ctx context.Context, ref SecretRef) (SecretValue, error) {
	if s.ctx.Err() != nil {
		return SecretValue{}, ErrClosed
	}
	value, wait := s.look(ref)
	if wait == nil {
		return value, nil
	}
	select {
	case <-wait.done:
		return wait.value, wait.err
	case <-ctx.Done():
		return SecretValue{}, ctx.Err()
	}
}

// Get is [Secrets.Read] without the version. An empty realm is the current realm of the key. An empty userID is the user of
// the key.
func (s *Secrets) Get(ctx context.Context, name, realm, userID string) (string, error) {
	value, err := s.Read(ctx, SecretRef{Name: name, Realm: realm, UserID: userID})
	return value.Value, err
}

// Drop removes a value, so that the next Read or Get reads it from the server. Use it when the value turns out to be wrong.
func (s *Secrets) Drop(ref SecretRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A request in flight keeps its entry and serves its callers, but its value is not kept.
	delete(s.entries, ref)
}

// Forget is [Secrets.Drop] of a name, a realm and a user.
func (s *Secrets) Forget(name, realm, userID string) {
	s.Drop(SecretRef{Name: name, Realm: realm, UserID: userID})
}

// Close ends requests in flight and removes all values.
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

// look returns a value that may be served now, or the flight to wait for.
func (s *Secrets) look(key SecretRef) (SecretValue, *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		e = &entry{}
		s.entries[key] = e
	}
	s.lookups++
	e.lastUse = s.lookups
	if e.readAt.IsZero() {
		return SecretValue{}, s.flightOf(key, e)
	}
	now := s.now()
	age, delayed := now.Sub(e.readAt), now.Before(e.waitTill)
	outage := delayed || !e.failedAt.IsZero() && now.Sub(e.failedAt) < s.maxAge
	if age >= s.maxAge && (!outage || age >= s.maxStale) {
		return SecretValue{}, s.flightOf(key, e)
	}
	if age >= s.maxAge/2 && !delayed {
		s.flightOf(key, e)
	}
	return e.value, nil
}

// flightOf returns the flight of an entry and starts one if there is none.
func (s *Secrets) flightOf(key SecretRef, e *entry) *flight {
	if e.flight == nil {
		e.flight = &flight{done: make(chan struct{})}
		go s.refresh(key, e, e.flight)
	}
	return e.flight
}

// refresh reads the value from the server and wakes the callers that wait for it.
func (s *Secrets) refresh(key SecretRef, e *entry, f *flight) {
	sentAt := s.now()
	response, err := s.fetch(s.ctx, &secretv1.GetSecretValueRequest{Name: key.Name, Realm: key.Realm, UserId: key.UserID})
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	e.flight = nil
	now := s.now()
	switch {
	case s.ctx.Err() != nil:
		f.err = ErrClosed
	case err == nil:
		f.value = SecretValue{Value: response.GetValue(), Version: response.GetSecret().GetVersion()}
		// The value may be older than the response: its age counts from the request.
		e.value, e.readAt, e.failedAt, e.waitTill = f.value, sentAt, time.Time{}, time.Time{}
		s.trim(e, now)
	case isOutage(err) && !e.readAt.IsZero() && now.Sub(e.readAt) < s.maxStale:
		e.failedAt, e.waitTill = now, now.Add(max(refreshDelay, retryAfterOf(err)))
		f.value = e.value
	default:
		f.err = err
		if s.entries[key] == e {
			delete(s.entries, key)
		}
		e.value = SecretValue{}
	}
}

// trim removes values that are too old to be served, and the least recently used ones beyond the limit, but not newest.
func (s *Secrets) trim(newest *entry, now time.Time) {
	if len(s.entries) <= s.maxEntries && now.Sub(s.sweptAt) < s.maxAge {
		return
	}
	s.sweptAt = now
	values := 0
	for key, e := range s.entries {
		switch {
		case e.readAt.IsZero():
			// The value of a first request does not count before it arrives.
		case e.flight == nil && now.Sub(e.readAt) >= s.maxStale && e != newest:
			delete(s.entries, key)
		default:
			values++
		}
	}
	for ; values > s.maxEntries; values-- {
		var oldest SecretRef
		least := uint64(math.MaxUint64)
		for key, e := range s.entries {
			if !e.readAt.IsZero() && e != newest && e.lastUse < least {
				oldest, least = key, e.lastUse
			}
		}
		delete(s.entries, oldest)
	}
}

func retryAfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// isOutage reports whether an error says nothing about the secret and the key, only that the server did not serve the
// request. The 401, 403 or 404 of a proxy counts as the server's.
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
