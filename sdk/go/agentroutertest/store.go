package agentroutertest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentrouter "github.com/tetrateio/agentrouter-go"
	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// grace is how long a rotated version stays readable unless the request has grace_period.
const grace = 24 * time.Hour

// llmRealms belong to the user "system".
var llmRealms = []string{"llm-keys", "llm", "llm-providers", "ai-keys", "byok"}

// store has the secrets. The mutex of the server guards it.
type store struct {
	now     func() time.Time
	secrets map[place]*secret
	created int
}

// place is the address of a secret.
type place struct{ owner, realm, name string }

// secret has the versions of one secret, oldest first. The last one is active.
type secret struct{ versions []*version }

type version struct {
	metadata *secretv1.Secret
	value    string
}

func (s *secret) active() *version { return s.versions[len(s.versions)-1] }

func placeOf(owner, realm, name string) place {
	if realm == "" {
		realm = Realm
	}
	if owner == "" {
		owner = UserID
	}
	if slices.Contains(llmRealms, realm) {
		owner = "system"
	}
	return place{owner, realm, name}
}

func (s *store) create(req *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
	if err := need(field{"name", req.GetName()}); err != nil {
		return nil, err
	}
	at := placeOf(req.GetUserId(), req.GetRealm(), req.GetName())
	found := s.secrets[at]
	current := int32(0)
	if found != nil {
		current = found.active().metadata.GetVersion()
	}
	if req.ExpectedVersion != nil && req.GetExpectedVersion() != current {
		return nil, mismatch()
	}
	writes := func(path string, given bool) bool {
		if mask := req.GetUpdateMask(); mask != nil && found != nil {
			return slices.Contains(mask.GetPaths(), path)
		}
		return given
	}
	writesValue := writes("value", req.GetValue() != "")
	if found == nil || writesValue {
		if err := need(field{"value", req.GetValue()}); err != nil {
			return nil, err
		}
	}
	if found == nil {
		s.created++
		found = &secret{}
		s.secrets[at] = found
		found.versions = []*version{{metadata: &secretv1.Secret{
			// A ULID has 26 characters.
			Id: fmt.Sprintf("%026d", s.created), Name: at.name, Realm: at.realm, UserId: at.owner,
			Description: req.GetDescription(), Tags: maps.Clone(req.GetTags()), Status: agentrouter.StatusActive, Version: 1,
			CreatedAt: timestamppb.New(s.now()), UpdatedAt: timestamppb.New(s.now()), KekId: "test",
		}, value: req.GetValue()}}
		return &secretv1.CreateSecretResponse{Secret: metadata(found.active())}, nil
	}
	if writesValue {
		retire(found.active())
		found.add(req.GetValue())
	}
	active := found.active().metadata
	if writes("description", req.GetDescription() != "") {
		active.Description = req.GetDescription()
	}
	if writes("tags", len(req.GetTags()) > 0) {
		active.Tags = maps.Clone(req.GetTags())
	}
	active.UpdatedAt = timestamppb.New(s.now())
	return &secretv1.CreateSecretResponse{Secret: metadata(found.active())}, nil
}

func (s *store) get(req *secretv1.GetSecretRequest) (*secretv1.GetSecretResponse, error) {
	found, err := s.find("", req.GetRealm(), req.GetName())
	if err != nil {
		return nil, err
	}
	return &secretv1.GetSecretResponse{Secret: metadata(found.active())}, nil
}

func (s *store) list(req *secretv1.ListSecretsRequest) (*secretv1.ListSecretsResponse, error) {
	status := req.GetStatus()
	if status == "" {
		status = agentrouter.StatusActive
	}
	var rows []*secretv1.Secret
	for at, found := range s.secrets {
		s.expire(found)
		mine := at.owner == placeOf("", at.realm, "").owner
		if !mine || req.GetRealm() != "" && at.realm != req.GetRealm() || !strings.HasPrefix(at.name, req.GetNamePrefix()) {
			continue
		}
		for _, v := range found.versions {
			if (status == agentrouter.StatusAny || v.metadata.GetStatus() == status) && hasTags(v.metadata, req.GetTags()) {
				rows = append(rows, metadata(v))
			}
		}
	}
	slices.SortFunc(rows, func(a, b *secretv1.Secret) int {
		if order := strings.Compare(a.GetRealm(), b.GetRealm()); order != 0 {
			return order
		}
		if order := strings.Compare(a.GetName(), b.GetName()); order != 0 {
			return order
		}
		return int(a.GetVersion() - b.GetVersion())
	})
	size := int(req.GetPageSize())
	if size == 0 {
		size = 50
	}
	start := 0
	if token := req.GetPageToken(); token != "" {
		var err error
		if start, err = strconv.Atoi(token); err != nil || start < 0 || start > len(rows) {
			return nil, &agentrouter.Error{Code: agentrouter.CodeInvalidArgument, Reason: agentrouter.ReasonPageTokenInvalid,
				Message: "The page token is not valid. Start the list again."}
		}
	}
	if size < 0 {
		return nil, invalid("page_size", "must not be negative")
	}
	end := min(start+min(size, 1000), len(rows))
	response := &secretv1.ListSecretsResponse{Secrets: rows[start:end]}
	if end < len(rows) {
		response.NextPageToken = strconv.Itoa(end)
	}
	return response, nil
}

func (s *store) delete(req *secretv1.DeleteSecretRequest) (*secretv1.DeleteSecretResponse, error) {
	if _, err := s.find("", req.GetRealm(), req.GetName()); err != nil {
		return nil, err
	}
	delete(s.secrets, placeOf("", req.GetRealm(), req.GetName()))
	return &secretv1.DeleteSecretResponse{Success: true}, nil
}

func (s *store) rotate(req *secretv1.RotateSecretRequest) (*secretv1.RotateSecretResponse, error) {
	if err := need(field{"name", req.GetName()}, field{"new_value", req.GetNewValue()}); err != nil {
		return nil, err
	}
	found, err := s.find("", req.GetRealm(), req.GetName())
	if err != nil {
		return nil, err
	}
	before := found.active()
	if req.ExpectedVersion != nil && req.GetExpectedVersion() != before.metadata.GetVersion() {
		return nil, mismatch()
	}
	period := grace
	if req.GetGracePeriod() != nil {
		period = req.GetGracePeriod().AsDuration()
	}
	before.metadata.Status = agentrouter.StatusRotatedPending
	before.metadata.ExpiresAt = timestamppb.New(s.now().Add(period))
	found.add(req.GetNewValue())
	found.active().metadata.RotatedAt = timestamppb.New(s.now())
	found.active().metadata.UpdatedAt = timestamppb.New(s.now())
	return &secretv1.RotateSecretResponse{Secret: metadata(found.active())}, nil
}

func (s *store) validate(req *secretv1.ValidateSecretRequest) (*secretv1.ValidateSecretResponse, error) {
	if _, err := s.find("", req.GetRealm(), req.GetName()); err != nil {
		return nil, err
	}
	return &secretv1.ValidateSecretResponse{Valid: true}, nil
}

func (s *store) value(req *secretv1.GetSecretValueRequest) (*secretv1.GetSecretValueResponse, error) {
	found, err := s.find(req.GetUserId(), req.GetRealm(), req.GetName())
	if err != nil {
		return nil, err
	}
	read := found.active()
	if req.GetVersion() != 0 {
		at := slices.IndexFunc(found.versions, func(v *version) bool { return v.metadata.GetVersion() == req.GetVersion() })
		if at < 0 || found.versions[at].metadata.GetStatus() == agentrouter.StatusRetired {
			return nil, notFound()
		}
		read = found.versions[at]
	}
	return &secretv1.GetSecretValueResponse{Value: read.value, Secret: metadata(read)}, nil
}

// find returns a secret, and retires its versions whose grace period is over.
func (s *store) find(owner, realm, name string) (*secret, error) {
	if err := need(field{"name", name}); err != nil {
		return nil, err
	}
	found := s.secrets[placeOf(owner, realm, name)]
	if found == nil {
		return nil, notFound()
	}
	s.expire(found)
	return found, nil
}

// expire retires the versions whose grace period is over.
func (s *store) expire(found *secret) {
	for _, v := range found.versions {
		if v.metadata.GetStatus() == agentrouter.StatusRotatedPending && !s.now().Before(v.metadata.GetExpiresAt().AsTime()) {
			retire(v)
		}
	}
}

// add appends an active version with the metadata of the one before.
func (s *secret) add(value string) {
	next := metadata(s.active())
	next.Version++
	next.Status, next.ExpiresAt = agentrouter.StatusActive, nil
	s.versions = append(s.versions, &version{metadata: next, value: value})
}

func retire(v *version) {
	v.metadata.Status, v.metadata.ExpiresAt, v.value = agentrouter.StatusRetired, nil, ""
}

// metadata is a copy that the caller may change.
func metadata(v *version) *secretv1.Secret {
	copied := &secretv1.Secret{}
	proto.Merge(copied, v.metadata)
	return copied
}

func hasTags(secret *secretv1.Secret, tags map[string]string) bool {
	for key, value := range tags {
		if got, found := secret.GetTags()[key]; !found || got != value {
			return false
		}
	}
	return true
}

type field struct{ name, value string }

// need refuses a request without a field.
func need(fields ...field) error {
	for _, f := range fields {
		if f.value == "" {
			return invalid(f.name, "must be set")
		}
	}
	return nil
}

func invalid(name, rule string) error {
	return &agentrouter.Error{
		Code: agentrouter.CodeInvalidArgument, Reason: agentrouter.ReasonInvalidRequest,
		Message:         "Invalid request: " + name + " " + rule + ".",
		FieldViolations: []agentrouter.FieldViolation{{Field: name, Description: rule}},
	}
}

func notFound() error {
	return &agentrouter.Error{Code: agentrouter.CodeNotFound, Reason: agentrouter.ReasonSecretNotFound,
		Message: "There is no such secret, or no such readable version."}
}

func mismatch() error {
	return &agentrouter.Error{Code: agentrouter.CodeAborted, Reason: agentrouter.ReasonVersionMismatch,
		Message: "expected_version is not the current version. Read the secret and decide again."}
}
