// The KMS v2 client of the Kubernetes API server, on the socket of a plugin.
//
//	client SOCKET status              prints the plugin's id of the root key
//	client SOCKET encrypt < DATA      prints what the API server would store, in Base64
//	client SOCKET decrypt < STORED    prints "fresh" or "stale", and the data
//
// Each run is a new API server: it has no key in memory. A call that fails ends it with status 1, and the first line of the
// output is the gRPC code.
package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/kms/pkg/service"
)

const (
	provider = "agentrouter"
	timeout  = 60 * time.Second
)

// What the API server binds the data to: the path in etcd.
var place = value.DefaultContext("/registry/secrets/default/one")

func main() {
	output, err := run(context.Background(), os.Args[1], os.Args[2])
	if err != nil {
		fmt.Println(status.Code(err))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(output)
}

func run(ctx context.Context, socket, command string) (string, error) {
	plugin, err := kmsv2.NewGRPCService(ctx, "unix://"+socket, provider, timeout)
	if err != nil {
		return "", err
	}
	keyID, err := healthy(ctx, plugin)
	if err != nil || command == "status" {
		return keyID, err
	}
	envelope, err := transformer(ctx, plugin, keyID)
	if err != nil {
		return "", err
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return "", err
	}
	if command == "encrypt" {
		stored, err := envelope.TransformToStorage(ctx, input, place)
		return base64.StdEncoding.EncodeToString(stored), err
	}
	stored, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(input)))
	if err != nil {
		return "", err
	}
	data, stale, err := envelope.TransformFromStorage(ctx, stored, place)
	if stale {
		return "stale " + string(data), err
	}
	return "fresh " + string(data), err
}

// Asks for the status and checks it as the API server does. Returns the id of the root key.
func healthy(ctx context.Context, plugin service.Service) (string, error) {
	response, err := plugin.Status(ctx)
	if err != nil {
		return "", err
	}
	if response.Version != "v2" || response.Healthz != "ok" {
		return "", fmt.Errorf("version %q, health %q", response.Version, response.Healthz)
	}
	_, err = kmsv2.ValidateKeyID(response.KeyID)
	return response.KeyID, err
}

// Has the plugin wrap a new key, as the API server does at its start and after each change of the root key.
func transformer(ctx context.Context, plugin service.Service, keyID string) (value.Transformer, error) {
	seed, object, cacheKey, err := kmsv2.GenerateTransformer(ctx, "uid-1", plugin, true)
	if err != nil {
		return nil, err
	}
	if object.KeyID != keyID {
		return nil, fmt.Errorf("Encrypt names the key %q, and Status %q", object.KeyID, keyID)
	}
	state := kmsv2.State{
		Transformer:                           seed,
		EncryptedObjectKeyID:                  object.KeyID,
		EncryptedObjectEncryptedDEKSource:     object.EncryptedDEKSource,
		EncryptedObjectAnnotations:            object.Annotations,
		EncryptedObjectEncryptedDEKSourceType: object.EncryptedDEKSourceType,
		UID:                                   "uid-1",
		ExpirationTimestamp:                   time.Now().Add(timeout),
		CacheKey:                              cacheKey,
	}
	return kmsv2.NewEnvelopeTransformer(plugin, provider, func() (kmsv2.State, error) { return state, nil }, ""), nil
}
