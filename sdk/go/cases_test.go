package agentrouter

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

var runCases = flag.Bool("cases", false, "run the cases of AGENTROUTER_CASES against the server of AGENTROUTER_BASE_URL")

// tables are the files of sdk/cases that need no server; tables_test.go runs them.
var tables = []string{"cache.json", "errors.json", "fakes.json", "proxy.json", "retry.json"}

// scenario and step are as sdk/cases/README.md has them.
type scenario struct {
	Title   string `json:"title"`
	SDKOnly bool   `json:"sdk_only"`
	Steps   []step `json:"steps"`
}

type step struct {
	Title    string            `json:"title"`
	Call     string            `json:"call"`
	As       string            `json:"as"`
	Request  any               `json:"request"`
	Repeat   int               `json:"repeat"`
	AllPages bool              `json:"all_pages"`
	Expect   any               `json:"expect"`
	Error    *failure          `json:"error"`
	Capture  map[string]string `json:"capture"`
	Client   struct {
		TimeoutMS int  `json:"timeout_ms"`
		Retries   *int `json:"retries"`
	} `json:"client"`
	Faults   []string `json:"faults"`
	Attempts int      `json:"attempts"`
	LeastMS  int      `json:"least_ms"`
}

type failure struct {
	Code          Code     `json:"code"`
	Reason        string   `json:"reason"`
	Fields        []string `json:"fields"`
	BeforeRequest bool     `json:"before_request"`
}

func TestCases(t *testing.T) {
	if !*runCases {
		// Without a server there is nothing to run them against; `go test -cases` never gets here.
		t.Skip("run with -cases and the environment of sdk/cases/README.md")
	}
	folder, base := needEnv(t, "AGENTROUTER_CASES"), needEnv(t, "AGENTROUTER_BASE_URL")
	if os.Getenv("AGENTROUTER_API_KEY") != "" {
		t.Fatal("AGENTROUTER_API_KEY is set, so that the role 'none' would have a key")
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in %s: %v", folder, err)
	}
	for _, file := range files {
		if slices.Contains(tables, filepath.Base(file)) {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s scenario
			decoder := json.NewDecoder(strings.NewReader(string(content)))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&s); err != nil || len(s.Steps) == 0 {
				t.Fatalf("not a scenario: %v", err)
			}
			runScenario(t, base, s)
		})
	}
}

func needEnv(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set", name)
	}
	return value
}

// keyOf is the key of a role; empty for "none".
func keyOf(t *testing.T, role string) string {
	t.Helper()
	switch role {
	case "none":
		return ""
	case "unknown":
		return strings.Repeat("0", keyIDLength) + "_" + strings.Repeat("0", keySecretLength)
	case "malformed":
		key := needEnv(t, "AGENTROUTER_KEY_ADMIN")
		return key[:len(key)-1]
	case "admin", "reader", "writer", "internal", "limited", "other", "revoked":
		return needEnv(t, "AGENTROUTER_KEY_"+strings.ToUpper(role))
	}
	t.Fatalf("there is no role %q", role)
	return ""
}

func runScenario(t *testing.T, base string, s scenario) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	run := make([]byte, 8)
	for i := range run {
		run[i] = letters[rand.IntN(len(letters))]
	}
	texts := texts{"run": string(run)}
	clients := map[string]*Client{}
	for index, step := range s.Steps {
		if step.Title == "" {
			step.Title = step.Call
		}
		if step.As == "" {
			step.As = "admin"
		}
		var err error
		if step.Repeat > 0 {
			err = runRepeated(t, base, clients, step, texts)
		} else {
			err = runStep(t, base, clients, step, texts)
		}
		if err != nil {
			t.Fatalf("%s, step %d, %s: %v", s.Title, index+1, step.Title, err)
		}
	}
}

// runRepeated makes the calls of a step, several at once.
func runRepeated(t *testing.T, base string, clients map[string]*Client, step step, v texts) error {
	if step.Capture != nil || step.Faults != nil {
		return errors.New("a repeated step has neither captures nor faults")
	}
	numbers, failures := make(chan int), make(chan error, step.Repeat)
	client, err := newCaseClient(t, base, clients, step)
	if err != nil {
		return err
	}
	var workers sync.WaitGroup
	for range 8 {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := range numbers {
				mine := maps.Clone(v)
				mine["i"] = fmt.Sprintf("%04d", i)
				if err := makeCall(t, client, nil, step, mine); err != nil {
					failures <- fmt.Errorf("number %d: %w", i, err)
				}
			}
		}()
	}
	for i := range step.Repeat {
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

// newCaseClient is the client of a role, made once, or one of its own for a step with settings.
func newCaseClient(t *testing.T, base string, clients map[string]*Client, step step) (*Client, error) {
	options := []Option{WithBaseURL(base), WithAPIKey(keyOf(t, step.As))}
	shared := step.Faults == nil
	if step.Client.TimeoutMS > 0 {
		shared, options = false, append(options, WithTimeout(time.Duration(step.Client.TimeoutMS)*time.Millisecond))
	}
	if step.Client.Retries != nil {
		shared, options = false, append(options, WithRetries(*step.Client.Retries))
	}
	if client := clients[step.As]; shared && client != nil {
		return client, nil
	}
	client, err := New(t.Context(), options...)
	if err == nil && shared {
		clients[step.As] = client
	}
	return client, err
}

func runStep(t *testing.T, base string, clients map[string]*Client, step step, texts texts) error {
	var proxy *faultProxy
	if step.Faults != nil {
		proxy = newFaultProxy(t, base, step.Faults)
		base = proxy.url
	}
	client, err := newCaseClient(t, base, clients, step)
	if err != nil {
		return checkConfigError(err, step.Error, keyOf(t, step.As))
	}
	return makeCall(t, client, proxy, step, texts)
}

func makeCall(t *testing.T, client *Client, proxy *faultProxy, step step, texts texts) error {
	request, err := texts.resolve(step.Request)
	if err != nil {
		return err
	}
	if request == nil {
		request = map[string]any{}
	}
	start := time.Now()
	response, err := invoke(t.Context(), client.Secret(), step, request)
	took := time.Since(start)
	if proxy != nil && proxy.count() != step.Attempts {
		return fmt.Errorf("%d attempts, not %d (%v)", proxy.count(), step.Attempts, err)
	}
	if least := time.Duration(step.LeastMS) * time.Millisecond; took < least {
		return fmt.Errorf("took %v, less than %v", took, least)
	}
	if err != nil {
		return checkError(err, step.Error, keyOf(t, step.As), request)
	}
	if step.Error != nil {
		return fmt.Errorf("succeeded, in place of %s (%s)", step.Error.Code, step.Error.Reason)
	}
	return checkResponse(response, step, texts)
}

func checkResponse(response any, step step, texts texts) error {
	pattern, err := texts.resolve(step.Expect)
	if err != nil {
		return err
	}
	if pattern != nil {
		if err := match("response", pattern, response); err != nil {
			return err
		}
	}
	for name, path := range step.Capture {
		value := response
		for key := range strings.SplitSeq(path, ".") {
			object, _ := value.(map[string]any)
			value = object[key]
		}
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("no text at %s", path)
		}
		texts[name] = text
	}
	return nil
}

func checkConfigError(err error, want *failure, key string) error {
	var config *ConfigError
	if want == nil || !want.BeforeRequest || !errors.As(err, &config) {
		return err
	}
	return checkSilence(err, key, nil)
}

func checkError(err error, want *failure, key string, request any) error {
	var e *Error
	if !errors.As(err, &e) {
		return fmt.Errorf("not an *Error: %T %w", err, err)
	}
	if want == nil || want.BeforeRequest || e.Code != want.Code || e.Reason != want.Reason {
		return fmt.Errorf("got %w; want %+v", err, want)
	}
	fields := []string{}
	for _, violation := range e.FieldViolations {
		fields = append(fields, violation.Field)
	}
	slices.Sort(fields)
	if expected := slices.Sorted(slices.Values(want.Fields)); !slices.Equal(fields, expected) {
		return fmt.Errorf("fields %v, not %v", fields, expected)
	}
	return checkSilence(err, key, request)
}

// checkSilence makes sure that nothing printed of an error has the key or a value in it.
func checkSilence(err error, key string, request any) error {
	var shown strings.Builder
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		fmt.Fprintf(&shown, "%v %+v %#v %s\n", cause, cause, cause, cause.Error())
	}
	_, secret, _ := strings.Cut(key, "_")
	banned := []string{secret}
	object, _ := request.(map[string]any)
	for _, field := range []string{"value", "new_value"} {
		value, _ := object[field].(string)
		banned = append(banned, value)
	}
	for _, text := range banned {
		if len(text) >= 8 && strings.Contains(shown.String(), text) {
			return errors.New("the error has the key or a value in it")
		}
	}
	return nil
}

// invoke makes the call and gives the response as JSON, with proto names and default values.
func invoke(ctx context.Context, client *SecretClient, step step, request any) (any, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if step.AllPages {
		if step.Call != "ListSecrets" {
			return nil, errors.New("all_pages is for ListSecrets only")
		}
		req, all := &secretv1.ListSecretsRequest{}, []any{}
		if err := protojson.Unmarshal(text, req); err != nil {
			return nil, err
		}
		for secret, err := range client.AllSecrets(ctx, req) {
			if err != nil {
				return nil, err
			}
			object, err := asJSON(secret)
			if err != nil {
				return nil, err
			}
			all = append(all, object)
		}
		return map[string]any{"secrets": all}, nil
	}
	switch step.Call {
	case "CreateSecret":
		return one(ctx, text, &secretv1.CreateSecretRequest{}, client.CreateSecret)
	case "GetSecret":
		return one(ctx, text, &secretv1.GetSecretRequest{}, client.GetSecret)
	case "ListSecrets":
		return one(ctx, text, &secretv1.ListSecretsRequest{}, client.ListSecrets)
	case "DeleteSecret":
		return one(ctx, text, &secretv1.DeleteSecretRequest{}, client.DeleteSecret)
	case "RotateSecret":
		return one(ctx, text, &secretv1.RotateSecretRequest{}, client.RotateSecret)
	case "ValidateSecret":
		return one(ctx, text, &secretv1.ValidateSecretRequest{}, client.ValidateSecret)
	case "GetSecretValue":
		return one(ctx, text, &secretv1.GetSecretValueRequest{}, client.GetSecretValue)
	}
	return nil, fmt.Errorf("there is no call %q", step.Call)
}

func one[Q, A proto.Message](ctx context.Context, text []byte, req Q, send func(context.Context, Q) (A, error)) (any, error) {
	if err := protojson.Unmarshal(text, req); err != nil {
		return nil, err
	}
	response, err := send(ctx, req)
	if err != nil {
		return nil, err
	}
	return asJSON(response)
}

func asJSON(message proto.Message) (value any, err error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	return value, json.Unmarshal(text, &value)
}
