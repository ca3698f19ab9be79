package agentrouter

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// readTable reads one of the tables that sdk/cases/README.md describes. Unknown keys are an error.
func readTable[T any](t *testing.T, name string) T {
	t.Helper()
	content, err := os.ReadFile("../cases/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var table T
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&table); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return table
}

// outcome is a failed call.
type outcome struct {
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
}

func checkOutcome(t *testing.T, want *outcome, err error) {
	t.Helper()
	var e *Error
	switch {
	case want == nil && err != nil:
		t.Fatalf("failed: %v", err)
	case want != nil && (!errors.As(err, &e) || e.Code != want.Code || e.Reason != want.Reason):
		t.Fatalf("%v is not %v", err, *want)
	}
}

func ms(count float64) time.Duration { return time.Duration(count * float64(time.Millisecond)) }

// fakeClock is a clock that a test moves.
type fakeClock struct {
	mu   sync.Mutex
	time time.Time
}

func newFakeClock() *fakeClock { return &fakeClock{time: time.Unix(1_800_000_000, 0)} }

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *fakeClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.time = c.time.Add(d)
}

func TestTheConstantsAreTheCodesAndReasonsOfTheTable(t *testing.T) {
	table := readTable[struct {
		Title   string            `json:"title"`
		Codes   []string          `json:"codes"`
		Reasons map[string]string `json:"reasons"`
	}](t, "errors.json")
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes, reasons []string
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			value, _ := strconv.Unquote(literal.Value)
			switch name := spec.Names[0].Name; {
			case strings.HasPrefix(name, "Code"):
				codes = append(codes, value)
			case strings.HasPrefix(name, "Reason"):
				reasons = append(reasons, value)
			}
		}
		return true
	})
	slices.Sort(table.Codes)
	slices.Sort(codes)
	if !slices.Equal(codes, table.Codes) {
		t.Errorf("codes: %v", codes)
	}
	slices.Sort(reasons)
	if !slices.Equal(reasons, slices.Sorted(maps.Keys(table.Reasons))) {
		t.Errorf("reasons: %v", reasons)
	}
}

type retryTable struct {
	Title    string `json:"title"`
	Defaults struct {
		TimeoutMS float64 `json:"timeout_ms"`
		Retries   int     `json:"retries"`
		BaseMS    float64 `json:"base_ms"`
		Factor    int     `json:"factor"`
		CapMS     float64 `json:"cap_ms"`
	} `json:"defaults"`
	Cases []retryCase `json:"cases"`
}

type retryCase struct {
	Title           string    `json:"title"`
	Call            string    `json:"call"`
	ExpectedVersion *int32    `json:"expected_version"`
	TimeoutMS       float64   `json:"timeout_ms"`
	Retries         *int      `json:"retries"`
	Attempts        []attempt `json:"attempts"`
	Random          []float64 `json:"random"`
	PausesMS        []float64 `json:"pauses_ms"`
	Error           *outcome  `json:"error"`
}

type attempt struct {
	Drop        bool    `json:"drop"`
	Status      int     `json:"status"`
	Code        string  `json:"code"`
	Reason      string  `json:"reason"`
	RetryAfter  *string `json:"retry_after"`
	RetryInfoMS float64 `json:"retry_info_ms"`
	TakesMS     float64 `json:"takes_ms"`
}

// script is an [http.RoundTripper] that gives the responses of a case.
type script struct {
	clock    *fakeClock
	attempts []attempt
	sent     int
}

func (s *script) RoundTrip(request *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, request.Body)
	s.sent++
	if s.sent > len(s.attempts) {
		return nil, errors.New("more requests than the case has attempts")
	}
	a := s.attempts[s.sent-1]
	s.clock.pass(ms(a.TakesMS))
	if a.Drop {
		return nil, io.ErrUnexpectedEOF
	}
	httpResponse := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: request, ProtoMajor: 1, ProtoMinor: 1}
	httpResponse.Header.Set("Content-Type", "application/proto")
	body := ""
	if a.Status != 0 {
		httpResponse.StatusCode = a.Status
		httpResponse.Header.Set("Content-Type", "application/json")
		if a.RetryAfter != nil {
			httpResponse.Header["Retry-After"] = []string{*a.RetryAfter}
		}
		body = a.body()
	}
	httpResponse.Body = io.NopCloser(strings.NewReader(body))
	return httpResponse, nil
}

func (a attempt) body() string {
	details := []map[string]string{}
	add := func(message proto.Message) {
		bytes, _ := proto.Marshal(message)
		name := string(message.ProtoReflect().Descriptor().FullName())
		details = append(details, map[string]string{"type": name, "value": base64.RawStdEncoding.EncodeToString(bytes)})
	}
	if a.Reason != "" {
		add(&errdetails.ErrorInfo{Reason: a.Reason, Domain: "agentrouter.secret.v1"})
	}
	if a.RetryInfoMS > 0 {
		add(&errdetails.RetryInfo{RetryDelay: durationpb.New(ms(a.RetryInfoMS))})
	}
	body, _ := json.Marshal(map[string]any{"code": a.Code, "message": "No.", "details": details})
	return string(body)
}

func TestRetries(t *testing.T) {
	table := readTable[retryTable](t, "retry.json")
	d := table.Defaults
	if d.TimeoutMS != float64(DefaultTimeout.Milliseconds()) || d.Retries != DefaultRetries || ms(d.BaseMS) != basePause ||
		d.Factor != pauseFactor || ms(d.CapMS) != pauseCap {
		t.Errorf("the defaults are not %+v", d)
	}
	for _, c := range table.Cases {
		t.Run(c.Title, func(t *testing.T) { runRetryCase(t, c) })
	}
}

func runRetryCase(t *testing.T, c retryCase) {
	server := &script{clock: newFakeClock(), attempts: c.Attempts}
	options := []Option{WithHTTPClient(&http.Client{Transport: server})}
	if c.TimeoutMS > 0 {
		options = append(options, WithTimeout(ms(c.TimeoutMS)))
	}
	if c.Retries != nil {
		options = append(options, WithRetries(*c.Retries))
	}
	client := newClient(t, "http://127.0.0.1:1", options...).Secret()
	var pauses []float64
	client.caller.now = server.clock.now
	client.caller.random = func() float64 { return c.Random[len(pauses)] }
	client.caller.sleep = func(_ context.Context, pause time.Duration) error {
		pauses = append(pauses, float64(pause)/float64(time.Millisecond))
		server.clock.pass(pause)
		return nil
	}
	checkOutcome(t, c.Error, client.byName(t, c.Call, c.ExpectedVersion))
	if server.sent != len(c.Attempts) {
		t.Errorf("%d requests, not %d", server.sent, len(c.Attempts))
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 0.001 }
	if !slices.EqualFunc(pauses, c.PausesMS, near) {
		t.Errorf("pauses of %v ms, not %v", pauses, c.PausesMS)
	}
}

// byName makes the call of that name.
func (x *SecretClient) byName(t *testing.T, name string, version *int32) (err error) {
	ctx := t.Context()
	switch name {
	case "CreateSecret":
		_, err = x.CreateSecret(ctx, &secretv1.CreateSecretRequest{ExpectedVersion: version})
	case "GetSecret":
		_, err = x.GetSecret(ctx, &secretv1.GetSecretRequest{})
	case "ListSecrets":
		_, err = x.ListSecrets(ctx, &secretv1.ListSecretsRequest{})
	case "DeleteSecret":
		_, err = x.DeleteSecret(ctx, &secretv1.DeleteSecretRequest{})
	case "RotateSecret":
		_, err = x.RotateSecret(ctx, &secretv1.RotateSecretRequest{ExpectedVersion: version})
	case "ValidateSecret":
		_, err = x.ValidateSecret(ctx, &secretv1.ValidateSecretRequest{})
	case "GetSecretValue":
		_, err = x.GetSecretValue(ctx, &secretv1.GetSecretValueRequest{})
	default:
		t.Fatalf("unknown call %s", name)
	}
	return err
}

type cacheTable struct {
	Title    string `json:"title"`
	Defaults struct {
		MaxAgeMS   float64 `json:"max_age_ms"`
		MaxStaleMS float64 `json:"max_stale_ms"`
		MaxEntries int     `json:"max_entries"`
		DelayMS    float64 `json:"delay_ms"`
	} `json:"defaults"`
	Cases []cacheCase `json:"cases"`
}

type cacheCase struct {
	Title string `json:"title"`
	Cache struct {
		MaxAgeMS   *float64 `json:"max_age_ms"`
		MaxStaleMS *float64 `json:"max_stale_ms"`
		MaxEntries *int     `json:"max_entries"`
	} `json:"cache"`
	Steps []struct {
		PassMS   float64   `json:"pass_ms"`
		Server   *response `json:"server"`
		Get      string    `json:"get"`
		Value    string    `json:"value"`
		Error    *outcome  `json:"error"`
		Forget   string    `json:"forget"`
		Requests int       `json:"requests"`
	} `json:"steps"`
}

// response is what the server of a case responds to every request. A silent one holds requests until the next comes.
type response struct {
	silent       bool
	Value        *string `json:"value"`
	Code         Code    `json:"code"`
	Reason       string  `json:"reason"`
	RetryAfterMS float64 `json:"retry_after_ms"`
	TakesMS      float64 `json:"takes_ms"`
}

func (s *response) UnmarshalJSON(text []byte) error {
	if string(text) == `"silent"` {
		s.silent = true
		return nil
	}
	type plain response
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	return decoder.Decode((*plain)(s))
}

// cacheServer responds as the last step says.
type cacheServer struct {
	clock    *fakeClock
	mu       sync.Mutex
	changed  *sync.Cond
	response *response
	requests int
	held     int
}

func (s *cacheServer) fetch(context.Context, *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.held++
	s.changed.Broadcast()
	for s.response.silent {
		s.changed.Wait()
	}
	s.held--
	s.clock.pass(ms(s.response.TakesMS))
	if s.response.Value != nil {
		return &secretv1.GetSecretValueResponse{Value: *s.response.Value}, nil
	}
	return nil, &Error{Code: s.response.Code, Reason: s.response.Reason, RetryAfter: ms(s.response.RetryAfterMS)}
}

// settle waits until each request in flight is done, or held by a silent server.
func (s *cacheServer) settle(cache *Secrets) {
	for _, f := range flights(cache) {
		s.mu.Lock()
		silent := s.response.silent
		for silent && s.held == 0 {
			s.changed.Wait()
		}
		s.mu.Unlock()
		if !silent {
			<-f.done
		}
	}
}

func flights(cache *Secrets) (all []*flight) {
	cache.mu.Lock()
	defer cache.mu.Unlock()
	for _, e := range cache.entries {
		if e.flight != nil {
			all = append(all, e.flight)
		}
	}
	return all
}

func TestTheCache(t *testing.T) {
	table := readTable[cacheTable](t, "cache.json")
	d := table.Defaults
	if ms(d.MaxAgeMS) != DefaultMaxAge || ms(d.MaxStaleMS) != DefaultMaxStale || d.MaxEntries != DefaultMaxEntries ||
		ms(d.DelayMS) != refreshDelay {
		t.Errorf("the defaults are not %+v", d)
	}
	for _, c := range table.Cases {
		t.Run(c.Title, func(t *testing.T) { runCacheCase(t, c) })
	}
}

func runCacheCase(t *testing.T, c cacheCase) {
	server := &cacheServer{clock: newFakeClock()}
	server.changed = sync.NewCond(&server.mu)
	var options []SecretsOption
	if c.Cache.MaxAgeMS != nil {
		options = append(options, WithMaxAge(ms(*c.Cache.MaxAgeMS)))
	}
	if c.Cache.MaxStaleMS != nil {
		options = append(options, WithMaxStale(ms(*c.Cache.MaxStaleMS)))
	}
	if c.Cache.MaxEntries != nil {
		options = append(options, WithMaxEntries(*c.Cache.MaxEntries))
	}
	cache := newSecrets(server.fetch, options)
	cache.now = server.clock.now
	defer cache.Close()
	for index, step := range c.Steps {
		server.clock.pass(ms(step.PassMS))
		if step.Server != nil {
			server.mu.Lock()
			server.response = step.Server
			server.changed.Broadcast()
			server.mu.Unlock()
		}
		if step.Forget != "" {
			cache.Forget(step.Forget, "", "")
		}
		if step.Get != "" {
			value, err := cache.Get(t.Context(), step.Get, "", "")
			checkOutcome(t, step.Error, err)
			if value != step.Value {
				t.Fatalf("step %d: the value is %q, not %q", index+1, value, step.Value)
			}
		}
		server.settle(cache)
		server.mu.Lock()
		requests := server.requests
		server.mu.Unlock()
		if step.Get != "" && requests != step.Requests {
			t.Fatalf("step %d: %d requests, not %d", index+1, requests, step.Requests)
		}
	}
}
