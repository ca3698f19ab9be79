package agentrouter

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	secretv1 "github.com/tetrateio/agentrouter-go/genapi/api/tars/secret/v1"
)

// Every field with the option debug_redact is shown as [REDACTED], in whichever way its message is printed.
func TestPrintedMessagesHaveNoValues(t *testing.T) {
	messages := secretv1.File_tars_secret_v1_secret_proto.Messages()
	checked := 0
	for i := range messages.Len() {
		descriptor := messages.Get(i)
		kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
		if err != nil {
			t.Fatal(err)
		}
		for j := range descriptor.Fields().Len() {
			field := descriptor.Fields().Get(j)
			if options, _ := field.Options().(*descriptorpb.FieldOptions); !options.GetDebugRedact() {
				continue
			}
			checked++
			reflected := kind.New()
			reflected.Set(field, protoreflect.ValueOfString(canary))
			message := reflected.Interface()
			shown := fmt.Sprintf("%v %+v %#v %s %q %x %d", message, message, message, message, message, message, message)
			shown += fmt.Sprint([]proto.Message{message}, map[string]any{"m": message}, struct{ M proto.Message }{message})
			shown += message.(fmt.Stringer).String() + message.(fmt.GoStringer).GoString()
			var log bytes.Buffer
			slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "message", message)
			slog.New(slog.NewTextHandler(&log, nil)).Info("m", "message", message)
			shown += log.String()
			if strings.Contains(shown, canary) || strings.Contains(shown, fmt.Sprintf("%x", canary)) {
				t.Errorf("%s.%s: %s", descriptor.Name(), field.Name(), shown)
			}
			if count := strings.Count(shown, "[REDACTED]"); count != 14 {
				t.Errorf("%s.%s is shown %d times: %s", descriptor.Name(), field.Name(), count, shown)
			}
			if reflected.Get(field).String() != canary {
				t.Error("printing changes the message")
			}
		}
	}
	if checked != 3 {
		t.Errorf("%d fields are redacted", checked)
	}
	var none *secretv1.GetSecretValueResponse
	if got := fmt.Sprint(none, &secretv1.GetSecretRequest{Name: "n"}); got != `<nil> name:"n"` {
		t.Error(got)
	}
}
