package secretv1

// The text forms of messages: what fmt, String and log/slog print. Fields with the option debug_redact, which are the
// values of secrets, are shown as [REDACTED]. `cargo xtask generate` makes String of every message call redacted.
//
// Deliberately absent: redaction in encodings. proto.Marshal, protojson and encoding/json keep the values.

import (
	"fmt"
	"io"
	"log/slog"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Format prints the text of String for every verb.
func (x *CreateSecretRequest) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, x.String()) }

// GoString returns the text of String.
func (x *CreateSecretRequest) GoString() string { return x.String() }

// LogValue returns the text of String.
func (x *CreateSecretRequest) LogValue() slog.Value { return slog.StringValue(x.String()) }

// Format prints the text of String for every verb.
func (x *RotateSecretRequest) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, x.String()) }

// GoString returns the text of String.
func (x *RotateSecretRequest) GoString() string { return x.String() }

// LogValue returns the text of String.
func (x *RotateSecretRequest) LogValue() slog.Value { return slog.StringValue(x.String()) }

// Format prints the text of String for every verb.
func (x *GetSecretValueResponse) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, x.String()) }

// GoString returns the text of String.
func (x *GetSecretValueResponse) GoString() string { return x.String() }

// LogValue returns the text of String.
func (x *GetSecretValueResponse) LogValue() slog.Value { return slog.StringValue(x.String()) }

// redacted returns the text of a message without the content of its redacted fields.
func redacted(m proto.Message) string {
	if m.ProtoReflect().IsValid() {
		m = proto.Clone(m)
		redact(m.ProtoReflect())
	}
	return prototext.MarshalOptions{}.Format(m)
}

func redact(m protoreflect.Message) {
	// While it ranges, a message may be changed in the current field.
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		options, _ := field.Options().(*descriptorpb.FieldOptions)
		switch {
		case options.GetDebugRedact() && field.Kind() == protoreflect.StringKind && !field.IsList():
			m.Set(field, protoreflect.ValueOfString("[REDACTED]"))
		case options.GetDebugRedact():
			m.Clear(field)
		case field.IsMap() && field.MapValue().Message() != nil:
			value.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
				redact(value.Message())
				return true
			})
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				redact(value.List().Get(i).Message())
			}
		default:
			redact(value.Message())
		}
		return true
	})
}
