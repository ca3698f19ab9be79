package agentrouter

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/http/httpproxy"
)

// TestProxyTable runs proxy.json of sdk/cases.
func TestProxyTable(t *testing.T) {
	var table struct {
		Title string
		Cases []struct {
			Title     string
			Variables map[string]string
			URL       string
			Proxy     string
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "cases", "proxy.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &table); err != nil || len(table.Cases) == 0 {
		t.Fatal(err)
	}
	for _, c := range table.Cases {
		t.Run(c.Title, func(t *testing.T) {
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"} {
				t.Setenv(name, "")
			}
			for name, value := range c.Variables {
				t.Setenv(name, value)
			}
			// http.ProxyFromEnvironment does the same and remembers the first environment.
			fromEnvironment := httpproxy.FromEnvironment().ProxyFunc()
			next := func(r *http.Request) (*url.URL, error) { return fromEnvironment(r.URL) }
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			proxy, err := withAllProxy(next, os.Getenv)(request)
			got := ""
			if proxy != nil {
				got = proxy.Host
				if proxy.Port() == "" {
					got += ":80"
				}
			}
			if err != nil || got != c.Proxy {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	if withAllProxy(nil, func(string) string { return "http://p:1" }) != nil {
		t.Error("a program that has turned proxies off has one")
	}
}
