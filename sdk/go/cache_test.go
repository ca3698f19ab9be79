package agentrouter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// source is a server of one value with a clock of its own.
type source struct {
	mu    sync.Mutex
	time  time.Time
	value string
	err   error
	calls int
	// gate, if set, holds each call back until it is closed.
	gate chan struct{}
}

func (s *source) fetch(ctx context.Context, _ *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	s.mu.Lock()
	s.calls++
	gate, value, err := s.gate, s.value, s.err
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	return &secretv1.GetSecretValueResponse{Value: value}, nil
}

func (s *source) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.time
}

func (s *source) set(value string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err = value, err
}

func (s *source) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.time = s.time.Add(d)
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func newSource(t *testing.T, value string) (*source, *Secrets) {
	s := &source{time: time.Unix(1_800_000_000, 0), value: value}
	cache := newSecrets(s.fetch, nil)
	cache.now = s.now
	t.Cleanup(cache.Close)
	return s, cache
}

// settle waits until no call is under way.
func settle(t *testing.T, cache *Secrets) {
	t.Helper()
	for range 2000 {
		busy := false
		cache.mu.Lock()
		for _, e := range cache.entries {
			busy = busy || e.flight != nil
		}
		cache.mu.Unlock()
		if !busy {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("a call does not end")
}

// get reads the one secret, and waits for what that set off.
func get(t *testing.T, cache *Secrets) (string, error) {
	t.Helper()
	value, err := cache.Get(t.Context(), "s", "r", "")
	settle(t, cache)
	return value, err
}

func expect(t *testing.T, cache *Secrets, want string) {
	t.Helper()
	if value, err := get(t, cache); err != nil || value != want {
		t.Fatalf("%q, %v; not %q", value, err, want)
	}
}

func TestAValueIsReadOnceAndRefreshedInTheBackground(t *testing.T) {
	server, cache := newSource(t, "one")
	expect(t, cache, "one")
	server.pass(14 * time.Second)
	expect(t, cache, "one")
	if server.count() != 1 {
		t.Fatalf("%d calls", server.count())
	}
	server.set("two", nil)
	server.pass(2 * time.Second)
	expect(t, cache, "one") // and sets the refresh off
	expect(t, cache, "two")
	if server.count() != 2 {
		t.Fatalf("%d calls", server.count())
	}
}

func TestNoValueOlderThanMaxAgeIsServedWhileTheServerAnswers(t *testing.T) {
	server, cache := newSource(t, "one")
	expect(t, cache, "one")
	server.set("two", nil)
	server.pass(30 * time.Second)
	expect(t, cache, "two")
}

func TestTheLastGoodValueIsServedForABoundedTimeWhileTheServerIsAway(t *testing.T) {
	for _, outage := range []*Error{
		{Code: CodeUnavailable}, {Code: CodeDeadlineExceeded}, {Code: CodeResourceExhausted, Reason: "RATE_LIMITED"},
		{Code: CodeUnimplemented}, // A proxy's page.
	} {
		server, cache := newSource(t, "one")
		expect(t, cache, "one")
		server.set("", outage)
		for range 29 {
			server.pass(10 * time.Second)
			expect(t, cache, "one")
		}
		server.pass(10 * time.Second)
		if value, err := get(t, cache); !errors.Is(err, outage) || value != "" {
			t.Fatalf("after five minutes: %q, %v", value, err)
		}
		server.set("two", nil)
		expect(t, cache, "two")
	}
}

func TestAnOutageHoldsNobodyUpOnceItIsKnown(t *testing.T) {
	server, cache := newSource(t, "one")
	expect(t, cache, "one")
	server.set("", &Error{Code: CodeUnavailable})
	server.pass(16 * time.Second)
	expect(t, cache, "one")
	server.mu.Lock()
	server.gate = make(chan struct{})
	server.mu.Unlock()
	server.pass(20 * time.Second)
	if value, err := cache.Get(t.Context(), "s", "r", ""); err != nil || value != "one" {
		t.Fatalf("%q, %v", value, err)
	}
	calls := server.count()
	close(server.gate)
	settle(t, cache)
	expect(t, cache, "one")
	if server.count() > calls+1 {
		t.Fatal("a server that is away is asked all the time")
	}
}

func TestAnOutageOfLongAgoIsNoReasonToServeAStaleValue(t *testing.T) {
	server, cache := newSource(t, "one")
	expect(t, cache, "one")
	server.set("", &Error{Code: CodeUnavailable})
	server.pass(16 * time.Second)
	expect(t, cache, "one")
	server.set("two", nil)
	server.pass(2 * time.Minute)
	expect(t, cache, "two")
}

func TestARefusalRemovesTheValueAtOnce(t *testing.T) {
	for _, refusal := range []*Error{
		{Code: CodeNotFound, Reason: "SECRET_NOT_FOUND"}, {Code: CodePermissionDenied, Reason: "SCOPE_MISSING"},
		{Code: CodePermissionDenied}, {Code: CodeUnauthenticated}, {Code: CodeInternal, Reason: "SECRET_CORRUPT"},
	} {
		code := refusal.Code
		server, cache := newSource(t, "one")
		expect(t, cache, "one")
		server.set("", refusal)
		server.pass(16 * time.Second)
		expect(t, cache, "one") // the last time: it is fresh enough, and its refresh is refused
		var e *Error
		if value, err := get(t, cache); !errors.As(err, &e) || e.Code != code || value != "" {
			t.Fatalf("%s: %q, %v", code, value, err)
		}
		server.set("", &Error{Code: CodeUnavailable})
		if value, err := get(t, cache); err == nil {
			t.Fatalf("%s: %q came back", code, value)
		}
	}
}

func TestCallersShareACallAndOneMayLeave(t *testing.T) {
	server, cache := newSource(t, "one")
	server.gate = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.Get(ctx, "s", "r", ""); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			if value, err := cache.Get(t.Context(), "s", "r", ""); err != nil || value != "one" {
				t.Errorf("%q, %v", value, err)
			}
		}()
	}
	close(server.gate)
	waiting.Wait()
	if server.count() != 1 {
		t.Fatalf("%d calls", server.count())
	}
}

func TestForgottenAndClosedValuesAreNotServed(t *testing.T) {
	server, cache := newSource(t, "one")
	expect(t, cache, "one")
	server.set("two", nil)
	cache.Forget("s", "r", "")
	expect(t, cache, "two")
	cache.Close()
	if _, err := cache.Get(t.Context(), "s", "r", ""); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestSecretsOfOtherPlacesAreOtherValues(t *testing.T) {
	asked := make(chan string, 9)
	cache := newSecrets(func(_ context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
		asked <- req.GetName() + "/" + req.GetRealm() + "/" + req.GetUserId()
		return &secretv1.GetSecretValueResponse{Value: canary + <-asked}, nil
	}, []SecretsOption{WithMaxAge(time.Minute), WithMaxStale(time.Second)})
	defer cache.Close()
	for _, place := range [][3]string{{"a", "b", "c"}, {"a", "b", ""}, {"a", "", "c"}, {"b", "b", "c"}} {
		value, err := cache.Get(t.Context(), place[0], place[1], place[2])
		if err != nil || value != canary+strings.Join(place[:], "/") {
			t.Fatalf("%q, %v", value, err)
		}
	}
	shown := fmt.Sprintf("%+v", cache)
	if shown != "agentrouter.Secrets(4 values, MaxAge 1m0s, MaxStale 1m0s)" {
		t.Error(shown)
	}
}

func TestValuesTooOldToBeServedAreNotKeptForEver(t *testing.T) {
	server, cache := newSource(t, "one")
	for i := range sweepAt {
		if _, err := cache.Get(t.Context(), fmt.Sprint(i), "r", ""); err != nil {
			t.Fatal(err)
		}
	}
	server.pass(defaultMaxStale)
	expect(t, cache, "one")
	if len(cache.entries) != 1 {
		t.Errorf("%d values are kept", len(cache.entries))
	}
}
