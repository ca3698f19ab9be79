package agentrouter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// Code is the kind of an error, by its canonical name.
type Code string

// The codes that calls end with. Others are possible when something that is not the secret service answers.
const (
	// CodeCanceled: the caller's context was cancelled.
	CodeCanceled Code = "CANCELED"
	// CodeInvalidArgument: the request breaks a rule; FieldViolations say which.
	CodeInvalidArgument Code = "INVALID_ARGUMENT"
	// CodeDeadlineExceeded: there was no answer in time. Whether a write was done is not known.
	CodeDeadlineExceeded Code = "DEADLINE_EXCEEDED"
	// CodeNotFound: there is no such secret or version among those that the key may see.
	CodeNotFound Code = "NOT_FOUND"
	// CodePermissionDenied: the key lacks a scope, a realm or a user.
	CodePermissionDenied Code = "PERMISSION_DENIED"
	// CodeResourceExhausted: too many requests (RATE_LIMITED), or one too large (BODY_TOO_LARGE).
	CodeResourceExhausted Code = "RESOURCE_EXHAUSTED"
	// CodeFailedPrecondition: the secret has used up its version numbers.
	CodeFailedPrecondition Code = "FAILED_PRECONDITION"
	// CodeAborted: expected_version is not the current version.
	CodeAborted Code = "ABORTED"
	// CodeUnimplemented: the server has no such call; often a base URL that leads elsewhere.
	CodeUnimplemented Code = "UNIMPLEMENTED"
	// CodeInternal: a fault of the server, or a stored value that does not open.
	CodeInternal Code = "INTERNAL"
	// CodeUnavailable: the server cannot be reached or cannot answer now.
	CodeUnavailable Code = "UNAVAILABLE"
	// CodeUnauthenticated: the key is unknown, revoked or expired.
	CodeUnauthenticated Code = "UNAUTHENTICATED"
)

// Error is why a call failed; find it with [errors.As]. It has neither the key nor any value in it.
//
// Its chain goes on to the error of the transport, if it is one, so that errors.Is(err, context.DeadlineExceeded) and the like hold.
type Error struct {
	// Code is the kind of error.
	Code Code
	// Reason is the cause in one stable word, such as "SECRET_NOT_FOUND": what a program should act on. It is empty when
	// the secret service itself did not answer.
	Reason string
	// Message is what was wrong and what to do, for people. One line, at most 500 characters.
	Message string
	// FieldViolations are the fields at fault, when the request broke rules.
	FieldViolations []FieldViolation
	// RequestID finds the call in the server's log; empty when the server did not say.
	RequestID string
	// RetryAfter is how long to wait before the next try; zero when the server did not say.
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

// Error is the code, the reason, the message and the request id in one line.
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

// Format prints what Error says, for every verb: the error of the transport behind it is large and says no more.
func (e *Error) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.Error()) }

// IsNotFound tells whether err says that there is no such secret or version.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeNotFound
}

// newError turns what the transport reports into an [Error]. over is the call's own context, with its timeout.
//
// The service puts an ErrorInfo into every refusal; an error without one comes from the transport or from something that
// is not the service, such as a proxy.
func newError(err error, over context.Context) *Error {
	// The transport may notice the end of the time before the context does, or report it as a broken connection.
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.Is(over.Err(), context.DeadlineExceeded)
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		rpc = connect.NewError(connect.CodeUnknown, err)
	}
	e := &Error{Code: canonical(rpc.Code()), Message: tidy(rpc.Message()), cause: err}
	if connect.IsWireError(err) {
		// It came as an answer: all that it says is taken over, and it may repeat what it was sent.
		e.cause = nil
	}
	e.RequestID = tidy(rpc.Meta().Get("X-Request-Id"))
	if seconds, bad := strconv.Atoi(rpc.Meta().Get("Retry-After")); bad == nil && seconds > 0 {
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
		e.Code, e.Message = CodeCanceled, "the call was cancelled"
	case timedOut:
		e.Code, e.Message = CodeDeadlineExceeded, "no answer from the server in time"
		if !errors.Is(err, context.DeadlineExceeded) {
			e.cause = context.DeadlineExceeded
		}
	case !connect.IsWireError(err) && rpc.Code() == connect.CodeUnavailable:
		e.Message = "cannot reach the server: " + e.Message
	}
	return e
}

// add takes in one detail; kinds that are not known here are passed over.
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

// canonical spells a code as its protobuf definition does.
func canonical(code connect.Code) Code {
	return Code(strings.ToUpper(code.String()))
}

// maxMessage is the longest text of a server, or of what stands in its place, that is passed on, in characters.
const maxMessage = 500

// keyShape is what a key looks like, without its "ak-".
var keyShape = regexp.MustCompile(`[0-9A-Za-z]{16}_[0-9A-Za-z]{49}`)

// tidy makes one line without control characters of what may end on a terminal, and takes out what looks like a key, since
// what stands before the server may repeat what it was sent.
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
