package agentrouter

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAKeyIsTakenWithAndWithoutItsPrefix(t *testing.T) {
	for _, key := range []string{testKey, strings.TrimPrefix(testKey, "ak-")} {
		if got, err := checkKey(key); err != nil || got != testKey {
			t.Errorf("refused or changed: %v", err)
		}
	}
}

func TestAMalformedKeyIsRefusedAndNeverRepeated(t *testing.T) {
	for _, key := range []string{
		testKey[:len(testKey)-1], testKey + "0", "ak-" + testKey, "AK-" + testKey[3:], "Bearer " + testKey, testKey + "\n",
		" " + testKey, strings.Replace(testKey, "_", "-", 1), strings.Replace(testKey, "a", "é", 2), "${AGENTROUTER_API_KEY}",
	} {
		_, err := New(t.Context(), WithBaseURL("http://127.0.0.1:1"), WithAPIKey(key))
		var config *ConfigError
		if !errors.As(err, &config) || config.Setting != "API key" {
			t.Fatalf("%q: %v", key, err)
		}
		if shown := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(shown, canary) || strings.Contains(shown, "01234") {
			t.Errorf("the key is in %s", shown)
		}
	}
}

func TestABaseURLIsHTTPWithAHostAndNothingElse(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:8080", "https://secrets.example.com/", "https://h/prefix", "http://[::1]:8080"} {
		if _, err := checkBaseURL(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{
		"127.0.0.1:8080", "localhost", "ftp://h", "http://", "http://user:" + canary + "@h", "http://h?x=1", "http://h#x",
		"http://a b", "/v1", "http://h?", "http://:80",
	} {
		_, err := checkBaseURL(url)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestTheEnvironmentFillsInWhatOptionsLeaveOut(t *testing.T) {
	t.Setenv("AGENTROUTER_BASE_URL", "")
	t.Setenv("AGENTROUTER_API_KEY", "")
	setting := func(options ...Option) string {
		var config *ConfigError
		_, err := New(t.Context(), options...)
		if err != nil && !errors.As(err, &config) {
			t.Fatal(err)
		}
		if config == nil {
			return ""
		}
		return config.Setting
	}
	if got := setting(WithBaseURL(""), WithAPIKey("")); got != "base URL" {
		t.Errorf("nothing is set, and %q is named", got)
	}
	t.Setenv("AGENTROUTER_BASE_URL", "http://127.0.0.1:1/")
	if got := setting(); got != "API key" {
		t.Errorf("no key is set, and %q is named", got)
	}
	t.Setenv("AGENTROUTER_API_KEY", strings.TrimPrefix(testKey, "ak-"))
	if got := setting(WithBaseURL(""), WithAPIKey("")); got != "" {
		t.Errorf("all is set, and %q is named", got)
	}
	if got := setting(WithBaseURL("http://x y")); got != "base URL" {
		t.Errorf("the option does not come first: %q", got)
	}
}

func TestOtherSettingsAreChecked(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for setting, option := range map[string]Option{
		"timeout": WithTimeout(0), "retries": WithRetries(-1), "user agent": WithUserAgent("a\nb"), "CA file": WithCAFile(empty),
	} {
		_, err := New(t.Context(), WithBaseURL("https://h"), WithAPIKey(testKey), option)
		var config *ConfigError
		if !errors.As(err, &config) || config.Setting != setting {
			t.Errorf("%s: %v", setting, err)
		}
	}
	_, err := New(t.Context(), WithBaseURL("https://h"), WithAPIKey(testKey), WithCAFile("/no/such.pem"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestAKeyIsNotSentInClearTextOverANetworkUnlessAllowed(t *testing.T) {
	t.Setenv("AGENTROUTER_ALLOW_HTTP", "")
	refused := func(url string, options ...Option) bool {
		_, err := New(t.Context(), append(options, WithBaseURL(url), WithAPIKey(testKey))...)
		if err != nil && (!strings.Contains(err.Error(), "AGENTROUTER_ALLOW_HTTP=1") || !strings.Contains(err.Error(), "WithAllowHTTP")) {
			t.Errorf("%s: %v", url, err)
		}
		return err != nil
	}
	for _, url := range []string{
		"http://127.0.0.1", "http://127.9.9.9:1", "http://[::1]:8080", "http://localhost", "HTTP://LOCALHOST:1", "http://a.localhost",
		"https://secrets.example.com", "https://10.0.0.1",
	} {
		if refused(url) {
			t.Errorf("%s is refused", url)
		}
	}
	remote := []string{
		"http://secrets.example.com", "http://10.0.0.1:8080", "http://0.0.0.0", "http://localhost.example.com", "http://mylocalhost",
		"HTTP://secrets", "http://[2001:db8::1]", "http://127.0.0.1.example.com",
	}
	for _, url := range remote {
		if !refused(url) || !refused(url, WithHTTPClient(&http.Client{})) || refused(url, WithAllowHTTP()) {
			t.Errorf("%s is taken, or refused in spite of the option", url)
		}
	}
	for value, takes := range map[string]bool{"1": true, "true": true, "0": false, "false": false} {
		t.Setenv("AGENTROUTER_ALLOW_HTTP", value)
		if refused(remote[0]) == takes {
			t.Errorf("AGENTROUTER_ALLOW_HTTP=%s", value)
		}
	}
	t.Setenv("AGENTROUTER_ALLOW_HTTP", "perhaps")
	var config *ConfigError
	if _, err := New(t.Context(), WithBaseURL("https://h"), WithAPIKey(testKey)); !errors.As(err, &config) || config.Setting != "AGENTROUTER_ALLOW_HTTP" {
		t.Errorf("%v", err)
	}
}

func TestASettingWithoutEffectIsRefused(t *testing.T) {
	client := WithHTTPClient(&http.Client{})
	for name, test := range map[string]struct {
		setting, url string
		options      []Option
	}{
		"CA file with a client":  {"CA file", "https://h", []Option{WithCAFile("ca.pem"), client}},
		"CA file with http":      {"CA file", "http://127.0.0.1", []Option{WithCAFile("ca.pem")}},
		"CA file with a socket":  {"CA file", "unix:/s", []Option{WithCAFile("ca.pem")}},
		"a socket with a client": {"base URL", "unix:/s", []Option{client}},
		"no socket":              {"base URL", "unix:", nil},
	} {
		_, err := New(t.Context(), append(test.options, WithBaseURL(test.url), WithAPIKey(testKey))...)
		var config *ConfigError
		if !errors.As(err, &config) || config.Setting != test.setting {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A variable may be meant for another program.
	t.Setenv("AGENTROUTER_CA_FILE", "/no/such.pem")
	for _, url := range []string{"http://127.0.0.1", "unix:/s"} {
		if _, err := New(t.Context(), WithBaseURL(url), WithAPIKey(testKey)); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := New(t.Context(), WithBaseURL("https://h"), WithAPIKey(testKey)); err == nil {
		t.Error("the variable is not read")
	}
}

func TestNothingPrintedHasTheKey(t *testing.T) {
	client := newClient(t, "http://127.0.0.1:1", WithTimeout(time.Second))
	cache := client.Secrets()
	defer cache.Close()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		for _, thing := range []any{client, client.Secret(), *client, cache} {
			if shown := fmt.Sprintf(verb, thing); strings.Contains(shown, canary) || strings.Contains(shown, fmt.Sprintf("%x", canary)) {
				t.Errorf("%s of %T: %s", verb, thing, shown)
			}
		}
	}
}
