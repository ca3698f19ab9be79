// Package agentroutertest is a secret service in memory, for the tests of programs that use the SDK.
//
//	server := agentroutertest.New()
//	server.Put("llm-keys", "openai-api-key", "sk-test")
//	client := server.Client() // an *agentrouter.Client: pass it to the code under test
//
// It opens no port and starts no goroutine, so there is nothing to close. It is safe for concurrent use.
//
// It implements the seven calls for one caller with all scopes: versions, grace periods, expected_version, update_mask,
// filters and pages. It does not check scopes, the rules of names and values, or rate limits. [Server.Fail] makes calls fail
// as the service does.
package agentroutertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	agentrouter "github.com/tetrateio/agentrouter-go"
	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
	"github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1/secretv1connect"
)

// The caller of a client from [Server.Client].
const (
	// UserID is the user of its key.
	UserID = "test"
	// Realm is the current realm of its key.
	Realm = "default"
)

// key has the form of an API key.
var key = strings.Repeat("0", 16) + "_" + strings.Repeat("0", 49)

// Server is a secret service in memory.
type Server struct {
	mu       sync.Mutex
	store    store
	failures []*agentrouter.Error
	calls    []string
}

// New makes a server without secrets.
func New() *Server { return &Server{store: store{now: time.Now, secrets: map[place]*secret{}}} }

// Client makes a client of the server, with the retries of the SDK unless options have others. It panics if an option is
// invalid.
func (s *Server) Client(options ...agentrouter.Option) *agentrouter.Client {
	_, handler := secretv1connect.NewSecretServiceHandler(service{s})
	defaults := []agentrouter.Option{
		agentrouter.WithBaseURL("https://agentrouter.test"),
		agentrouter.WithAPIKey(key),
		agentrouter.WithHTTPClient(&http.Client{Transport: inMemory{handler}}),
	}
	client, err := agentrouter.New(context.Background(), append(defaults, options...)...)
	if err != nil {
		panic(err)
	}
	return client
}

// Put stores a value: it creates the secret, or gives it a new active version. It returns the version.
func (s *Server) Put(realm, name, value string) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	response, err := s.store.create(&secretv1.CreateSecretRequest{Realm: realm, Name: name, Value: value})
	if err != nil {
		panic(err)
	}
	return response.GetSecret().GetVersion()
}

// Fail makes the next requests fail, one for each error, before they do anything. The client tries again where it would with
// the service. Set Code, and Reason for an error of the service:
//
//	server.Fail(&agentrouter.Error{Code: agentrouter.CodeUnavailable, Reason: agentrouter.ReasonOverloaded})
//
// It panics if there is no such code.
func (s *Server) Fail(failures ...*agentrouter.Error) {
	for _, failure := range failures {
		codeOnTheWire(failure.Code)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, failures...)
}

// Calls returns the names of the calls that arrived, such as "GetSecretValue", oldest first. Each retry is one.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// inMemory serves requests by a handler in the same process.
type inMemory struct{ handler http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	recorder := httptest.NewRecorder()
	m.handler.ServeHTTP(recorder, r)
	response := recorder.Result()
	response.Request = r
	return response, nil
}

// service is the server as the generated handler calls it.
type service struct{ server *Server }

func (s service) CreateSecret(_ context.Context, req *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
	return handle(s.server, "CreateSecret", req, s.server.store.create)
}

func (s service) GetSecret(_ context.Context, req *secretv1.GetSecretRequest) (*secretv1.GetSecretResponse, error) {
	return handle(s.server, "GetSecret", req, s.server.store.get)
}

func (s service) ListSecrets(_ context.Context, req *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error) {
	return handle(s.server, "ListSecrets", req, s.server.store.list)
}

func (s service) DeleteSecret(_ context.Context, req *secretv1.DeleteSecretRequest) (*secretv1.DeleteSecretResponse, error) {
	return handle(s.server, "DeleteSecret", req, s.server.store.delete)
}

func (s service) RotateSecret(_ context.Context, req *secretv1.RotateSecretRequest) (*secretv1.RotateSecretResponse, error) {
	return handle(s.server, "RotateSecret", req, s.server.store.rotate)
}

func (s service) ValidateSecret(_ context.Context, req *secretv1.ValidateSecretRequest) (*secretv1.ValidateSecretResponse, error) {
	return handle(s.server, "ValidateSecret", req, s.server.store.validate)
}

func (s service) GetSecretValue(_ context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	return handle(s.server, "GetSecretValue", req, s.server.store.value)
}

// handle makes one call, or fails it.
func handle[Q, A any](s *Server, name string, req *Q, do func(*Q) (*A, error)) (*A, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, name)
	if len(s.failures) > 0 {
		failure := s.failures[0]
		s.failures = s.failures[1:]
		return nil, onTheWire(failure)
	}
	response, err := do(req)
	var failure *agentrouter.Error
	if errors.As(err, &failure) {
		return nil, onTheWire(failure)
	}
	return response, err
}

// codeOnTheWire is a code as the service sends it. It panics if there is no such code.
func codeOnTheWire(code agentrouter.Code) connect.Code {
	for wire := connect.CodeCanceled; wire <= connect.CodeUnauthenticated; wire++ {
		if strings.ToUpper(wire.String()) == string(code) {
			return wire
		}
	}
	panic(fmt.Sprintf("agentroutertest: there is no code %q", code))
}

// onTheWire is an error as the service sends it.
func onTheWire(failure *agentrouter.Error) error {
	wire := connect.NewError(codeOnTheWire(failure.Code), errors.New(failure.Message))
	var details []proto.Message
	if failure.Reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: failure.Reason, Domain: "agentrouter.secret.v1"})
	}
	if len(failure.FieldViolations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, violation := range failure.FieldViolations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: violation.Field, Description: violation.Description,
			})
		}
		details = append(details, bad)
	}
	if failure.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(failure.RetryAfter)})
	}
	for _, message := range details {
		if detail, err := connect.NewErrorDetail(message); err == nil {
			wire.AddDetail(detail)
		}
	}
	wire.Meta().Set("X-Request-Id", cmp.Or(failure.RequestID, "fake"))
	return wire
}
