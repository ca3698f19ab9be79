package agentrouter

import (
	"context"
	"fmt"
	"io"
	"iter"

	"google.golang.org/protobuf/proto"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
	"github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1/secretv1connect"
)

// What Secret.Status may say, and ListSecretsRequest.Status may ask for.
const (
	// StatusActive is the version that a read gets.
	StatusActive = "active"
	// StatusRotatedPending was replaced by a rotation and is readable by its number until its grace is over.
	StatusRotatedPending = "rotated_pending"
	// StatusRetired is readable no more.
	StatusRetired = "retired"
	// StatusAny is all of them; in requests only.
	StatusAny = "any"
)

// SecretClient is the secret service. Every call may fail with an [*Error].
type SecretClient struct {
	rpc     secretv1connect.SecretServiceClient
	baseURL string
	caller  caller
}

// CreateSecret creates a secret, or updates the one of that owner, realm and name.
//
// It is made again after a failure only if ExpectedVersion is set. If the first try was done although its answer got
// lost, the second is refused with VERSION_MISMATCH.
func (x *SecretClient) CreateSecret(ctx context.Context, req *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
	return call(ctx, &x.caller, req != nil && req.ExpectedVersion != nil, req, x.rpc.CreateSecret)
}

// GetSecret reads the metadata of a secret's active version.
func (x *SecretClient) GetSecret(ctx context.Context, req *secretv1.GetSecretRequest) (*secretv1.GetSecretResponse, error) {
	return call(ctx, &x.caller, true, req, x.rpc.GetSecret)
}

// ListSecrets lists one page of metadata; [SecretClient.AllSecrets] walks over all of them.
func (x *SecretClient) ListSecrets(ctx context.Context, req *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error) {
	return call(ctx, &x.caller, true, req, x.rpc.ListSecrets)
}

// DeleteSecret deletes a secret with all its versions. It is never made again after a failure.
func (x *SecretClient) DeleteSecret(ctx context.Context, req *secretv1.DeleteSecretRequest) (*secretv1.DeleteSecretResponse, error) {
	return call(ctx, &x.caller, false, req, x.rpc.DeleteSecret)
}

// RotateSecret gives a secret a new active version and leaves the one before it readable for a grace period.
//
// It is made again after a failure only if ExpectedVersion is set, as [SecretClient.CreateSecret].
func (x *SecretClient) RotateSecret(ctx context.Context, req *secretv1.RotateSecretRequest) (*secretv1.RotateSecretResponse, error) {
	return call(ctx, &x.caller, req != nil && req.ExpectedVersion != nil, req, x.rpc.RotateSecret)
}

// ValidateSecret tries whether the stored bytes of a secret still open. That one does not is an answer with Valid false.
func (x *SecretClient) ValidateSecret(ctx context.Context, req *secretv1.ValidateSecretRequest) (*secretv1.ValidateSecretResponse, error) {
	return call(ctx, &x.caller, true, req, x.rpc.ValidateSecret)
}

// GetSecretValue reads the plaintext of a secret. For internal services: it needs the scope secrets/read/internal.
// [Secrets] keeps what it answers for a while.
func (x *SecretClient) GetSecretValue(ctx context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	return call(ctx, &x.caller, true, req, x.rpc.GetSecretValue)
}

// SecretPages walks over the pages of a list, from req.PageToken on, req.PageSize secrets at a time, one call a page.
//
// A call that fails is the last of the walk: a nil page with its error. The request is not changed.
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

// AllSecrets walks over all secrets of a list, from req.PageToken on, req.PageSize at a time:
//
//	for secret, err := range client.Secret().AllSecrets(ctx, &secretv1.ListSecretsRequest{Realm: "mcp"}) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(secret.GetName())
//	}
//
// A call that fails is the last of the walk: a nil secret with its error. The request is not changed.
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
