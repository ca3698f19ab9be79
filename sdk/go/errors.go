package agentrouter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// Code is the kind of an error, by the name of its gRPC status code.
type Code string

// The codes of gRPC and Connect.
const (
	// CodeCanceled: the caller canceled the context.
	CodeCanceled Code = "CANCELED"
	// CodeUnknown: the response has no code, for example a redirect of a proxy.
	CodeUnknown Code = "UNKNOWN"
	// CodeInvalidArgument: the request breaks a rule. FieldViolations name the fields.
	CodeInvalidArgument Code = "INVALID_ARGUMENT"
	// CodeDeadlineExceeded: no response arrived in time. It is not known whether a write was made.
	CodeDeadlineExceeded Code = "DEADLINE_EXCEEDED"
	// CodeNotFound: no such secret or version exists among those that the key may access.
	CodeNotFound Code = "NOT_FOUND"
	// CodeAlreadyExists: not used by this service.
	CodeAlreadyExists Code = "ALREADY_EXISTS"
	// CodePermissionDenied: the key lacks a scope, a realm or a user.
	CodePermissionDenied Code = "PERMISSION_DENIED"
	// CodeResourceExhausted: too many requests (RATE_LIMITED), or a request that is too large (BODY_TOO_LARGE).
	CodeResourceExhausted Code = "RESOURCE_EXHAUSTED"
	// CodeFailedPrecondition: the secret has used all its version numbers.
	CodeFailedPrecondition Code = "FAILED_PRECONDITION"
	// CodeAborted: expected_version is not the current version.
	CodeAborted Code = "ABORTED"
	// CodeOutOfRange: not used by this service.
	CodeOutOfRange Code = "OUT_OF_RANGE"
	// CodeUnimplemented: the server does not have this call. The base URL may lead to another program.
	CodeUnimplemented Code = "UNIMPLEMENTED"
	// CodeInternal: the server has a fault, or the stored bytes cannot be opened.
	CodeInternal Code = "INTERNAL"
	// CodeUnavailable: the server cannot be reached or is temporarily unavailable.
	CodeUnavailable Code = "UNAVAILABLE"
	// CodeDataLoss: not used by this service.
	CodeDataLoss Code = "DATA_LOSS"
	// CodeUnauthenticated: the key is unknown, revoked or expired.
	CodeUnauthenticated Code = "UNAUTHENTICATED"
)

// The reasons of the service. A newer server may have more. docs/errors.md explains each.
const (
	ReasonInvalidRequest       = "INVALID_REQUEST"
	ReasonMalformedBody        = "MALFORMED_BODY"
	ReasonBodyTooLarge         = "BODY_TOO_LARGE"
	ReasonUnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE"
	ReasonMethodNotAllowed     = "METHOD_NOT_ALLOWED"
	ReasonUnknownRoute         = "UNKNOWN_ROUTE"
	ReasonUnauthenticated      = "UNAUTHENTICATED"
	ReasonScopeMissing         = "SCOPE_MISSING"
	ReasonRealmNotAllowed      = "REALM_NOT_ALLOWED"
	ReasonUserIdNotAllowed     = "USER_ID_NOT_ALLOWED"
	ReasonSecretNotFound       = "SECRET_NOT_FOUND"
	ReasonVersionMismatch      = "VERSION_MISMATCH"
	ReasonVersionsExhausted    = "VERSIONS_EXHAUSTED"
	ReasonPageTokenInvalid     = "PAGE_TOKEN_INVALID"
	ReasonRateLimited          = "RATE_LIMITED"
	ReasonOverloaded           = "OVERLOADED"
	ReasonAuditUnavailable     = "AUDIT_UNAVAILABLE"
	ReasonStoreUnavailable     = "STORE_UNAVAILABLE"
	ReasonOutcomeUnknown       = "OUTCOME_UNKNOWN"
	ReasonKekUnavailable       = "KEK_UNAVAILABLE"
	ReasonSecretCorrupt        = "SECRET_CORRUPT"
	ReasonShuttingDown         = "SHUTTING_DOWN"
	ReasonDeadlineExceeded     = "DEADLINE_EXCEEDED"
	ReasonInternal             = "INTERNAL"
)

// Error is why a call failed. Find it with [errors.As]. It contains neither the key nor a value.
//
// It wraps the error of the transport, if there is one: errors.Is(err, context.DeadlineExceeded) reports a timeout.
type Error struct {
	// Code is the kind of error.
	Code Code
	// Reason is the stable cause, such as [ReasonSecretNotFound]. Programs should act on it. It is empty if the response
	// did not come from the secret service.
	Reason string
	// Message says what happened and what to do, for people. It is one line of at most 500 characters.
	Message string
	// FieldViolations are the fields of the request that break rules.
	FieldViolations []FieldViolation
	// RequestID identifies the call in the server's log. It is empty if the response has none.
	RequestID string
	// RetryAfter is how long to wait before the next attempt. It is zero if the response does not say.
	RetryAfter time.Duration

	cause error
}

// FieldViolation is one field that breaks its rule.
type FieldViolation struct {
	// Field is its name, such as "page_size".
	Field string
	// Description is its rule, such as "must not be negative".
	Description string
}

// Error returns the code, the reason, the message and the request id in one line.
func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString("agentrouter: " + string(e.Code))
	if e.Reason != "" && e.Reason != string(e.Code) {
		text.WriteString(" (" + e.Reason + ")")
	}
	if e.Message != "" {
		text.WriteString(": " + e.Message)
	}
	if e.RequestID != "" {
		text.WriteString(" [request " + e.RequestID + "]")
	}
	return text.String()
}

// Unwrap returns the error of the transport.
func (e *Error) Unwrap() error { return e.cause }

// Format prints the text of Error for every verb. The wrapped error of the transport is large and adds nothing.
func (e *Error) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.Error()) }

// LogValue returns the parts of the error as a group.
func (e *Error) LogValue() slog.Value {
	attributes := []slog.Attr{slog.String("code", string(e.Code)), slog.String("message", e.Message)}
	if e.Reason != "" {
		attributes = append(attributes, slog.String("reason", e.Reason))
	}
	if e.RequestID != "" {
		attributes = append(attributes, slog.String("request_id", e.RequestID))
	}
	return slog.GroupValue(attributes...)
}

// newError turns an error of the transport into an [Error]. over is the context of the call, with its timeout.
//
// The service puts an ErrorInfo into every error. An error without one comes from the transport or from another program,
// such as a proxy.
func newError(err error, over context.Context) *Error {
	// The transport may report the timeout before the context does, or report it as a broken connection.
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.Is(over.Err(), context.DeadlineExceeded)
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		rpc = connect.NewError(connect.CodeUnknown, err)
	}
	e := &Error{Code: canonical(rpc.Code()), Message: tidy(rpc.Message()), cause: err}
	if connect.IsWireError(err) {
		// It is a response. It may repeat the request, so it is not wrapped.
		e.cause = nil
	}
	e.RequestID = tidy(rpc.Meta().Get("X-Request-Id"))
	if text := rpc.Meta().Get("Retry-After"); retryAfterSeconds.MatchString(text) {
		seconds, _ := strconv.Atoi(text)
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	for _, detail := range rpc.Details() {
		if message, bad := detail.Value(); bad == nil {
			e.add(message)
		}
	}
	switch {
	case e.Reason != "":
	case errors.Is(over.Err(), context.Canceled):
		e.Code, e.Message = CodeCanceled, "the call was canceled"
	case timedOut:
		e.Code, e.Message = CodeDeadlineExceeded, "no response from the server in time"
		if !errors.Is(err, context.DeadlineExceeded) {
			e.cause = context.DeadlineExceeded
		}
	case !connect.IsWireError(err) && rpc.Code() == connect.CodeUnavailable:
		e.Message = "cannot reach the server: " + e.Message
	default:
		e.Message = "the response is not from the secret service: " + e.Message
	}
	return e
}

// retryAfterSeconds is the form of Retry-After that is read. Dates are ignored.
var retryAfterSeconds = regexp.MustCompile(`^[0-9]{1,9}$`)

// add reads one detail. It ignores unknown kinds.
func (e *Error) add(detail any) {
	switch detail := detail.(type) {
	case *errdetails.ErrorInfo:
		e.Reason = tidy(detail.GetReason())
	case *errdetails.BadRequest:
		for _, violation := range detail.GetFieldViolations() {
			e.FieldViolations = append(e.FieldViolations, FieldViolation{
				Field:       tidy(violation.GetField()),
				Description: tidy(violation.GetDescription()),
			})
		}
	case *errdetails.RetryInfo:
		if delay := detail.GetRetryDelay(); delay.IsValid() && delay.AsDuration() > 0 {
			e.RetryAfter = delay.AsDuration()
		}
	}
}

// canonical returns the canonical spelling of a code.
func canonical(code connect.Code) Code {
	return Code(strings.ToUpper(code.String()))
}

// maxMessage is the largest number of characters of a text from a response.
const maxMessage = 500

// keyShape matches a key without its "ak-".
var keyShape = regexp.MustCompile(`[0-9A-Za-z]{16}_[0-9A-Za-z]{49}`)

// tidy returns one line without control characters, because texts may be printed on a terminal, and without keys, because
// a proxy may repeat the request.
func tidy(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "\uFFFD"))
	if len(runes) > 4*maxMessage {
		runes = runes[:4*maxMessage]
	}
	for i, r := range runes {
		if unicode.IsControl(r) {
			runes[i] = ' '
		}
	}
	runes = []rune(keyShape.ReplaceAllLiteralString(string(runes), "…"))
	if len(runes) > maxMessage {
		runes = runes[:maxMessage]
	}
	return strings.TrimSpace(string(runes))
}
