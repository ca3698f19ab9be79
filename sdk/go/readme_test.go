package agentrouter

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// The first example of the README is a program of its own: it is built in a module beside this one, and run, in each of the
// two ways of the README.
func TestTheExampleOfTheReadmeRuns(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	program, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the README has no example")
	}
	server := &fake{value: func(_ context.Context, req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
		value := req.GetRealm() + "/" + req.GetName()
		return &secretv1.GetSecretValueResponse{Value: value, Secret: &secretv1.Secret{Version: 7}}, nil
	}}
	url := server.serve(t)

	sdk, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	// What is required is in the SDK's go.mod and go.sum already, so that nothing has to be downloaded.
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	module := "module example\n\ngo 1.24.0\n"
	required := "\nrequire github.com/tetrateio/agentrouter-go v" + Version + "\n\nreplace github.com/tetrateio/agentrouter-go => " + sdk + "\n"
	for name, test := range map[string]struct {
		files     map[string]string
		arguments []string
		workspace string
	}{
		"a workspace": {
			map[string]string{"go.mod": module, "go.work": "go 1.24.0\n\nuse (\n\t.\n\t" + sdk + "\n)\n"}, []string{"run", "."}, "",
		},
		"a replacement": {map[string]string{"go.mod": module + required, "go.sum": string(sums)}, []string{"run", "-mod=mod", "."}, "off"},
	} {
		folder := t.TempDir()
		test.files["main.go"] = program
		for name, content := range test.files {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		command := exec.Command("go", test.arguments...)
		command.Dir = folder
		command.Env = append(os.Environ(), "AGENTROUTER_BASE_URL="+url, "AGENTROUTER_API_KEY="+testKey, "GOPROXY=off", "GOFLAGS=", "GOWORK="+test.workspace)
		output, err := command.CombinedOutput()
		if err != nil || string(output) != "version 7 is 23 bytes long\n" {
			t.Errorf("%s: %v\n%s", name, err, output)
		}
	}
}
