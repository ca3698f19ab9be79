package agentrouter

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"

	"github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1/secretv1connect"
)

// maxResponse is the largest response that is read, in bytes. It exceeds the largest page of a list.
const maxResponse = 64 << 20

// Client is a client of AgentRouter. It is safe for concurrent use. One client per program is enough: it keeps a pool of
// connections. Its printed form does not contain the key.
type Client struct {
	secret *SecretClient
}

// New checks the settings and makes a client. It sends no request. It fails if ctx is done.
//
// Base URL and key come from AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY unless options set them. The error is a
// [*ConfigError] when a setting is missing or malformed.
func New(ctx context.Context, options ...Option) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := newConfig(options)
	if err != nil {
		return nil, err
	}
	rpc := secretv1connect.NewSecretServiceClient(
		c.httpClient,
		c.baseURL,
		connect.WithInterceptors(append(c.interceptors, userAgent(c.userAgent))...),
		connect.WithReadMaxBytes(maxResponse),
	)
	shown := c.baseURL
	if c.socket != "" {
		shown = "unix:" + c.socket
	}
	return &Client{secret: &SecretClient{
		rpc:     rpc,
		baseURL: shown,
		caller:  newCaller(c.timeout, c.retries, c.logger),
	}}, nil
}

// Secret is the secret service: the seven calls. [Client.Cache] is a cache over one of them, GetSecretValue.
func (c *Client) Secret() *SecretClient { return c.secret }

// Format prints the base URL and nothing else, for every verb.
func (c *Client) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "agentrouter.Client("+c.secret.baseURL+")")
}

// userAgent sets the User-Agent of every request.
func userAgent(product string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("User-Agent", product)
			return next(ctx, req)
		}
	}
}
