package agentrouter

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

const (
	corrupt   = `{"code":"internal","message":"does not open","details":[{"type":"google.rpc.ErrorInfo","value":"Cg5TRUNSRVRfQ09SUlVQVBIVYWdlbnRyb3V0ZXIuc2VjcmV0LnYx"}]}`
	exhausted = `{"code":"failed_precondition","message":"used up","details":[{"type":"google.rpc.ErrorInfo","value":"ChJWRVJTSU9OU19FWEhBVVNURUQSFWFnZW50cm91dGVyLnNlY3JldC52MQ"}]}`
)

// faultProxy stands between a client and the server and injects one configured fault per request.
type faultProxy struct {
	url    string
	target string
	client *http.Client

	mu       sync.Mutex
	faults   []string
	requests int
}

func newFaultProxy(t *testing.T, target string, faults []string) *faultProxy {
	t.Helper()
	proxy := &faultProxy{target: target, faults: faults}
	// The server may be behind TLS; the client of this proxy trusts what the SDK's would.
	trusting := &config{caFile: orEnv("", "AGENTROUTER_CA_FILE"), liveness: defaultLiveness}
	transport, err := trusting.newTransport()
	if err != nil {
		t.Fatal(err)
	}
	proxy.client = &http.Client{Transport: transport, CheckRedirect: noRedirect}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	proxy.url = server.URL
	return proxy
}

func (p *faultProxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *faultProxy) next() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if len(p.faults) == 0 {
		return "pass"
	}
	fault := p.faults[0]
	p.faults = p.faults[1:]
	return fault
}

func (p *faultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	respond := func(status int, contentType, body string) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	switch fault := p.next(); fault {
	case "pass":
		p.pass(w, r)
	case "slow":
		_ = sleep(r.Context(), 1500*time.Millisecond)
		p.pass(w, r)
	case "drop":
		panic(http.ErrAbortHandler)
	case "lose":
		p.pass(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case "stall":
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	case "unavailable":
		respond(http.StatusServiceUnavailable, "application/json", unavailable)
	case "bad_gateway":
		respond(http.StatusBadGateway, "text/html", "<html>bad gateway</html>")
	case "not_found_page":
		respond(http.StatusNotFound, "text/html", "<html>not found</html>")
	case "corrupt":
		respond(http.StatusInternalServerError, "application/json", corrupt)
	case "exhausted":
		respond(http.StatusBadRequest, "application/json", exhausted)
	case "rate_limited":
		w.Header().Set("Retry-After", "1")
		respond(http.StatusTooManyRequests, "application/json", rateLimited)
	default:
		respond(http.StatusTeapot, "text/plain", "there is no fault "+fault)
	}
}

func (p *faultProxy) pass(w http.ResponseWriter, r *http.Request) {
	request, err := http.NewRequestWithContext(r.Context(), r.Method, p.target+r.URL.RequestURI(), r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	request.Header = r.Header.Clone()
	response, err := p.client.Do(request)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}
