// A KMS plugin for tests, made on the library that Kubernetes offers for plugins: k8s.io/kms/pkg/service.
//
// It is independent of this project's client and server of the API. It seals with AES-256-GCM under a key that it makes at
// its start and keeps in the file "key" beside the socket. While the file "denied" exists there, it denies.
package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/pkg/service"
)

const (
	keyID      = "test-key-1"
	annotation = "version.plugin.example.com"
)

type plugin struct {
	aead   cipher.AEAD
	denied string
}

func (p *plugin) allowed() error {
	_, err := os.Stat(p.denied)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return status.Error(codes.PermissionDenied, "the key is disabled")
}

func (p *plugin) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: keyID}, nil
}

func (p *plugin) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	if err := p.allowed(); err != nil {
		return nil, err
	}
	nonce := make([]byte, p.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return &service.EncryptResponse{
		Ciphertext:  p.aead.Seal(nonce, nonce, data, []byte(keyID)),
		KeyID:       keyID,
		Annotations: map[string][]byte{annotation: {1}},
	}, nil
}

func (p *plugin) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	if err := p.allowed(); err != nil {
		return nil, err
	}
	size := p.aead.NonceSize()
	if req.KeyID != keyID || len(req.Annotations[annotation]) != 1 || len(req.Ciphertext) < size {
		return nil, status.Error(codes.InvalidArgument, "not wrapped by this plugin")
	}
	return p.aead.Open(nil, req.Ciphertext[:size], req.Ciphertext[size:], []byte(keyID))
}

func key(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, os.WriteFile(path, key, 0o600)
}

func main() {
	socket := os.Args[1]
	folder := filepath.Dir(socket)
	key, err := key(filepath.Join(folder, "key"))
	if err != nil {
		log.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		log.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		log.Fatal(err)
	}
	served := &plugin{aead: aead, denied: filepath.Join(folder, "denied")}
	log.Fatal(service.NewGRPCService(socket, 10*time.Second, served).ListenAndServe())
}
