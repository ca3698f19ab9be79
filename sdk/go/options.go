package agentrouter

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// The defaults of [New].
const (
	// DefaultTimeout is the default of [WithTimeout].
	DefaultTimeout = 10 * time.Second
	// DefaultRetries is the default of [WithRetries].
	DefaultRetries = 2
)

// ConfigError says which setting is missing or malformed. No request was sent. It never contains the key.
type ConfigError struct {
	// Setting is the name of the setting: "base URL", "API key", "timeout", "retries", "user agent" or "CA file".
	Setting string
	// Problem is the rule that it breaks, such as "must begin with http:// or https://".
	Problem string

	cause error
}

// Error returns one sentence.
func (e *ConfigError) Error() string {
	return "agentrouter: the " + e.Setting + " " + e.Problem
}

// Unwrap returns the cause, such as the error of reading a file, or nil.
func (e *ConfigError) Unwrap() error { return e.cause }

// Option is a setting of [New].
type Option func(*config)

type config struct {
	baseURL    string
	apiKey     string
	caFile     string
	userAgent  string
	timeout    time.Duration
	retries    int
	httpClient *http.Client
}

// WithBaseURL sets the URL of the server: http:// or https://, a host, optionally a port and a path prefix. Default, and
// when empty: AGENTROUTER_BASE_URL.
func WithBaseURL(url string) Option { return func(c *config) { c.baseURL = url } }

// WithAPIKey sets the API key, with or without "ak-". Default, and when empty: AGENTROUTER_API_KEY.
func WithAPIKey(key string) Option { return func(c *config) { c.apiKey = key } }

// WithTimeout sets the time limit of a call, with its retries and pauses. A context that ends earlier ends the call
// earlier. Default: 10 seconds.
func WithTimeout(timeout time.Duration) Option { return func(c *config) { c.timeout = timeout } }

// WithRetries sets the number of retries of a read, or of a write with expected_version. Default: 2. 0 turns retries off.
func WithRetries(retries int) Option { return func(c *config) { c.retries = retries } }

// WithHTTPClient sets the HTTP client, for your own proxies, certificates or instrumentation. Its Timeout, if it has one,
// applies to each attempt. Default: one that follows no redirects, which would send values to another server.
func WithHTTPClient(client *http.Client) Option { return func(c *config) { c.httpClient = client } }

// WithCAFile names a PEM file of certificates to trust instead of the system's. It has no effect with WithHTTPClient.
// Default, and when empty: AGENTROUTER_CA_FILE, or the system's certificates.
func WithCAFile(path string) Option { return func(c *config) { c.caFile = path } }

// WithUserAgent names your program and its version, such as "gateway/1.4", before the SDK's own in the User-Agent.
func WithUserAgent(product string) Option { return func(c *config) { c.userAgent = product } }

// newConfig applies the options, reads settings that are not set from the environment, and checks all of them.
func newConfig(options []Option) (*config, error) {
	c := &config{timeout: DefaultTimeout, retries: DefaultRetries}
	for _, option := range options {
		option(c)
	}
	c.baseURL = orEnv(c.baseURL, "AGENTROUTER_BASE_URL")
	c.apiKey = orEnv(c.apiKey, "AGENTROUTER_API_KEY")
	c.caFile = orEnv(c.caFile, "AGENTROUTER_CA_FILE")

	var err error
	if c.baseURL, err = checkBaseURL(c.baseURL); err != nil {
		return nil, err
	}
	if c.apiKey, err = checkKey(c.apiKey); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, &ConfigError{Setting: "timeout", Problem: "must be longer than zero"}
	}
	if c.retries < 0 {
		return nil, &ConfigError{Setting: "retries", Problem: "must not be negative"}
	}
	if c.userAgent, err = checkUserAgent(c.userAgent); err != nil {
		return nil, err
	}
	if c.httpClient == nil {
		if c.httpClient, err = newHTTPClient(c.caFile); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func orEnv(value, name string) string {
	if value != "" {
		return value
	}
	return os.Getenv(name)
}

// checkBaseURL returns the URL without a slash at its end. Errors do not contain the URL, which may contain a password.
func checkBaseURL(text string) (string, error) {
	malformed := func(problem string) (string, error) {
		return "", &ConfigError{Setting: "base URL", Problem: problem}
	}
	if text == "" {
		return malformed("is not set, by WithBaseURL or in AGENTROUTER_BASE_URL")
	}
	parsed, err := url.Parse(text)
	switch {
	case err != nil:
		return malformed("must be a URL such as http://127.0.0.1:8080")
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		return malformed("must begin with http:// or https://")
	case parsed.Hostname() == "":
		return malformed("must name a host")
	case parsed.User != nil:
		return malformed("must not have a user or password in it")
	case parsed.RawQuery != "" || parsed.ForceQuery || strings.Contains(text, "#"):
		return malformed("must not have a query or fragment")
	}
	return strings.TrimRight(text, "/"), nil
}

const (
	keyIDLength     = 16
	keySecretLength = 49
)

// checkKey returns the key with its "ak-". It checks the form only. The server checks the checksum.
func checkKey(key string) (string, error) {
	malformed := func(problem string) (string, error) {
		return "", &ConfigError{Setting: "API key", Problem: problem}
	}
	if key == "" {
		return malformed("is not set, by WithAPIKey or in AGENTROUTER_API_KEY")
	}
	bare := strings.TrimPrefix(key, "ak-")
	id, secret, found := strings.Cut(bare, "_")
	if found && len(id) == keyIDLength && len(secret) == keySecretLength && isBase62(id) && isBase62(secret) {
		return "ak-" + bare, nil
	}
	switch {
	case strings.TrimSpace(key) != key:
		return malformed("must not have spaces or a line end around it")
	case strings.HasPrefix(key, "Bearer"):
		return malformed("must be given without 'Bearer'")
	}
	return malformed("must be 16 letters and digits, '_', and 49 letters and digits, with or without 'ak-' before them")
}

func isBase62(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

func checkUserAgent(product string) (string, error) {
	for _, c := range []byte(product) {
		if c < ' ' || c > '~' {
			return "", &ConfigError{Setting: "user agent", Problem: "must be printable ASCII"}
		}
	}
	return strings.TrimSpace(product + " agentrouter-sdk-go/" + Version), nil
}

func newHTTPClient(caFile string) (*http.Client, error) {
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		// The program has replaced the default transport: use it.
		return &http.Client{CheckRedirect: noRedirect}, nil
	}
	transport = transport.Clone()
	// With the default of two idle connections per host, a busy service would open new connections all the time.
	transport.MaxIdleConnsPerHost = 100
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, &ConfigError{Setting: "CA file", Problem: fmt.Sprintf("cannot be read: %v", err), cause: err}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, &ConfigError{Setting: "CA file", Problem: "has no certificates in PEM: " + caFile}
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, CheckRedirect: noRedirect}, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
