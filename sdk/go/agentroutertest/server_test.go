package agentroutertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	agentrouter "github.com/tetrateio/agentrouter-go"
	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

func TestCodeUnderTestReadsStoredValues(t *testing.T) {
	server := New()
	if version := server.Put("llm-keys", "openai-api-key", "sk-1"); version != 1 {
		t.Error(version)
	}
	cache := server.Client().Cache()
	defer cache.Close()
	ref := agentrouter.SecretRef{Name: "openai-api-key", Realm: "llm-keys"}
	if got, err := cache.Read(t.Context(), ref); err != nil || got.Value != "sk-1" || got.Version != 1 {
		t.Errorf("%v, %v", got, err)
	}
	server.Put("llm-keys", "openai-api-key", "sk-2")
	cache.Drop(ref)
	if got, err := cache.Read(t.Context(), ref); err != nil || got.Value != "sk-2" || got.Version != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if calls := server.Calls(); !slices.Equal(calls, []string{"GetSecretValue", "GetSecretValue"}) {
		t.Error(calls)
	}
}

func TestFailMakesTheNextCallsFail(t *testing.T) {
	server := New()
	server.Put("", "n", "v")
	client := server.Client().Secret()
	want := &agentrouter.Error{
		Code: agentrouter.CodeInvalidArgument, Reason: agentrouter.ReasonInvalidRequest, Message: "m", RequestID: "r-1",
		FieldViolations: []agentrouter.FieldViolation{{Field: "name", Description: "must be set"}}, RetryAfter: 3 * time.Second,
	}
	server.Fail(&agentrouter.Error{Code: agentrouter.CodeUnavailable, Reason: agentrouter.ReasonOverloaded}, want)
	_, err := client.GetSecret(t.Context(), &secretv1.GetSecretRequest{Name: "n"})
	var got *agentrouter.Error
	if !errors.As(err, &got) || got.Error() != want.Error() || !slices.Equal(got.FieldViolations, want.FieldViolations) || got.RetryAfter != want.RetryAfter {
		t.Errorf("%v", err)
	}
	if _, err := client.GetSecret(t.Context(), &secretv1.GetSecretRequest{Name: "n"}); err != nil {
		t.Error(err)
	}
	for _, code := range []agentrouter.Code{"UNAVAILBLE", "unavailable", ""} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken", code)
				}
			}()
			server.Fail(&agentrouter.Error{Code: code})
		}()
	}
	if _, err := client.GetSecret(t.Context(), &secretv1.GetSecretRequest{Name: "n"}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.GetSecret(ctx, &secretv1.GetSecretRequest{Name: "n"}); agentrouter.CodeOf(err) != agentrouter.CodeCanceled {
		t.Errorf("%v", err)
	}
}

func TestVersionsFollowTheRulesOfTheService(t *testing.T) {
	server := New()
	now := time.Unix(1_000_000, 0)
	server.store.now = func() time.Time { return now }
	client := server.Client().Secret()
	value := func(version int32) string {
		response, err := client.GetSecretValue(t.Context(), &secretv1.GetSecretValueRequest{Name: "n", Version: version})
		if err != nil {
			return agentrouter.ReasonOf(err)
		}
		return fmt.Sprintf("%s %s %d", response.GetValue(), response.GetSecret().GetStatus(), response.GetSecret().GetVersion())
	}
	expected := func(version int32) *int32 { return &version }
	create := func(req *secretv1.CreateSecretRequest) string {
		req.Name = "n"
		response, err := client.CreateSecret(t.Context(), req)
		if err != nil {
			return agentrouter.ReasonOf(err)
		}
		return fmt.Sprintf("%d %s", response.GetSecret().GetVersion(), response.GetSecret().GetDescription())
	}
	for i, step := range []struct{ got, want string }{
		{create(&secretv1.CreateSecretRequest{}), "INVALID_REQUEST"},
		{create(&secretv1.CreateSecretRequest{Value: "a", ExpectedVersion: expected(1)}), "VERSION_MISMATCH"},
		{create(&secretv1.CreateSecretRequest{Value: "a", Description: "d", ExpectedVersion: expected(0)}), "1 d"},
		{create(&secretv1.CreateSecretRequest{Value: "b"}), "2 d"},
		{value(1), "SECRET_NOT_FOUND"},
		{create(&secretv1.CreateSecretRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}}), "2 "},
		{value(0), "b active 2"},
	} {
		if step.got != step.want {
			t.Errorf("step %d: %s, not %s", i, step.got, step.want)
		}
	}
	rotated, err := client.RotateSecret(t.Context(), &secretv1.RotateSecretRequest{
		Name: "n", NewValue: "c", ExpectedVersion: expected(2), GracePeriod: durationpb.New(time.Minute),
	})
	if err != nil || rotated.GetSecret().GetVersion() != 3 || value(0) != "c active 3" || value(2) != "b rotated_pending 2" {
		t.Errorf("%v, %v", rotated, err)
	}
	now = now.Add(time.Minute)
	if value(2) != "SECRET_NOT_FOUND" || value(3) != "c active 3" {
		t.Error("a version is readable after its grace period")
	}
	if valid, err := client.ValidateSecret(t.Context(), &secretv1.ValidateSecretRequest{Name: "n"}); err != nil || !valid.GetValid() {
		t.Errorf("%v, %v", valid, err)
	}
	if done, err := client.DeleteSecret(t.Context(), &secretv1.DeleteSecretRequest{Name: "n"}); err != nil || !done.GetSuccess() {
		t.Errorf("%v, %v", done, err)
	}
	if _, err := client.DeleteSecret(t.Context(), &secretv1.DeleteSecretRequest{Name: "n"}); !agentrouter.IsSecretNotFound(err) {
		t.Errorf("%v", err)
	}
}

func TestListsHaveFiltersAndPages(t *testing.T) {
	server := New()
	client := server.Client().Secret()
	for _, name := range []string{"c", "a", "b"} {
		_, err := client.CreateSecret(t.Context(), &secretv1.CreateSecretRequest{Name: name, Value: "v", Tags: map[string]string{"n": name}})
		if err != nil {
			t.Fatal(err)
		}
	}
	server.Put("mcp", "z", "v1")
	server.Put("mcp", "z", "v2")
	list := func(req *secretv1.ListSecretsRequest) string {
		var rows []string
		for secret, err := range client.AllSecrets(t.Context(), req) {
			if err != nil {
				return agentrouter.ReasonOf(err)
			}
			rows = append(rows, fmt.Sprint(secret.GetName(), secret.GetVersion()))
		}
		return strings.Join(rows, " ")
	}
	for _, test := range []struct {
		req  *secretv1.ListSecretsRequest
		want string
	}{
		{&secretv1.ListSecretsRequest{PageSize: 2}, "a1 b1 c1 z2"},
		{&secretv1.ListSecretsRequest{Realm: "mcp", Status: agentrouter.StatusAny}, "z1 z2"},
		{&secretv1.ListSecretsRequest{Status: agentrouter.StatusRetired}, "z1"},
		{&secretv1.ListSecretsRequest{Tags: map[string]string{"n": "b"}}, "b1"},
		{&secretv1.ListSecretsRequest{NamePrefix: "c"}, "c1"},
		{&secretv1.ListSecretsRequest{PageToken: "x"}, "PAGE_TOKEN_INVALID"},
		{&secretv1.ListSecretsRequest{PageSize: -1}, "INVALID_REQUEST"},
	} {
		if got := list(test.req); got != test.want {
			t.Errorf("%v: %s, not %s", test.req, got, test.want)
		}
	}
}
