package agentrouter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// newCache makes a cache over a server of one value. TestTheCache has the rules that all SDKs share.
func newCache(t *testing.T, options ...SecretsOption) (*cacheServer, *Secrets) {
	value := "one"
	server := &cacheServer{clock: newFakeClock(), response: &response{Value: &value}}
	server.changed = sync.NewCond(&server.mu)
	cache := newSecrets(server.fetch, options)
	cache.now = server.clock.now
	t.Cleanup(cache.Close)
	return server, cache
}

func TestCallersShareARequestAndOneMayLeave(t *testing.T) {
	server, cache := newCache(t)
	server.response = &response{silent: true}
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
	one := "one"
	server.mu.Lock()
	server.response = &response{Value: &one}
	server.changed.Broadcast()
	server.mu.Unlock()
	waiting.Wait()
	if server.requests != 1 {
		t.Fatalf("%d requests", server.requests)
	}
}

func TestAClosedCacheServesNothing(t *testing.T) {
	_, cache := newCache(t)
	if _, err := cache.Get(t.Context(), "s", "r", ""); err != nil {
		t.Fatal(err)
	}
	cache.Close()
	if _, err := cache.Get(t.Context(), "s", "r", ""); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestNameRealmAndUserIdentifyAValue(t *testing.T) {
	cache := newSecrets(func(_ context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
		return &secretv1.GetSecretValueResponse{Value: canary + req.GetName() + "/" + req.GetRealm() + "/" + req.GetUserId()}, nil
	}, []SecretsOption{WithMaxAge(time.Minute), WithMaxStale(time.Second)})
	defer cache.Close()
	for _, address := range [][3]string{{"a", "b", "c"}, {"a", "b", ""}, {"a", "", "c"}, {"b", "b", "c"}} {
		value, err := cache.Get(t.Context(), address[0], address[1], address[2])
		if err != nil || value != canary+strings.Join(address[:], "/") {
			t.Fatalf("%q, %v", value, err)
		}
	}
	shown := fmt.Sprintf("%+v", cache)
	if shown != "agentrouter.Secrets(4 values, MaxAge 1m0s, MaxStale 1m0s)" {
		t.Error(shown)
	}
}

func TestAValueIsReadWithItsVersion(t *testing.T) {
	version := int32(0)
	cache := newSecrets(func(_ context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
		version++
		return &secretv1.GetSecretValueResponse{Value: req.GetName(), Secret: &secretv1.Secret{Version: version}}, nil
	}, nil)
	defer cache.Close()
	ref := SecretRef{Name: "n", Realm: "r", UserID: "u"}
	for want := int32(1); want < 4; want++ {
		for range 2 {
			if got, err := cache.Read(t.Context(), ref); err != nil || got != (SecretValue{Value: "n", Version: want}) {
				t.Fatalf("%v, %v", got, err)
			}
		}
		if value, err := cache.Get(t.Context(), "n", "r", "u"); err != nil || value != "n" || version != want {
			t.Fatalf("%q, %v", value, err)
		}
		if want == 1 {
			cache.Drop(ref)
		} else {
			cache.Forget("n", "r", "u")
		}
	}
}

func TestAPrintedValueIsItsVersion(t *testing.T) {
	value := SecretValue{Value: canary, Version: 7}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "value", value)
	if shown := fmt.Sprintf("%v %+v %#v %s", value, value, value, &value) + log.String(); strings.Contains(shown, canary) || !strings.Contains(shown, "version 7") {
		t.Error(shown)
	}
}

func TestSettingsThatAreNotAboveZeroAreTheDefaults(t *testing.T) {
	_, cache := newCache(t, WithMaxAge(0), WithMaxAge(-1), WithMaxEntries(0), WithMaxEntries(-1))
	if cache.maxAge != DefaultMaxAge || cache.maxEntries != DefaultMaxEntries {
		t.Errorf("%v, %d values", cache.maxAge, cache.maxEntries)
	}
}

func TestValuesTooOldToBeServedAreRemoved(t *testing.T) {
	server, cache := newCache(t)
	for i := range 100 {
		if _, err := cache.Get(t.Context(), fmt.Sprint(i), "r", ""); err != nil {
			t.Fatal(err)
		}
	}
	server.clock.pass(DefaultMaxStale)
	if _, err := cache.Get(t.Context(), "s", "r", ""); err != nil {
		t.Fatal(err)
	}
	if len(cache.entries) != 1 {
		t.Errorf("%d values are kept", len(cache.entries))
	}
}
