package agentrouter

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// secureServer starts a server with TLS and HTTP/2. It returns its address and a file of the certificates to trust.
func secureServer(t *testing.T, handler http.Handler) (address, caFile string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(caFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return server.Listener.Addr().String(), caFile
}

// relay forwards TCP connections to a server. After silence, the connections of that time forward nothing and stay open, as
// those of a load balancer that dropped them. Later connections work.
type relay struct {
	listener net.Listener
	target   string
	opened   atomic.Int32

	mu    sync.Mutex
	lost  chan struct{}
	conns []net.Conn
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, target: target, lost: make(chan struct{})}
	go r.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, conn := range r.conns {
			_ = conn.Close()
		}
	})
	return r
}

func (r *relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		r.opened.Add(1)
		r.mu.Lock()
		r.conns = append(r.conns, near, far)
		lost := r.lost
		r.mu.Unlock()
		go forward(near, far, lost)
		go forward(far, near, lost)
	}
}

func (r *relay) silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.lost)
	r.lost = make(chan struct{})
}

// forward copies bytes, and drops them once lost is closed.
func forward(to, from net.Conn, lost <-chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-lost:
			if err != nil {
				return
			}
			continue
		default:
		}
		if n > 0 {
			_, _ = to.Write(buffer[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// withLiveness sets time limits that are short enough for a test.
func withLiveness(l liveness) Option { return func(c *config) { c.liveness = l } }

// On a connection that receives nothing, one call times out. The next one opens another connection.
func TestABrokenConnectionFailsOneCall(t *testing.T) {
	address, caFile := secureServer(t, http.HandlerFunc(succeed))
	for _, base := range []string{"https://", "http://"} {
		relay := newRelay(t, address)
		options := []Option{WithTimeout(5 * time.Second), WithRetries(0), WithCAFile(caFile)}
		if base == "http://" {
			plain := httptest.NewServer(http.HandlerFunc(succeed))
			t.Cleanup(plain.Close)
			relay = newRelay(t, plain.Listener.Addr().String())
			options = options[:2]
		}
		// Without pings: only the timeout of the call closes the connection.
		options = append(options, withLiveness(liveness{pingAfter: time.Hour, suspectAfter: 100 * time.Millisecond}))
		client := newClient(t, base+relay.listener.Addr().String(), options...).Secret()
		read := func() error {
			_, err := client.GetSecret(t.Context(), &secretv1.GetSecretRequest{Name: "n"})
			return err
		}
		if err := errors.Join(read(), read()); err != nil || relay.opened.Load() != 1 {
			t.Fatalf("%s %v, %d connections", base, err, relay.opened.Load())
		}
		relay.silence()
		if err := read(); CodeOf(err) != CodeDeadlineExceeded {
			t.Errorf("%s %v", base, err)
		}
		for range 3 {
			if err := read(); err != nil {
				t.Errorf("%s %v", base, err)
			}
		}
		if relay.opened.Load() != 2 {
			t.Errorf("%s %d connections", base, relay.opened.Load())
		}
	}
}

// While calls wait on a connection that receives nothing, a ping closes it. Reads are then retried: no call fails.
func TestAPingClosesABrokenConnectionDuringCalls(t *testing.T) {
	address, caFile := secureServer(t, http.HandlerFunc(succeed))
	relay := newRelay(t, address)
	client := newClient(t, "https://"+relay.listener.Addr().String(), WithCAFile(caFile), WithTimeout(time.Minute),
		withLiveness(liveness{pingAfter: 200 * time.Millisecond, pingTimeout: time.Second, suspectAfter: time.Hour})).Secret()
	read := func() error {
		_, err := client.GetSecret(t.Context(), &secretv1.GetSecretRequest{Name: "n"})
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	relay.silence()
	start := time.Now()
	var waiting sync.WaitGroup
	for range 8 {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			if err := read(); err != nil {
				t.Error(err)
			}
		}()
	}
	waiting.Wait()
	if time.Since(start) > 50*time.Second || relay.opened.Load() < 2 {
		t.Errorf("%v, %d connections", time.Since(start), relay.opened.Load())
	}
}

func TestTheDefaultsCloseABrokenConnectionWithinTheTimeoutOfACall(t *testing.T) {
	if l := defaultLiveness; l.pingAfter+l.pingTimeout > DefaultTimeout/2 || l.suspectAfter > 3*time.Second || l.pingAfter <= 0 {
		t.Errorf("%+v", l)
	}
	client, err := (&config{baseURL: "https://h", liveness: defaultLiveness}).newTransport()
	if err != nil || client == http.DefaultTransport {
		t.Errorf("%v", err)
	}
}

func TestCallsShareAConnection(t *testing.T) {
	address, caFile := secureServer(t, http.HandlerFunc(succeed))
	relay := newRelay(t, address)
	client := newClient(t, "https://"+relay.listener.Addr().String(), WithCAFile(caFile)).Secret()
	for range 20 {
		if _, err := client.GetSecret(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if relay.opened.Load() != 1 {
		t.Errorf("%d connections", relay.opened.Load())
	}
}

func TestACAFileIsTrustedInsteadOfTheSystems(t *testing.T) {
	address, caFile := secureServer(t, http.HandlerFunc(succeed))
	read := func(options ...Option) error {
		_, err := newClient(t, "https://"+address, append(options, WithRetries(0))...).Secret().GetSecret(t.Context(), nil)
		return err
	}
	if err := read(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
	if err := read(WithCAFile(caFile)); err != nil {
		t.Error(err)
	}
	t.Setenv("AGENTROUTER_CA_FILE", caFile)
	if err := read(); err != nil {
		t.Error(err)
	}
	t.Setenv("AGENTROUTER_CA_FILE", "")
	if err := read(); err == nil {
		t.Error("an empty variable is not unset")
	}
}

func TestAUnixSocketIsABaseURL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var authorization atomic.Value
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Host + " " + r.Header.Get("Authorization"))
		succeed(w, r)
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	// A proxy is for other hosts.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	client := newClient(t, "unix:"+path)
	if _, err := client.Secret().GetSecret(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := authorization.Load(); got != "localhost Bearer "+testKey {
		t.Errorf("%v", got)
	}
	if shown := client.Secret().baseURL; shown != "unix:"+path {
		t.Error(shown)
	}
	_, err = newClient(t, "unix:"+path+".absent", WithRetries(0)).Secret().GetSecret(t.Context(), nil)
	if CodeOf(err) != CodeUnavailable || !strings.Contains(err.Error(), path+".absent") {
		t.Errorf("%v", err)
	}
}

// The variables of proxies are read once in a process: TestMain has the part of the child.
func TestProxiesOfTheEnvironmentAreUsed(t *testing.T) {
	address, caFile := secureServer(t, http.HandlerFunc(succeed))
	var hosts sync.Map
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts.Store(r.Method+" "+r.Host, r.Header.Get("Proxy-Authorization")+r.Header.Get("Authorization"))
		far, err := net.Dial("tcp", address)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		never := make(chan struct{})
		go forward(near, far, never)
		forward(far, near, never)
	}))
	t.Cleanup(proxy.Close)
	child := func(variables ...string) string {
		command := exec.Command(os.Args[0])
		command.Env = append([]string{
			"AGENTROUTER_TEST_CHILD=1", "AGENTROUTER_CA_FILE=" + caFile, "AGENTROUTER_API_KEY=" + testKey,
			"AGENTROUTER_BASE_URL=https://secrets.example.com",
		}, variables...)
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		return string(output)
	}
	with := strings.Replace(proxy.URL, "http://", "http://user:pass@", 1)
	if got := child("HTTPS_PROXY=" + with); got != "called through "+with {
		t.Error(got)
	}
	if seen, _ := hosts.Load("CONNECT secrets.example.com:443"); seen != "Basic dXNlcjpwYXNz" {
		t.Errorf("the proxy saw %v", seen)
	}
	hosts.Clear()
	for _, test := range []struct{ variable, want string }{
		{"NO_PROXY=.example.com", "no proxy"},
		{"AGENTROUTER_BASE_URL=https://127.0.0.1:1", "connection refused"},
		{"AGENTROUTER_BASE_URL=unix:/no/such.sock", "no such file"},
	} {
		if got := child("HTTPS_PROXY="+with, "HTTP_PROXY="+with, test.variable); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s", test.variable, got)
		}
	}
	hosts.Range(func(host, _ any) bool {
		t.Errorf("%v went to the proxy", host)
		return true
	})
}

func TestMain(m *testing.M) {
	if os.Getenv("AGENTROUTER_TEST_CHILD") == "" {
		os.Exit(m.Run())
	}
	_, _ = io.WriteString(os.Stdout, proxyChild())
}

// proxyChild makes a call, unless it would connect to another host without a proxy.
func proxyChild() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := newConfig(nil)
	if err != nil {
		return err.Error()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.baseURL, nil)
	if err != nil {
		return err.Error()
	}
	used, err := http.ProxyFromEnvironment(request)
	if err != nil {
		return err.Error()
	}
	if used == nil && !isThisHost(request.URL.Hostname()) {
		return "no proxy"
	}
	client, err := New(ctx)
	if err != nil {
		return err.Error()
	}
	if _, err := client.Secret().GetSecret(ctx, nil); err != nil {
		return err.Error()
	}
	return "called through " + used.String()
}
