// Stores a provider key and says which version it is.
package main

import (
	"context"
	"fmt"
	"log"

	agentrouter "github.com/tetrateio/agentrouter-go"
	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

func main() {
	ctx := context.Background()
	client, err := agentrouter.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	created, err := client.Secret().CreateSecret(ctx, &secretv1.CreateSecretRequest{
		Name:  "openai-api-key",
		Realm: "mcp",
		Value: "sk-example",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(created.GetSecret().GetName(), "version", created.GetSecret().GetVersion())
}
