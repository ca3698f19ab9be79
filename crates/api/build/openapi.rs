//! Generator of the OpenAPI document from the descriptors: paths from the `google.api.http` annotations, schemas from the
//! messages, texts from their comments. Limits, errors and security, which descriptors do not have, are added here.

use std::error::Error;

use protox::prost_reflect::{
    DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Map, Value, json};

const SERVICE: &str = "agentrouter.secret.v1.SecretService";

/// The HTTP statuses of errors, and their meaning.
const ERRORS: [(&str, &str); 11] = [
    ("400", "The request breaks a rule; the details name each wrong field."),
    ("401", "There is no valid API key."),
    ("403", "The API key lacks the scope, the realm or the user that the request needs."),
    ("404", "The caller may see no such secret."),
    ("409", "`expected_version` is not the current version."),
    ("413", "The request body is larger than 262144 bytes."),
    ("415", "The body is not JSON, or is compressed."),
    ("429", "There were too many requests; `Retry-After` says how long to wait."),
    ("500", "A fault of the server, or a stored secret that does not open."),
    ("503", "The server, its store or its audit log is not available; nothing was done."),
    ("504", "The request did not complete in time."),
];

/// The fields of responses that may be unset. A response has every field, an unset one as null.
const NULLABLE: [&str; 2] = ["rotated_at", "expires_at"];

/// The document as JSON.
pub(crate) fn document(pool: &DescriptorPool, version: &str) -> Result<String, Box<dyn Error>> {
    let service = pool.get_service_by_name(SERVICE).ok_or("the service is missing")?;
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for method in service.methods() {
        let (verb, path) = http_rule(&method)?;
        let operation = operation(&method, &verb, &path, &mut schemas)?;
        paths.entry(path).or_insert_with(|| json!({}))[verb] = operation;
    }
    schemas.insert("Error".into(), error_schema());
    let responses: Map<String, Value> = ERRORS
        .iter()
        .map(|(status, text)| (format!("Error{status}"), error_response(status, text)))
        .collect();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "AgentRouter SecretService",
            "version": version,
            "description": comment(&service.parent_file(), &[12]),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [{ "name": service.name(), "description": comment(&service.parent_file(), service.path()) }],
        "security": [{ "apiKey": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "ak-<key>",
                    "description": "An API key, sent as `Authorization: Bearer ak-<key>`.",
                },
            },
            "schemas": schemas,
            "responses": responses,
        },
    });
    Ok(serde_json::to_string_pretty(&document)?)
}

/// The verb in lower case and the path of a method's `google.api.http` annotation.
fn http_rule(method: &MethodDescriptor) -> Result<(String, String), Box<dyn Error>> {
    let pool = method.parent_pool();
    let extension = pool.get_extension_by_name("google.api.http").ok_or("google.api.http is missing")?;
    let options = method.options();
    let rule = options.get_extension(&extension);
    let rule = rule.as_message().ok_or("google.api.http is no message")?;
    for verb in ["get", "post", "delete"] {
        if rule.has_field_by_name(verb) {
            let path = rule.get_field_by_name(verb).ok_or("unset")?;
            return Ok((verb.to_owned(), path.as_str().ok_or("a path is a string")?.to_owned()));
        }
    }
    Err(format!("{} has no route", method.name()).into())
}

fn operation(
    method: &MethodDescriptor,
    verb: &str,
    path: &str,
    schemas: &mut Map<String, Value>,
) -> Result<Value, Box<dyn Error>> {
    let text = comment(&method.parent_service().parent_file(), method.path());
    let (summary, _) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (in_path, others): (Vec<_>, Vec<_>) =
        method.input().fields().partition(|field| path.contains(&format!("{{{}}}", field.name())));
    let mut parameters: Vec<Value> = in_path
        .iter()
        .map(|field| json!({ "name": field.name(), "in": "path", "required": true, "description": about(field), "schema": limited(field) }))
        .collect();

    let mut responses = Map::new();
    let response = add_message(&method.output(), schemas, &[]);
    responses.insert("200".into(), json!({
        "description": comment(&method.output().parent_file(), method.output().path()),
        "headers": { "Cache-Control": { "description": "Always `no-store`.", "schema": { "type": "string" } } },
        "content": { "application/json": { "schema": response } },
    }));
    for (status, _) in ERRORS {
        responses.insert(status.into(), json!({ "$ref": format!("#/components/responses/Error{status}") }));
    }
    let mut operation = json!({
        "operationId": method.name(),
        "tags": [method.parent_service().name()],
        "summary": summary.trim_end_matches('.').replace('\n', " "),
        "description": text,
        "responses": responses,
    });
    if verb == "post" {
        // In the path a name is required; in the body it may be repeated.
        let in_path: Vec<&str> = in_path.iter().map(FieldDescriptor::name).collect();
        let body = add_message(&method.input(), schemas, &in_path);
        operation["requestBody"] = json!({
            "description": "At most 262144 bytes. Unknown fields, and fields given twice, are refused.",
            "required": in_path.is_empty(),
            "content": { "application/json": { "schema": body } },
        });
    } else {
        parameters.extend(others.iter().map(query_parameter));
    }
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    Ok(operation)
}

fn query_parameter(field: &FieldDescriptor) -> Value {
    let mut parameter = json!({
        "name": field.name(),
        "in": "query",
        "description": about(field),
        "schema": limited(field),
    });
    if field.is_map() {
        parameter["style"] = json!("deepObject");
        parameter["explode"] = json!(true);
    }
    parameter
}

/// Adds the schema of a message and of the messages in it. Returns a reference to it.
fn add_message(message: &MessageDescriptor, schemas: &mut Map<String, Value>, in_path: &[&str]) -> Value {
    let name = message.name().to_owned();
    let is_request = name.ends_with("Request");
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in message.fields() {
        let text = about(&field);
        let must =
            if is_request { text.starts_with("Required") && !in_path.contains(&field.name()) } else { true };
        if must {
            required.push(Value::from(field.name()));
        }
        let mut schema = match field.kind() {
            Kind::Message(inner) if field.is_list() => {
                json!({ "type": "array", "items": add_message(&inner, schemas, &[]) })
            }
            Kind::Message(inner) if !field.is_map() && !inner.full_name().starts_with("google.protobuf.") => {
                add_message(&inner, schemas, &[])
            }
            _ => limited(&field),
        };
        if !is_request && NULLABLE.contains(&field.name()) {
            schema["type"] = json!(["string", "null"]);
        }
        schema["description"] = text.into();
        properties.insert(field.name().into(), schema);
    }
    let mut schema = json!({
        "type": "object",
        "description": comment(&message.parent_file(), message.path()),
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = Value::Array(required);
    }
    if is_request {
        schema["additionalProperties"] = json!(false);
    }
    schemas.insert(name.clone(), schema);
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schema of a field that is not a message of this API. A field of a request has its limits. Limits in bytes are given
/// in characters, of which a text never has more.
fn limited(field: &FieldDescriptor) -> Value {
    let mut schema = match field.kind() {
        _ if field.is_map() => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Int32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Message(message) => match message.name() {
            "Timestamp" => json!({ "type": "string", "format": "date-time" }),
            "Duration" => {
                json!({ "type": "string", "pattern": "^-?[0-9]{1,12}(\\.[0-9]{1,9})?s$", "examples": ["3600s"] })
            }
            _ => json!({ "type": "string", "examples": ["description,tags"] }),
        },
        _ => json!({ "type": "string" }),
    };
    if !field.containing_message_is_request() {
        return schema;
    }
    let limits = match field.name() {
        "name" => {
            json!({ "maxLength": 255, "pattern": "^[A-Za-z0-9_]([A-Za-z0-9._-]{0,253}[A-Za-z0-9_])?$" })
        }
        "realm" => json!({ "maxLength": 64, "pattern": "^([a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?)?$" }),
        "user_id" => json!({ "maxLength": 255, "pattern": "^[A-Za-z0-9._@:+-]*$" }),
        "description" => json!({ "maxLength": 1024 }),
        "value" => json!({ "maxLength": 65536, "writeOnly": true, "format": "password" }),
        "new_value" => json!({ "minLength": 1, "maxLength": 65536, "writeOnly": true, "format": "password" }),
        "name_prefix" => json!({ "maxLength": 255, "pattern": "^[A-Za-z0-9._-]*$" }),
        "status" => json!({ "enum": ["", "active", "rotated_pending", "retired", "any"] }),
        "expected_version" if field.parent_message().name() == "RotateSecretRequest" => {
            json!({ "minimum": 1 })
        }
        "page_size" | "version" | "expected_version" => json!({ "minimum": 0 }),
        "tags" => json!({
            "maxProperties": 64,
            "propertyNames": { "pattern": "^[A-Za-z0-9._/:-]{1,128}$" },
            "additionalProperties": {
                "type": "string",
                "maxLength": 256,
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
            },
        }),
        _ => json!({}),
    };
    if let (Value::Object(schema), Value::Object(limits)) = (&mut schema, limits) {
        schema.extend(limits);
    }
    schema
}

trait InRequest {
    fn containing_message_is_request(&self) -> bool;
}

impl InRequest for FieldDescriptor {
    fn containing_message_is_request(&self) -> bool {
        self.parent_message().name().ends_with("Request")
    }
}

fn about(field: &FieldDescriptor) -> String {
    let text = comment(&field.parent_file(), field.path());
    // The schema of a text has no bounds.
    if field.name() == "grace_period" { format!("{text} From `0s` to `31622400s` (366 days).") } else { text }
}

/// The comment before the element at a path of a file, its lines joined within paragraphs.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    location
        .map_or("", |location| location.leading_comments())
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n")
        .trim()
        .to_owned()
}

fn error_response(status: &str, text: &str) -> Value {
    let mut headers = json!({
        "X-AgentRouter-Reason": { "description": "The reason of the ErrorInfo.", "schema": { "type": "string" } },
    });
    if matches!(status, "429" | "503") {
        headers["Retry-After"] = json!({ "description": "How many seconds to wait, if that is known.", "schema": { "type": "integer" } });
    }
    json!({
        "description": text,
        "headers": headers,
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why a request was refused. It never repeats content of the request.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": { "type": "integer", "format": "int32", "description": "The gRPC status code." },
            "message": { "type": "string", "description": "What happened and what to do, for people." },
            "details": {
                "type": "array",
                "description": "A google.rpc.ErrorInfo with the stable `reason`; a google.rpc.BadRequest with the wrong fields and a google.rpc.RetryInfo where they apply.",
                "items": {
                    "type": "object",
                    "required": ["@type"],
                    "properties": {
                        "@type": { "type": "string" },
                        "reason": { "type": "string" },
                        "domain": { "type": "string" },
                        "metadata": { "type": "object", "additionalProperties": { "type": "string" } },
                        "field_violations": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": { "field": { "type": "string" }, "description": { "type": "string" } },
                            },
                        },
                        "retry_delay": { "type": "string" },
                    },
                },
            },
        },
    })
}
