// Package agentrouter is the Go SDK of AgentRouter: a typed client of its secret service.
//
//	client, err := agentrouter.New(ctx) // reads AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY
//	response, err := client.Secret().GetSecretValue(ctx, &secretv1.GetSecretValueRequest{
//		Name: "openai-api-key", Realm: "llm-keys",
//	})
//
// It is a thin layer over the generated messages (genapi/api/tars/secret/v1) and the generated Connect client: settings
// ([Option]), the calls ([SecretClient]), retries, [Error], iterators over pages, and a cache of values ([Secrets]). The
// package agentroutertest is the service in memory, for tests.
//
// Clients are safe for concurrent use. Nothing is written to a disk, and nothing is logged without [WithLogger]. Requests are
// not checked before they are sent, because the server has the rules.
package agentrouter

// Version is the version of this SDK, and of the server and the other SDKs of its release.
const Version = "0.1.1"
