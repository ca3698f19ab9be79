package agentrouter

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
	"github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1/secretv1connect"
)

// The values of Secret.Status and ListSecretsRequest.Status.
const (
	// StatusActive is the version that reads return.
	StatusActive = "active"
	// StatusRotatedPending was replaced by a rotation. It is readable by its number until its grace period ends.
	StatusRotatedPending = "rotated_pending"
	// StatusRetired is no longer readable.
	StatusRetired = "retired"
	// StatusAny is all of them. In requests only.
	StatusAny = "any"
)

// SecretClient is the secret service. Every call may fail with an [*Error].
type SecretClient struct {
	rpc     secretv1connect.SecretServiceClient
	baseURL string
	caller  caller
}

// CallOption is a setting of the calls of [SecretClient.With].
type CallOption func(*caller) error

// CallTimeout sets the time limit of a call, with its retries and pauses. It may be longer than that of [WithTimeout].
func CallTimeout(timeout time.Duration) CallOption {
	return func(c *caller) error {
		c.timeout = timeout
		return checkTimeout(timeout)
	}
}

// CallRetries sets the number of retries of a call that may be retried. 0 turns retries off.
func CallRetries(retries int) CallOption {
	return func(c *caller) error {
		c.retries = retries
		return checkRetries(retries)
	}
}

// With returns a client with other settings, over the same connections:
//
//	client.Secret().With(agentrouter.CallTimeout(time.Second), agentrouter.CallRetries(0)).GetSecret(ctx, req)
//
// With an invalid setting, each call fails with a [*ConfigError]. For headers of a request or a response, use a context of
// [connect.NewClientContext].
func (x *SecretClient) With(options ...CallOption) *SecretClient {
	with := *x
	for _, option := range options {
		if err := option(&with.caller); err != nil && with.caller.invalid == nil {
			with.caller.invalid = err
		}
	}
	return &with
}

// CreateSecret creates a secret, or updates the one of that owner, realm and name.
//
// It is retried only if ExpectedVersion is set. If the first attempt was made and its response was lost, the second is
// rejected with VERSION_MISMATCH.
func (x *SecretClient) CreateSecret(ctx context.Context, req *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
	return call(ctx, &x.caller, "CreateSecret", req != nil && req.ExpectedVersion != nil, req, x.rpc.CreateSecret)
}

// GetSecret reads the metadata of a secret's active version.
func (x *SecretClient) GetSecret(ctx context.Context, req *secretv1.GetSecretRequest) (*secretv1.GetSecretResponse, error) {
	return call(ctx, &x.caller, "GetSecret", true, req, x.rpc.GetSecret)
}

// ListSecrets lists one page of metadata. [SecretClient.AllSecrets] iterates over all pages.
func (x *SecretClient) ListSecrets(ctx context.Context, req *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error) {
	return call(ctx, &x.caller, "ListSecrets", true, req, x.rpc.ListSecrets)
}

// DeleteSecret deletes a secret with all its versions. It is never retried.
func (x *SecretClient) DeleteSecret(ctx context.Context, req *secretv1.DeleteSecretRequest) (*secretv1.DeleteSecretResponse, error) {
	return call(ctx, &x.caller, "DeleteSecret", false, req, x.rpc.DeleteSecret)
}

// RotateSecret gives a secret a new active version. The previous version stays readable for a grace period.
//
// It is retried only if ExpectedVersion is set, as [SecretClient.CreateSecret].
func (x *SecretClient) RotateSecret(ctx context.Context, req *secretv1.RotateSecretRequest) (*secretv1.RotateSecretResponse, error) {
	return call(ctx, &x.caller, "RotateSecret", req != nil && req.ExpectedVersion != nil, req, x.rpc.RotateSecret)
}

// ValidateSecret checks that the stored bytes of a secret can be opened. If not, the response has Valid false.
func (x *SecretClient) ValidateSecret(ctx context.Context, req *secretv1.ValidateSecretRequest) (*secretv1.ValidateSecretResponse, error) {
	return call(ctx, &x.caller, "ValidateSecret", true, req, x.rpc.ValidateSecret)
}

// GetSecretValue reads the value of a secret. For internal services. It needs the scope secrets/read/internal.
// [Client.Cache] is a cache of values.
func (x *SecretClient) GetSecretValue(ctx context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	return call(ctx, &x.caller, "GetSecretValue", true, req, x.rpc.GetSecretValue)
}

// SecretPages iterates over the pages of a list, starting at req.PageToken, with one call for each page of req.PageSize
// secrets.
//
// The iteration ends at an error: it yields a nil page with the error. The request is not changed.
func (x *SecretClient) SecretPages(ctx context.Context, req *secretv1.ListSecretsRequest) iter.Seq2[*secretv1.ListSecretsResponse, error] {
	return func(yield func(*secretv1.ListSecretsResponse, error) bool) {
		next := &secretv1.ListSecretsRequest{}
		proto.Merge(next, req)
		for {
			page, err := x.ListSecrets(ctx, next)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(page, nil) || page.GetNextPageToken() == "" {
				return
			}
			next.PageToken = page.GetNextPageToken()
		}
	}
}

// AllSecrets iterates over all secrets of a list, starting at req.PageToken, req.PageSize in each call:
//
//	for secret, err := range client.Secret().AllSecrets(ctx, &secretv1.ListSecretsRequest{Realm: "mcp"}) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(secret.GetName())
//	}
//
// The iteration ends at an error: it yields a nil secret with the error. The request is not changed.
func (x *SecretClient) AllSecrets(ctx context.Context, req *secretv1.ListSecretsRequest) iter.Seq2[*secretv1.Secret, error] {
	return func(yield func(*secretv1.Secret, error) bool) {
		for page, err := range x.SecretPages(ctx, req) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, secret := range page.GetSecrets() {
				if !yield(secret, nil) {
					return
				}
			}
		}
	}
}

// Format prints the base URL and nothing else, for every verb.
func (x *SecretClient) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "agentrouter.SecretClient("+x.baseURL+")")
}
