package agentrouter

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
	"github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1/secretv1connect"
)

// canary is part of every key and value in these tests; nothing printed may have it.
const canary = "CanaryCanary"

var testKey = "ak-0123456789abcdef_" + canary + strings.Repeat("0", 49-len(canary))

// fake is a server whose calls are functions; those that are nil return "unimplemented".
type fake struct {
	secretv1connect.UnimplementedSecretServiceHandler
	create func(context.Context, *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error)
	list   func(context.Context, *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error)
	value  func(context.Context, *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error)
}

func (f *fake) CreateSecret(ctx context.Context, req *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
	return f.create(ctx, req)
}

func (f *fake) ListSecrets(ctx context.Context, req *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error) {
	return f.list(ctx, req)
}

func (f *fake) GetSecretValue(ctx context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	return f.value(ctx, req)
}

// serve starts the fake and returns its URL.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	_, handler := secretv1connect.NewSecretServiceHandler(f)
	return serve(t, handler)
}

func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// scripted sends its responses one after the other, then the last one again, and counts the requests.
type scripted struct {
	responses []http.HandlerFunc
	count     atomic.Int32
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	index := int(s.count.Add(1)) - 1
	s.responses[min(index, len(s.responses)-1)](w, r)
}

// refuse is a Connect error as JSON.
func refuse(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// succeed is an empty response.
func succeed(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/proto")
}

// drop closes the connection.
func drop(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// newClient makes a client that does not wait between tries.
func newClient(t *testing.T, url string, options ...Option) *Client {
	t.Helper()
	client, err := New(t.Context(), append([]Option{WithBaseURL(url), WithAPIKey(testKey)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
