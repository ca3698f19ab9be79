package agentrouter

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// is has the functions of reasons.go by the reason that they report.
var is = map[string]func(error) bool{
	ReasonInvalidRequest: IsInvalidRequest, ReasonMalformedBody: IsMalformedBody, ReasonBodyTooLarge: IsBodyTooLarge,
	ReasonUnsupportedMediaType: IsUnsupportedMediaType, ReasonMethodNotAllowed: IsMethodNotAllowed,
	ReasonUnknownRoute: IsUnknownRoute, ReasonUnauthenticated: IsUnauthenticated, ReasonScopeMissing: IsScopeMissing,
	ReasonRealmNotAllowed: IsRealmNotAllowed, ReasonUserIdNotAllowed: IsUserIdNotAllowed,
	ReasonSecretNotFound: IsSecretNotFound, ReasonVersionMismatch: IsVersionMismatch,
	ReasonVersionsExhausted: IsVersionsExhausted, ReasonPageTokenInvalid: IsPageTokenInvalid,
	ReasonRateLimited: IsRateLimited, ReasonOverloaded: IsOverloaded, ReasonAuditUnavailable: IsAuditUnavailable,
	ReasonStoreUnavailable: IsStoreUnavailable, ReasonOutcomeUnknown: IsOutcomeUnknown,
	ReasonKekUnavailable: IsKekUnavailable, ReasonSecretCorrupt: IsSecretCorrupt, ReasonShuttingDown: IsShuttingDown,
	ReasonDeadlineExceeded: IsDeadlineExceeded, ReasonInternal: IsInternal,
}

// documented are the reasons of docs/errors.md with the names of their codes.
func documented(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([A-Z_]+) \\(").FindAllStringSubmatch(string(page), -1) {
		reasons[row[1]] = row[2]
	}
	return reasons
}

func TestEachDocumentedReasonHasAConstantAndAFunction(t *testing.T) {
	parse := func(name string) *ast.File {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	functions := parse("reasons.go")
	constants := map[string]string{}
	ast.Inspect(parse("errors.go"), func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Reason") {
			literal, _ := spec.Values[0].(*ast.BasicLit)
			value, _ := strconv.Unquote(literal.Value)
			constants[value] = strings.TrimPrefix(spec.Names[0].Name, "Reason")
		}
		return true
	})
	reasons := documented(t)
	if len(reasons) < 20 || len(reasons) != len(constants) || len(reasons) != len(is) {
		t.Fatalf("%d are documented, %d constants, %d functions", len(reasons), len(constants), len(is))
	}
	for reason, code := range reasons {
		if constants[reason] == "" || functions.Scope.Lookup("Is"+constants[reason]) == nil {
			t.Errorf("%s has no constant or no function", reason)
		}
		err := fmt.Errorf("wrapped: %w", &Error{Code: Code(code), Reason: reason})
		if ReasonOf(err) != reason || CodeOf(err) != Code(code) {
			t.Errorf("%s: %s, %s", reason, ReasonOf(err), CodeOf(err))
		}
		for other, reports := range is {
			if reports(err) != (other == reason) {
				t.Errorf("the function of %s reports %v for %s", other, reports(err), reason)
			}
		}
	}
}

func TestAnErrorOfAnotherKindHasNoReason(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), &Error{Code: CodeUnavailable}} {
		for reason, reports := range is {
			if reports(err) {
				t.Errorf("%v is %s", err, reason)
			}
		}
	}
	if !IsDeadlineExceeded(&Error{Code: CodeDeadlineExceeded}) || !IsNotFound(&Error{Code: CodeNotFound}) {
		t.Error("a timeout of the client is not DEADLINE_EXCEEDED, or a 404 not NOT_FOUND")
	}
	if CodeOf(nil) != "" || CodeOf(errors.New("x")) != "" {
		t.Error("an error of another kind has a code")
	}
}
