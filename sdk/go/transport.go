package agentrouter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// liveness has the time limits of a connection that receives nothing. A load balancer or a NAT may drop a connection
// without a reset.
type liveness struct {
	// pingAfter is the silence on an HTTP/2 connection after which it is sent a ping.
	pingAfter time.Duration
	// pingTimeout is how long a ping waits for its response before the connection is closed.
	pingTimeout time.Duration
	// suspectAfter is the shortest duration of a call whose timeout closes its connection.
	suspectAfter time.Duration
}

var defaultLiveness = liveness{pingAfter: 3 * time.Second, pingTimeout: 2 * time.Second, suspectAfter: time.Second}

// roundTripper is a function as an [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newHTTPClient makes the client of the RPC library: the program's round tripper around one that adds the key around one
// that sends.
func (c *config) newHTTPClient() (*http.Client, error) {
	client := &http.Client{CheckRedirect: noRedirect}
	if c.httpClient != nil {
		copied := *c.httpClient
		client = &copied
		if client.Transport == nil {
			client.Transport = http.DefaultTransport
		}
	} else {
		transport, err := c.newTransport()
		if err != nil {
			return nil, err
		}
		client.Transport = transport
	}
	client.Transport = authorized(client.Transport, c.baseURL, "Bearer "+c.apiKey)
	if c.wrap != nil {
		client.Transport = c.wrap(client.Transport)
	}
	return client, nil
}

// authorized adds the key to requests for the server, and to no others: an HTTP client may follow a redirect to another
// host. Only this closure holds the key, and nothing prints a closure.
func authorized(next http.RoundTripper, baseURL, authorization string) http.RoundTripper {
	server, err := url.Parse(baseURL)
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if err != nil {
			return nil, err
		}
		if r.URL.Scheme == server.Scheme && r.URL.Host == server.Host {
			// A round tripper must not change the request of its caller.
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", authorization)
		}
		return next.RoundTrip(r)
	})
}

// newTransport makes the transport of the settings. It uses the proxies of the environment (HTTPS_PROXY, HTTP_PROXY,
// ALL_PROXY, NO_PROXY), except for this host and for a socket.
func (c *config) newTransport() (http.RoundTripper, error) {
	transport, ok := http.DefaultTransport.(*http.Transport)
	switch {
	case ok:
		transport = transport.Clone()
	case c.caFile == "" && c.socket == "":
		// The program has replaced the default transport: use it.
		return http.DefaultTransport, nil
	default:
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		}
	}
	transport.Proxy = withAllProxy(transport.Proxy, os.Getenv)
	// With the default of two idle connections per host, a busy service would open new connections all the time.
	transport.MaxIdleConnsPerHost = 100
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: c.liveness.pingAfter, PingTimeout: c.liveness.pingTimeout}
	if c.caFile != "" {
		pool, err := readCAs(c.caFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	if c.socket != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.socket)
		}
	}
	return watched(transport, c.liveness.suspectAfter), nil
}

// watchedConn is a connection that counts its reads and the calls that wait on it.
type watchedConn struct {
	net.Conn
	// received counts the reads that returned bytes.
	received atomic.Int64
	// calls is the number of calls that wait for a response on this connection.
	calls atomic.Int32
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.received.Add(1)
	}
	return n, err
}

// watched closes a connection if a call timed out on it and nothing was received since the call was sent. It also closes the
// idle connections, which may use the same broken path. The next call opens a new one. An HTTP/2 connection on which other
// calls wait stays open until its ping fails, because the server may only be slow.
func watched(transport *http.Transport, after time.Duration) http.RoundTripper {
	dial := transport.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: conn}, nil
	}
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		use := &connUse{}
		trace := &httptrace.ClientTrace{GotConn: use.begin}
		start := time.Now()
		response, err := transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
		timedOut := err != nil && errors.Is(r.Context().Err(), context.DeadlineExceeded) && time.Since(start) >= after
		if use.end(timedOut) {
			transport.CloseIdleConnections()
		}
		return response, err
	})
}

// connUse is the use of connections by one request. The transport may begin a request again on another connection.
type connUse struct {
	mu       sync.Mutex
	ended    bool
	conn     *watchedConn
	received int64
}

// begin notes the connection that the request is sent on.
func (u *connUse) begin(info httptrace.GotConnInfo) {
	conn := info.Conn
	for {
		secure, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = secure.NetConn()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return
	}
	u.release()
	if watched, ok := conn.(*watchedConn); ok {
		watched.calls.Add(1)
		u.conn, u.received = watched, watched.received.Load()
	}
}

// end closes the connection if the request was the only one on it, timed out, and nothing was received. It reports whether it
// closed the connection.
func (u *connUse) end(timedOut bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	conn := u.conn
	last := u.release()
	if !timedOut || !last || conn.received.Load() != u.received {
		return false
	}
	_ = conn.Conn.Close()
	return true
}

// release ends the use of the connection. It reports whether no other request waits on it.
func (u *connUse) release() bool {
	if u.conn == nil {
		return false
	}
	conn := u.conn
	u.conn = nil
	return conn.calls.Add(-1) == 0
}

func readCAs(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, &ConfigError{Setting: "CA file", Problem: fmt.Sprintf("cannot be read: %v", err), cause: err}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, &ConfigError{Setting: "CA file", Problem: "has no certificates in PEM: " + path}
	}
	return pool, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
