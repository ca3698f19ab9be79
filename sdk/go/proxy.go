package agentrouter

import (
	"net/http"
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// proxyFunc returns the proxy of a request, if it has one.
type proxyFunc func(*http.Request) (*url.URL, error)

// withAllProxy adds ALL_PROXY, which net/http does not know, to a function such as [http.ProxyFromEnvironment]: it is the proxy
// of servers for which next names none and that NO_PROXY does not exclude. This host has no proxy. Without next there are no
// proxies.
func withAllProxy(next proxyFunc, env func(string) string) proxyFunc {
	if next == nil {
		return nil
	}
	first := func(names ...string) string {
		for _, name := range names {
			if value := env(name); value != "" {
				return value
			}
		}
		return ""
	}
	all := first("all_proxy", "ALL_PROXY")
	config := httpproxy.Config{HTTPProxy: all, HTTPSProxy: all, NoProxy: first("no_proxy", "NO_PROXY")}
	fallback := config.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) {
		if isThisHost(r.URL.Hostname()) {
			return nil, nil
		}
		if proxy, err := next(r); proxy != nil || err != nil {
			return proxy, err
		}
		return fallback(r.URL)
	}
}
