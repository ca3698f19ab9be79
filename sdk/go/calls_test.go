package agentrouter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

const (
	unavailable = `{"code":"unavailable","message":"try again"}`
	rateLimited = `{"code":"resource_exhausted","message":"slow down","details":[{"type":"google.rpc.ErrorInfo","value":"CgxSQVRFX0xJTUlURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}`
	tooLarge    = `{"code":"resource_exhausted","message":"too large","details":[{"type":"google.rpc.ErrorInfo","value":"Cg5CT0RZX1RPT19MQVJHRQ"}]}`
)

func TestARefusalKeepsAllDetailsOfTheResponse(t *testing.T) {
	server := &fake{create: func(_ context.Context, req *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
		err := connect.NewError(connect.CodeInvalidArgument, errors.New("Invalid request: name must be set."))
		for _, message := range []proto.Message{
			&errdetails.ErrorInfo{Reason: "INVALID_REQUEST", Domain: "agentrouter.secret.v1"},
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "name", Description: "must be set"}}},
		} {
			detail, _ := connect.NewErrorDetail(message)
			err.AddDetail(detail)
		}
		err.Meta().Set("X-Request-Id", "r-1")
		err.Meta().Set("Retry-After", "3")
		return nil, err
	}}
	_, err := newClient(t, server.serve(t)).Secret().CreateSecret(t.Context(), &secretv1.CreateSecretRequest{Value: canary})
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	if e.Code != CodeInvalidArgument || e.Reason != "INVALID_REQUEST" || e.RequestID != "r-1" || e.RetryAfter != 3*time.Second {
		t.Errorf("%+v", *e)
	}
	if want := []FieldViolation{{"name", "must be set"}}; !slices.Equal(e.FieldViolations, want) {
		t.Errorf("%v", e.FieldViolations)
	}
	want := "agentrouter: INVALID_ARGUMENT (INVALID_REQUEST): Invalid request: name must be set. [request r-1]"
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if got := fmt.Sprintf(verb, err); got != want {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func TestOnlyWhatIsSafeAndMayGetBetterIsTriedAgain(t *testing.T) {
	version := int32(1)
	read := func(c *SecretClient) error {
		_, err := c.GetSecret(t.Context(), &secretv1.GetSecretRequest{})
		return err
	}
	write := func(c *SecretClient) error {
		_, err := c.RotateSecret(t.Context(), &secretv1.RotateSecretRequest{NewValue: canary})
		return err
	}
	conditional := func(c *SecretClient) error {
		_, err := c.CreateSecret(t.Context(), &secretv1.CreateSecretRequest{Value: canary, ExpectedVersion: &version})
		return err
	}
	remove := func(c *SecretClient) error {
		_, err := c.DeleteSecret(t.Context(), &secretv1.DeleteSecretRequest{})
		return err
	}
	for _, test := range []struct {
		name      string
		call      func(*SecretClient) error
		responses []http.HandlerFunc
		code      Code
		attempts  int32
	}{
		{"a read, twice unavailable", read, []http.HandlerFunc{refuse(503, unavailable), drop, succeed}, "", 3},
		{"a read, thrice", read, []http.HandlerFunc{refuse(503, unavailable)}, CodeUnavailable, 3},
		{"a read, limited", read, []http.HandlerFunc{refuse(429, rateLimited), succeed}, "", 2},
		{"a read, limited by a proxy", read, []http.HandlerFunc{refuse(429, `{"code":"resource_exhausted"}`), succeed}, "", 2},
		{"a read, too large", read, []http.HandlerFunc{refuse(413, tooLarge)}, CodeResourceExhausted, 1},
		{"a read, not there", read, []http.HandlerFunc{refuse(404, `{"code":"not_found"}`)}, CodeNotFound, 1},
		{"a write", write, []http.HandlerFunc{refuse(503, unavailable)}, CodeUnavailable, 1},
		{"a deletion", remove, []http.HandlerFunc{drop}, CodeUnavailable, 1},
		{"a conditional write", conditional, []http.HandlerFunc{drop, succeed}, "", 2},
		{"a redirect", read, []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}}, "UNKNOWN", 1},
	} {
		server := &scripted{responses: test.responses}
		err := test.call(newClient(t, serve(t, server)).Secret())
		var e *Error
		switch {
		case test.code == "" && err != nil, test.code != "" && (!errors.As(err, &e) || e.Code != test.code):
			t.Errorf("%s: %v", test.name, err)
		case server.count.Load() != test.attempts:
			t.Errorf("%s: %d tries", test.name, server.count.Load())
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: a value or the key is in %v", test.name, err)
		}
	}
}

func TestAPauseThatReachesTheTimeoutIsNotStarted(t *testing.T) {
	server := &scripted{responses: []http.HandlerFunc{refuse(429, rateLimited, "Retry-After", "60")}}
	start := time.Now()
	_, err := newClient(t, serve(t, server)).Secret().GetSecret(t.Context(), nil)
	var e *Error
	if !errors.As(err, &e) || e.Reason != "RATE_LIMITED" || e.RetryAfter != time.Minute || time.Since(start) > 9*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestTheTimeoutAndTheContextEndACall(t *testing.T) {
	never := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	client := newClient(t, serve(t, http.HandlerFunc(never)), WithTimeout(50*time.Millisecond)).Secret()
	_, err := client.GetSecret(t.Context(), &secretv1.GetSecretRequest{})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeDeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = client.GetSecret(ctx, &secretv1.GetSecretRequest{})
	if !errors.As(err, &e) || e.Code != CodeCanceled || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNotTheServiceCannotPaintTheTerminal(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":"permission_denied","message":"\u001b[31m` + strings.Repeat("x", 9000) + `"}`))
	}
	_, err := newClient(t, serve(t, http.HandlerFunc(page))).Secret().GetSecret(t.Context(), &secretv1.GetSecretRequest{})
	if text := err.Error(); len(text) > 600 || strings.ContainsRune(text, '\x1b') {
		t.Errorf("%d bytes: %q", len(text), text[:60])
	}
}

func TestAKeyThatAProxyRepeatsIsNotPassedOn(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"code":"internal","message":"` + r.Header.Get("Authorization") + ` is not for me"}`))
	}
	_, err := newClient(t, serve(t, http.HandlerFunc(echo))).Secret().GetSecret(t.Context(), &secretv1.GetSecretRequest{})
	shown := ""
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		shown += fmt.Sprintf("%v %+v %#v\n", cause, cause, cause)
	}
	if strings.Contains(shown, canary) || !strings.Contains(shown, "is not for me") {
		t.Error(shown)
	}
}

func TestRequestsCarryTheKeyAndTheNames(t *testing.T) {
	var header http.Header
	client := newClient(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Clone()
		succeed(w, r)
	})), WithUserAgent("gateway/1.4"))
	if _, err := client.Secret().GetSecret(t.Context(), &secretv1.GetSecretRequest{}); err != nil {
		t.Fatal(err)
	}
	if header.Get("Authorization") != "Bearer "+testKey {
		t.Error("the key is not sent as it is")
	}
	if got := header.Get("User-Agent"); got != "gateway/1.4 agentrouter-sdk-go/"+Version {
		t.Error(got)
	}
}

func TestAWalkGoesOverAllPagesAndStopsWhereItsReaderDoes(t *testing.T) {
	calls := 0
	server := &fake{list: func(_ context.Context, req *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error) {
		calls++
		page := len(req.GetPageToken())
		if page == 3 && req.GetRealm() == "broken" {
			return nil, connect.NewError(connect.CodeInternal, errors.New("broken"))
		}
		response := &secretv1.ListSecretsResponse{Secrets: []*secretv1.Secret{{Name: fmt.Sprint("a", page)}, {Name: fmt.Sprint("b", page)}}}
		if page < 4 {
			response.NextPageToken = strings.Repeat("x", page+1)
		}
		return response, nil
	}}
	client := newClient(t, server.serve(t)).Secret()
	walk := func(req *secretv1.ListSecretsRequest, most int) (names []string, err error) {
		for secret, failure := range client.AllSecrets(t.Context(), req) {
			if failure != nil {
				return names, failure
			}
			if names = append(names, secret.GetName()); len(names) == most {
				break
			}
		}
		return names, nil
	}
	req := &secretv1.ListSecretsRequest{PageToken: "x"}
	if names, err := walk(req, -1); err != nil || strings.Join(names, " ") != "a1 b1 a2 b2 a3 b3 a4 b4" || req.PageToken != "x" {
		t.Errorf("%v, %v", names, err)
	}
	calls = 0
	if names, err := walk(nil, 3); err != nil || len(names) != 3 || calls != 2 {
		t.Errorf("%v, %v, %d calls", names, err, calls)
	}
	if names, err := walk(&secretv1.ListSecretsRequest{Realm: "broken"}, -1); err == nil || len(names) != 6 {
		t.Errorf("%v, %v", names, err)
	}
}
