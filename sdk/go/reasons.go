package agentrouter

import "errors"

// CodeOf returns the code of an [*Error], or empty.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// ReasonOf returns the reason of an [*Error]. It is empty if the response did not come from the secret service.
func ReasonOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// IsNotFound reports whether err has the code NOT_FOUND, of the service or of a proxy.
func IsNotFound(err error) bool { return CodeOf(err) == CodeNotFound }

// IsInvalidRequest reports whether err has the reason INVALID_REQUEST.
func IsInvalidRequest(err error) bool { return ReasonOf(err) == ReasonInvalidRequest }

// IsMalformedBody reports whether err has the reason MALFORMED_BODY.
func IsMalformedBody(err error) bool { return ReasonOf(err) == ReasonMalformedBody }

// IsBodyTooLarge reports whether err has the reason BODY_TOO_LARGE.
func IsBodyTooLarge(err error) bool { return ReasonOf(err) == ReasonBodyTooLarge }

// IsUnsupportedMediaType reports whether err has the reason UNSUPPORTED_MEDIA_TYPE.
func IsUnsupportedMediaType(err error) bool { return ReasonOf(err) == ReasonUnsupportedMediaType }

// IsMethodNotAllowed reports whether err has the reason METHOD_NOT_ALLOWED.
func IsMethodNotAllowed(err error) bool { return ReasonOf(err) == ReasonMethodNotAllowed }

// IsUnknownRoute reports whether err has the reason UNKNOWN_ROUTE.
func IsUnknownRoute(err error) bool { return ReasonOf(err) == ReasonUnknownRoute }

// IsUnauthenticated reports whether err has the reason UNAUTHENTICATED.
func IsUnauthenticated(err error) bool { return ReasonOf(err) == ReasonUnauthenticated }

// IsScopeMissing reports whether err has the reason SCOPE_MISSING.
func IsScopeMissing(err error) bool { return ReasonOf(err) == ReasonScopeMissing }

// IsRealmNotAllowed reports whether err has the reason REALM_NOT_ALLOWED.
func IsRealmNotAllowed(err error) bool { return ReasonOf(err) == ReasonRealmNotAllowed }

// IsUserIdNotAllowed reports whether err has the reason USER_ID_NOT_ALLOWED.
func IsUserIdNotAllowed(err error) bool { return ReasonOf(err) == ReasonUserIdNotAllowed }

// IsSecretNotFound reports whether err has the reason SECRET_NOT_FOUND.
func IsSecretNotFound(err error) bool { return ReasonOf(err) == ReasonSecretNotFound }

// IsVersionMismatch reports whether err has the reason VERSION_MISMATCH.
func IsVersionMismatch(err error) bool { return ReasonOf(err) == ReasonVersionMismatch }

// IsVersionsExhausted reports whether err has the reason VERSIONS_EXHAUSTED.
func IsVersionsExhausted(err error) bool { return ReasonOf(err) == ReasonVersionsExhausted }

// IsPageTokenInvalid reports whether err has the reason PAGE_TOKEN_INVALID.
func IsPageTokenInvalid(err error) bool { return ReasonOf(err) == ReasonPageTokenInvalid }

// IsRateLimited reports whether err has the reason RATE_LIMITED.
func IsRateLimited(err error) bool { return ReasonOf(err) == ReasonRateLimited }

// IsOverloaded reports whether err has the reason OVERLOADED.
func IsOverloaded(err error) bool { return ReasonOf(err) == ReasonOverloaded }

// IsAuditUnavailable reports whether err has the reason AUDIT_UNAVAILABLE.
func IsAuditUnavailable(err error) bool { return ReasonOf(err) == ReasonAuditUnavailable }

// IsStoreUnavailable reports whether err has the reason STORE_UNAVAILABLE.
func IsStoreUnavailable(err error) bool { return ReasonOf(err) == ReasonStoreUnavailable }

// IsOutcomeUnknown reports whether err has the reason OUTCOME_UNKNOWN.
func IsOutcomeUnknown(err error) bool { return ReasonOf(err) == ReasonOutcomeUnknown }

// IsKekUnavailable reports whether err has the reason KEK_UNAVAILABLE.
func IsKekUnavailable(err error) bool { return ReasonOf(err) == ReasonKekUnavailable }

// IsSecretCorrupt reports whether err has the reason SECRET_CORRUPT.
func IsSecretCorrupt(err error) bool { return ReasonOf(err) == ReasonSecretCorrupt }

// IsShuttingDown reports whether err has the reason SHUTTING_DOWN.
func IsShuttingDown(err error) bool { return ReasonOf(err) == ReasonShuttingDown }

// IsDeadlineExceeded reports whether err is a call that did not finish in time: the server responded so (the reason
// DEADLINE_EXCEEDED), or no response arrived. A change may have been made.
func IsDeadlineExceeded(err error) bool { return CodeOf(err) == CodeDeadlineExceeded }

// IsInternal reports whether err has the reason INTERNAL.
func IsInternal(err error) bool { return ReasonOf(err) == ReasonInternal }
