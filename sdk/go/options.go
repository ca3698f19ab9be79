package agentrouter

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
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
	// Setting is the name of the setting: "base URL", "API key", "timeout", "retries", "user agent", "CA file" or
	// "AGENTROUTER_ALLOW_HTTP".
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
	baseURL string
	// socket is the path of a Unix socket, or empty.
	socket       string
	apiKey       string
	caFile       string
	allowHTTP    bool
	userAgent    string
	timeout      time.Duration
	retries      int
	httpClient   *http.Client
	wrap         func(http.RoundTripper) http.RoundTripper
	interceptors []connect.Interceptor
	logger       *slog.Logger
	liveness     liveness
}

// WithBaseURL sets the URL of the server: http:// or https://, a host, optionally a port and a path prefix. Or "unix:" and
// the path of the server's Unix socket. Default, and when empty: AGENTROUTER_BASE_URL.
//
// A URL with http:// must name this host, unless [WithAllowHTTP] is given.
func WithBaseURL(url string) Option { return func(c *config) { c.baseURL = url } }

// WithAPIKey sets the API key, with or without "ak-". Default, and when empty: AGENTROUTER_API_KEY.
func WithAPIKey(key string) Option { return func(c *config) { c.apiKey = key } }

// WithAllowHTTP allows an http:// URL of another host. The key and all values then cross the network in clear text. Default:
// true if AGENTROUTER_ALLOW_HTTP is 1 or true.
func WithAllowHTTP() Option { return func(c *config) { c.allowHTTP = true } }

// WithTimeout sets the time limit of a call, with its retries and pauses. A context that ends earlier ends the call
// earlier. Default: 10 seconds.
func WithTimeout(timeout time.Duration) Option { return func(c *config) { c.timeout = timeout } }

// WithRetries sets the number of retries of a read, or of a write with expected_version. Default: 2. 0 turns retries off.
func WithRetries(retries int) Option { return func(c *config) { c.retries = retries } }

// WithHTTPClient sets the HTTP client, for your own proxies or certificates. Its Timeout, if it has one, applies to each
// attempt. Default: one that uses the proxies of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY), closes
// connections that do not respond, and follows no redirects, which would send values to another server.
//
// It replaces AGENTROUTER_CA_FILE. With WithCAFile or a unix: URL it is a [*ConfigError].
func WithHTTPClient(client *http.Client) Option { return func(c *config) { c.httpClient = client } }

// WithRoundTripper wraps the HTTP transport, for instrumentation such as otelhttp:
//
//	agentrouter.WithRoundTripper(func(next http.RoundTripper) http.RoundTripper { return otelhttp.NewTransport(next) })
//
// The wrapper sees each attempt. Requests do not have the key yet. Their bodies have values.
func WithRoundTripper(wrap func(next http.RoundTripper) http.RoundTripper) Option {
	return func(c *config) { c.wrap = wrap }
}

// WithInterceptors adds Connect interceptors, the first one outermost, such as that of otelconnect for OpenTelemetry. They
// see each attempt. The messages have values. The headers do not have the key.
func WithInterceptors(interceptors ...connect.Interceptor) Option {
	return func(c *config) { c.interceptors = append(c.interceptors, interceptors...) }
}

// WithLogger logs each attempt: those that succeed at the level Debug, those that are retried at Info, calls that fail at
// Warn. A record has the procedure, the attempt, the duration, and the code, reason, message and request id of an error.
// It has neither the key nor anything of the request. Default: nothing is logged.
func WithLogger(logger *slog.Logger) Option { return func(c *config) { c.logger = logger } }

// WithCAFile names a PEM file of certificates to trust instead of the system's. Without an https:// URL it is a
// [*ConfigError]. Default, and when empty: AGENTROUTER_CA_FILE, or the system's certificates.
func WithCAFile(path string) Option { return func(c *config) { c.caFile = path } }

// WithUserAgent names your program and its version, such as "gateway/1.4", before the SDK's own in the User-Agent.
func WithUserAgent(product string) Option { return func(c *config) { c.userAgent = product } }

// newConfig applies the options, reads settings that are not set from the environment, and checks all of them.
func newConfig(options []Option) (*config, error) {
	c := &config{timeout: DefaultTimeout, retries: DefaultRetries, liveness: defaultLiveness}
	for _, option := range options {
		option(c)
	}
	c.apiKey = orEnv(c.apiKey, "AGENTROUTER_API_KEY")
	var err error
	if err = c.checkServer(); err != nil {
		return nil, err
	}
	if c.apiKey, err = checkKey(c.apiKey); err != nil {
		return nil, err
	}
	if err = checkTimeout(c.timeout); err != nil {
		return nil, err
	}
	if err = checkRetries(c.retries); err != nil {
		return nil, err
	}
	if c.userAgent, err = checkUserAgent(c.userAgent); err != nil {
		return nil, err
	}
	if c.httpClient, err = c.newHTTPClient(); err != nil {
		return nil, err
	}
	return c, nil
}

// checkServer checks where requests go, and how. A setting that would have no effect is an error. A variable of the
// environment, which other programs may need, has then no effect.
func (c *config) checkServer() error {
	text := orEnv(c.baseURL, "AGENTROUTER_BASE_URL")
	if path, found := strings.CutPrefix(text, "unix:"); found {
		if path == "" {
			return &ConfigError{Setting: "base URL", Problem: "must have the path of a socket after unix:"}
		}
		if c.httpClient != nil {
			return &ConfigError{Setting: "base URL", Problem: "must not be a unix: URL with WithHTTPClient: the client decides where it connects"}
		}
		c.socket, c.baseURL = path, "http://localhost"
	} else {
		var err error
		if c.baseURL, err = checkBaseURL(text); err != nil {
			return err
		}
		if err = c.checkClearText(); err != nil {
			return err
		}
	}
	switch {
	case strings.HasPrefix(c.baseURL, "https:") && c.httpClient == nil:
		c.caFile = orEnv(c.caFile, "AGENTROUTER_CA_FILE")
	case c.caFile != "" && c.httpClient != nil:
		return &ConfigError{Setting: "CA file", Problem: "has no effect with WithHTTPClient: set the certificates in the client"}
	case c.caFile != "":
		return &ConfigError{Setting: "CA file", Problem: "has no effect without an https:// URL"}
	}
	return nil
}

// checkClearText refuses to send the key in clear text over a network.
func (c *config) checkClearText() error {
	allowed, err := envSwitch("AGENTROUTER_ALLOW_HTTP")
	if err != nil {
		return err
	}
	parsed, err := url.Parse(c.baseURL)
	if err != nil || parsed.Scheme == "https" || isThisHost(parsed.Hostname()) || c.allowHTTP || allowed {
		return err
	}
	return &ConfigError{Setting: "base URL", Problem: "is http:// to another host, so that the API key and all values would " +
		"cross the network in clear text. Use https://, or allow it with WithAllowHTTP or AGENTROUTER_ALLOW_HTTP=1"}
}

// isThisHost reports whether a host is the loopback interface.
func isThisHost(host string) bool {
	if address := net.ParseIP(host); address != nil {
		return address.IsLoopback()
	}
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// envSwitch reads a variable that is on or off. Empty is off.
func envSwitch(name string) (bool, error) {
	switch strings.ToLower(os.Getenv(name)) {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	}
	return false, &ConfigError{Setting: name, Problem: "must be 1, true, 0 or false"}
}

func checkTimeout(timeout time.Duration) error {
	if timeout <= 0 {
		return &ConfigError{Setting: "timeout", Problem: "must be longer than zero"}
	}
	return nil
}

func checkRetries(retries int) error {
	if retries < 0 {
		return &ConfigError{Setting: "retries", Problem: "must not be negative"}
	}
	return nil
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
		return malformed("must begin with http://, https:// or unix:")
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
