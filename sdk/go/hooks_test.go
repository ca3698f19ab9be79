package agentrouter

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

func TestALoggerSeesEachAttemptAndNothingOfTheRequest(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server := &scripted{responses: []http.HandlerFunc{
		refuse(503, unavailable, "X-Request-Id", "r-7"), succeed, refuse(429, tooLarge), refuse(503, unavailable),
	}}
	version := int32(1)
	client := newClient(t, serve(t, server), WithLogger(logger)).Secret()
	request := &secretv1.CreateSecretRequest{Name: canary, Value: canary, ExpectedVersion: &version}
	for range 2 {
		_, _ = client.CreateSecret(t.Context(), request)
	}
	records := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(records) != 3 {
		t.Fatal(out.String())
	}
	for i, want := range [][]string{
		{`"INFO"`, `"agentrouter: call is retried"`, `"procedure":"CreateSecret"`, `"attempt":1`, `"code":"UNAVAILABLE"`, `"request_id":"r-7"`, `"pause":`},
		{`"DEBUG"`, `"agentrouter: call succeeded"`, `"attempt":2`, `"duration":`},
		{`"WARN"`, `"agentrouter: call failed"`, `"attempt":1`, `"reason":"BODY_TOO_LARGE"`},
	} {
		for _, part := range want {
			if !strings.Contains(records[i], part) {
				t.Errorf("%s is not in %s", part, records[i])
			}
		}
	}
	if strings.Contains(out.String(), canary) {
		t.Error(out.String())
	}
}

func TestHooksSeeEachAttemptWithoutTheKey(t *testing.T) {
	var header http.Header
	first := true
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Clone()
		if first {
			first = false
			refuse(503, unavailable)(w, r)
			return
		}
		succeed(w, r)
	}))
	seen, trips := []string{}, 0
	interceptor := connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Traceparent", "00-trace")
			response, err := next(ctx, req)
			seen = append(seen, req.Spec().Procedure+" "+req.Header().Get("Authorization"))
			return response, err
		}
	})
	wrap := func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if trips++; r.Header.Get("Authorization") != "" {
				t.Error("the wrapper sees the key")
			}
			return next.RoundTrip(r)
		})
	}
	client := newClient(t, server, WithInterceptors(interceptor), WithRoundTripper(wrap)).Secret()
	if _, err := client.GetSecret(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	procedure := "/agentrouter.secret.v1.SecretService/GetSecret "
	if len(seen) != 2 || seen[0] != procedure || seen[1] != procedure || trips != 2 {
		t.Errorf("%q, %d trips", seen, trips)
	}
	if header.Get("Traceparent") != "00-trace" || header.Get("Authorization") != "Bearer "+testKey {
		t.Error("a header is missing")
	}
}

func TestAClientThatFollowsRedirectsDoesNotSendTheKeyElsewhere(t *testing.T) {
	elsewhere := ""
	other := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { elsewhere = "got " + r.Header.Get("Authorization") }))
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other, http.StatusTemporaryRedirect)
	}))
	client := newClient(t, server, WithHTTPClient(&http.Client{}))
	if _, err := client.Secret().GetSecret(t.Context(), nil); err == nil || elsewhere != "got " {
		t.Errorf("%v, %q", err, elsewhere)
	}
}

func TestCallsHaveSettingsOfTheirOwn(t *testing.T) {
	server := &scripted{responses: []http.HandlerFunc{refuse(503, unavailable)}}
	client := newClient(t, serve(t, server), WithRetries(3)).Secret()
	none := client.With(CallRetries(0))
	if _, err := none.GetSecret(t.Context(), nil); CodeOf(err) != CodeUnavailable || server.count.Load() != 1 {
		t.Errorf("%v, %d attempts", err, server.count.Load())
	}
	if client.caller.retries != 3 || client.With(CallTimeout(time.Minute)).caller.timeout != time.Minute || client.caller.timeout != DefaultTimeout {
		t.Error("With changes its client")
	}
	for _, invalid := range []CallOption{CallTimeout(0), CallRetries(-1)} {
		if _, err := client.With(invalid, CallRetries(1)).GetSecret(t.Context(), nil); fmt.Sprintf("%T", err) != "*agentrouter.ConfigError" {
			t.Errorf("%v", err)
		}
	}
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Traceparent", "00-trace")
	echo := newClient(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", r.Header.Get("Traceparent"))
		succeed(w, r)
	}))).Secret()
	if _, err := echo.GetSecret(ctx, nil); err != nil || info.ResponseHeader().Get("X-Request-Id") != "00-trace" {
		t.Errorf("%v, %v", err, info.ResponseHeader())
	}
}
