package agentroutertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	agentrouter "github.com/tetrateio/agentrouter-go"
	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

type step struct {
	Put      *struct{ Realm, Name, Value string }
	Fail     *failure
	Call     string
	Request  json.RawMessage
	Expect   map[string]any
	Error    *failure
	Requests int
}

type failure struct {
	Code         agentrouter.Code
	Reason       string
	RetryAfterMS int64 `json:"retry_after_ms"`
	Fields       []string
}

// TestFakesTable runs fakes.json of sdk/cases.
func TestFakesTable(t *testing.T) {
	var table struct {
		Title string
		Cases []struct {
			Title string
			Steps []step
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "cases", "fakes.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &table); err != nil || len(table.Cases) == 0 {
		t.Fatal(err)
	}
	for _, c := range table.Cases {
		t.Run(c.Title, func(t *testing.T) {
			server := New()
			client := server.Client().Secret()
			for i, step := range c.Steps {
				if err := step.run(t.Context(), server, client); err != nil {
					t.Fatalf("step %d: %v", i+1, err)
				}
			}
		})
	}
}

func (s step) run(ctx context.Context, server *Server, client *agentrouter.SecretClient) error {
	if s.Put != nil {
		server.Put(s.Put.Realm, s.Put.Name, s.Put.Value)
	}
	if s.Fail != nil {
		server.Fail(&agentrouter.Error{
			Code: s.Fail.Code, Reason: s.Fail.Reason, RetryAfter: time.Duration(s.Fail.RetryAfterMS) * time.Millisecond,
		})
	}
	if s.Call != "" {
		response, err := invoke(ctx, client, s.Call, s.Request)
		if err := s.check(response, err); err != nil {
			return err
		}
	}
	if got := len(server.Calls()); s.Requests != 0 && got != s.Requests {
		return fmt.Errorf("%d requests, not %d", got, s.Requests)
	}
	return nil
}

func (s step) check(response any, err error) error {
	if s.Error == nil {
		if err != nil {
			return err
		}
		return differs(s.Expect, response, "response")
	}
	var got *agentrouter.Error
	if !errors.As(err, &got) {
		return fmt.Errorf("no error but %v", response)
	}
	found := failure{Code: got.Code, Reason: got.Reason, RetryAfterMS: got.RetryAfter.Milliseconds()}
	for _, violation := range got.FieldViolations {
		found.Fields = append(found.Fields, violation.Field)
	}
	same := found.Code == s.Error.Code && found.Reason == s.Error.Reason && found.RetryAfterMS == s.Error.RetryAfterMS
	if !same || !slices.Equal(found.Fields, s.Error.Fields) || got.RequestID != "fake" {
		return fmt.Errorf("%+v of request %q, not %+v", found, got.RequestID, *s.Error)
	}
	return nil
}

// differs compares a response with a pattern: objects by the keys of the pattern, null with a default value.
func differs(want, got any, path string) error {
	switch want := want.(type) {
	case map[string]any:
		object, _ := got.(map[string]any)
		for key, inner := range want {
			if err := differs(inner, object[key], path+"."+key); err != nil {
				return err
			}
		}
		return nil
	case []any:
		array, _ := got.([]any)
		if len(array) != len(want) {
			return fmt.Errorf("%s has %d elements, not %d", path, len(array), len(want))
		}
		for i := range want {
			if err := differs(want[i], array[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	case nil:
		if object, ok := got.(map[string]any); got != nil && (!ok || len(object) > 0) {
			return fmt.Errorf("%s is %v", path, got)
		}
		return nil
	}
	if want == "$set" && got != nil && got != "" || want == got {
		return nil
	}
	return fmt.Errorf("%s is %v, not %v", path, got, want)
}

func invoke(ctx context.Context, client *agentrouter.SecretClient, call string, request []byte) (any, error) {
	switch call {
	case "CreateSecret":
		return one(ctx, request, &secretv1.CreateSecretRequest{}, client.CreateSecret)
	case "GetSecret":
		return one(ctx, request, &secretv1.GetSecretRequest{}, client.GetSecret)
	case "ListSecrets":
		return one(ctx, request, &secretv1.ListSecretsRequest{}, client.ListSecrets)
	case "DeleteSecret":
		return one(ctx, request, &secretv1.DeleteSecretRequest{}, client.DeleteSecret)
	case "RotateSecret":
		return one(ctx, request, &secretv1.RotateSecretRequest{}, client.RotateSecret)
	case "ValidateSecret":
		return one(ctx, request, &secretv1.ValidateSecretRequest{}, client.ValidateSecret)
	case "GetSecretValue":
		return one(ctx, request, &secretv1.GetSecretValueRequest{}, client.GetSecretValue)
	}
	return nil, fmt.Errorf("there is no call %q", call)
}

func one[Q, A proto.Message](ctx context.Context, text []byte, request Q, send func(context.Context, Q) (A, error)) (any, error) {
	if err := protojson.Unmarshal(text, request); err != nil {
		return nil, err
	}
	response, err := send(ctx, request)
	if err != nil {
		return nil, err
	}
	written, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(response)
	if err != nil {
		return nil, err
	}
	var value any
	err = json.Unmarshal(written, &value)
	return value, err
}
