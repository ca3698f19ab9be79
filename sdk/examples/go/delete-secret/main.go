// Deletes a secret with all its versions.
//
// AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY say where the server is and whose key to use.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	agentrouter "github.com/tetrateio/agentrouter-go"
	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

func main() {
	ctx := context.Background()
	client, err := agentrouter.New(ctx,
		agentrouter.WithBaseURL(os.Getenv("AGENTROUTER_BASE_URL")),
		agentrouter.WithAPIKey(os.Getenv("AGENTROUTER_API_KEY")),
	)
	if err != nil {
		log.Fatal(err)
	}

	req := &secretv1.DeleteSecretRequest{
		Name:  "openai-api-key",
		Realm: "llm-providers",
	}
	response, err := client.Secret().DeleteSecret(ctx, req)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", response)
}
