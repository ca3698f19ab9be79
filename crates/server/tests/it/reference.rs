//! The documented curl commands, run by bash with the environment file of the first start.
//!
//! Each command has exactly the documented text: words, quotes, headers, fields. Options that only the test needs (silence,
//! the status of the response) are in a `.curlrc`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use agentrouter_api::routes::ROUTES;
use agentrouter_model::Rpc;
use serde_json::{Value, json};

use crate::support::Server;

/// The fields of the body of a documented command, in their order. Empty if it has no body.
fn documented_fields(rpc: Rpc) -> &'static [&'static str] {
    match rpc {
        Rpc::CreateSecret => &["name", "realm", "description", "value", "tags", "user_id"],
        Rpc::RotateSecret => &["realm", "new_value"],
        Rpc::ValidateSecret => &["realm"],
        Rpc::GetSecretValue => &["realm", "user_id"],
        Rpc::GetSecret | Rpc::ListSecrets | Rpc::DeleteSecret => &[],
    }
}

/// The documented command for `rpc`. `name` is the one in the path; `body` has the documented fields.
fn curl(rpc: Rpc, name: &str, body: &[(&str, Value)]) -> String {
    let route = ROUTES.iter().find(|route| route.rpc == rpc).expect("a route for every call");
    let fields: Vec<&str> = body.iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, documented_fields(rpc), "{rpc} is documented so");

    let mut command = String::from("curl");
    if route.method != "GET" {
        let _ = write!(command, " -X {}", route.method);
    }
    let path = route.template.replace("{name}", name);
    let _ = write!(command, " \"${{AGENTROUTER_BASE_URL}}{path}\"");
    command.push_str(" \\\n -H \"Authorization: Bearer ak-${AGENTROUTER_API_KEY}\"");
    if !body.is_empty() {
        // No character that bash interprets.
        assert!(!body.iter().any(|(_, value)| value.to_string().contains('\'')));
        let lines: Vec<String> = body.iter().map(|(field, value)| format!(" \"{field}\": {value}")).collect();
        let _ = write!(
            command,
            " \\\n -H \"Content-Type: application/json\" \\\n -d '{{\n{}\n }}'",
            lines.join(",\n")
        );
    }
    command
}

/// A directory with a server on `--data-dir data`.
struct Shell {
    server: Server,
}

impl Shell {
    fn open() -> Self {
        let installed = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
        let installed = installed.is_ok_and(|status| status.success());
        assert!(installed, "these tests run the documented commands, for which curl must be installed");
        let shell = Self { server: Server::start() };
        let settings =
            "silent\nshow-error\nmax-time = 20\nnoproxy = \"*\"\nwrite-out = \"\\n%{http_code}\"\n";
        std::fs::write(shell.dir().join(".curlrc"), settings).expect("a settings file for curl");
        shell
    }

    fn dir(&self) -> &Path {
        self.server.process.data_dir().parent().expect("the data directory lies in another")
    }

    /// Runs a command after `. data/bootstrap.env`. Returns the status and the JSON that it prints.
    fn run(&self, command: &str) -> (u16, Value) {
        let output = Command::new("bash")
            .args(["-euc", &format!(". data/bootstrap.env\n{command}")])
            .current_dir(self.dir())
            .env("CURL_HOME", self.dir())
            .env("HOME", self.dir())
            .env_remove("AGENTROUTER_BASE_URL")
            .env_remove("AGENTROUTER_API_KEY")
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}\n{printed}\n{errors}");
        let (body, status) = printed.rsplit_once('\n').expect("a body and a status");
        let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON: {command}\n{printed}"));
        (status.parse().expect("a status"), body)
    }

    /// As [`Shell::run`], for a command that must succeed.
    fn done(&self, command: &str) -> Value {
        let (status, body) = self.run(command);
        assert_eq!(status, 200, "{command}\n{body}");
        body
    }
}

fn create(name: &str, realm: &str, value: &str, user_id: &str) -> String {
    let tags = json!({"env": "prod", "team": "gateway"});
    curl(
        Rpc::CreateSecret,
        "",
        &[
            ("name", name.into()),
            ("realm", realm.into()),
            ("description", "Key for the models of the gateway".into()),
            ("value", value.into()),
            ("tags", tags),
            ("user_id", user_id.into()),
        ],
    )
}

fn value(name: &str, realm: &str, user_id: &str) -> String {
    curl(Rpc::GetSecretValue, name, &[("realm", realm.into()), ("user_id", user_id.into())])
}

#[test]
fn the_seven_commands_do_what_they_say() {
    let shell = Shell::open();
    let name = "openai-api-key";

    let created = shell.done(&create(name, "default", "sk-first", "admin"));
    let secret = &created["secret"];
    assert_eq!(
        (&secret["name"], &secret["realm"], &secret["user_id"]),
        (&json!(name), &json!("default"), &json!("admin"))
    );
    assert_eq!((&secret["status"], &secret["version"]), (&json!("active"), &json!(1)));
    assert_eq!(secret["description"], "Key for the models of the gateway");
    assert_eq!(secret["tags"], json!({"env": "prod", "team": "gateway"}));
    assert_eq!(secret["id"].as_str().map(str::len), Some(26), "a ULID: {secret}");
    assert_eq!(created.get("value"), None, "a response about a secret has no value");
    assert!(!created.to_string().contains("sk-first"));

    assert_eq!(shell.done(&curl(Rpc::GetSecret, name, &[])), created);
    let listed = shell.done(&curl(Rpc::ListSecrets, "", &[]));
    assert_eq!(listed, json!({"secrets": [secret], "next_page_token": ""}));

    let revealed = shell.done(&value(name, "default", "admin"));
    assert_eq!(revealed, json!({"value": "sk-first", "secret": secret}));

    let fields = [("realm", json!("default")), ("new_value", json!("sk-second"))];
    let rotated = shell.done(&curl(Rpc::RotateSecret, name, &fields));
    assert_eq!((&rotated["secret"]["version"], &rotated["secret"]["status"]), (&json!(2), &json!("active")));
    assert_eq!(rotated["secret"]["id"], secret["id"]);
    assert_eq!(rotated["secret"]["tags"], secret["tags"]);
    assert!(rotated["secret"]["rotated_at"].is_string(), "{rotated}");
    assert_eq!(shell.done(&curl(Rpc::GetSecret, name, &[])), rotated);
    assert_eq!(shell.done(&value(name, "default", "admin"))["value"], "sk-second");

    let validated = shell.done(&curl(Rpc::ValidateSecret, name, &[("realm", json!("default"))]));
    assert_eq!(validated, json!({"valid": true, "error": ""}));

    let deleted = shell.done(&curl(Rpc::DeleteSecret, name, &[]));
    assert_eq!(deleted, json!({"success": true}));
    let (status, error) = shell.run(&curl(Rpc::GetSecret, name, &[]));
    assert_eq!((status, &error["code"]), (404, &json!(5)), "{error}");
    let listed = shell.done(&curl(Rpc::ListSecrets, "", &[]));
    assert_eq!(listed, json!({"secrets": [], "next_page_token": ""}));
}

#[test]
fn the_documented_realms_have_the_documented_owners() {
    let shell = Shell::open();
    for (name, realm, user_id, owner) in [
        ("openai-api-key", "llm-providers", "alice", "system"),
        ("anthropic-byok-key", "byok", "alice", "system"),
        ("mcp-oauth-token", "mcp", "alice", "alice"),
        ("otlp-token", "telemetry", "admin", "admin"),
        ("tenant-kek", "kek", "system", "system"),
    ] {
        let plaintext = format!("value of {name}: \\ \"quoted\" – in {realm}");
        let created = shell.done(&create(name, realm, &plaintext, user_id));
        assert_eq!(created["secret"]["user_id"], owner, "{realm}");
        // In an LLM realm both the named user and `system` find it. In other realms the named user is the owner.
        for asked in [user_id, owner] {
            let revealed = shell.done(&value(name, realm, asked));
            assert_eq!(revealed, json!({"value": plaintext, "secret": created["secret"]}));
        }
        // The same command again updates the secret.
        let again = shell.done(&create(name, realm, "another", user_id));
        assert_eq!(
            (&again["secret"]["id"], &again["secret"]["version"]),
            (&created["secret"]["id"], &json!(2))
        );
        assert_eq!(shell.done(&value(name, realm, owner))["value"], "another");
    }
}

/// The documented command, with its placeholders.
fn unfilled(rpc: Rpc) -> String {
    let blank = |field: &&'static str| (*field, if *field == "tags" { json!({}) } else { json!("...") });
    let body: Vec<(&str, Value)> = documented_fields(rpc).iter().map(blank).collect();
    curl(rpc, "01H...", &body)
}

#[test]
fn a_command_without_fields_gets_the_list_of_wrong_fields() {
    let shell = Shell::open();
    for rpc in Rpc::ALL {
        let expected: &[&str] = match rpc {
            Rpc::CreateSecret => &["name", "realm"],
            Rpc::GetSecret | Rpc::DeleteSecret => &["name"],
            Rpc::RotateSecret | Rpc::ValidateSecret | Rpc::GetSecretValue => &["name", "realm"],
            // The command has no placeholders.
            Rpc::ListSecrets => {
                assert_eq!(shell.done(&unfilled(rpc)), json!({"secrets": [], "next_page_token": ""}));
                continue;
            }
        };
        let (status, error) = shell.run(&unfilled(rpc));
        assert_eq!((status, &error["code"]), (400, &json!(3)), "{rpc}: {error}");
        let details = error["details"].as_array().expect("details");
        let of = |kind: &str| {
            let kind = format!("type.googleapis.com/google.rpc.{kind}");
            details.iter().find(|detail| detail["@type"] == *kind).unwrap_or_else(|| panic!("{rpc}: {error}"))
        };
        assert_eq!(of("ErrorInfo")["reason"], "INVALID_REQUEST");
        let violations = of("BadRequest")["field_violations"].as_array().expect("violations");
        let mut fields: Vec<&str> =
            violations.iter().map(|violation| violation["field"].as_str().expect("a name")).collect();
        fields.sort_unstable();
        assert_eq!(fields, expected, "{rpc}: {error}");
        let message = error["message"].as_str().expect("a sentence");
        for field in fields {
            assert!(message.contains(field), "{rpc}: {message}");
        }
        assert!(!error.to_string().contains("01H"), "an error repeats nothing of the request: {error}");
    }
    assert_eq!(shell.done(&curl(Rpc::ListSecrets, "", &[]))["secrets"], json!([]), "nothing was stored");
}

#[test]
fn a_command_without_a_key_gets_the_advice_to_send_one() {
    let shell = Shell::open();
    for rpc in Rpc::ALL {
        let (status, error) = shell.run(&format!("AGENTROUTER_API_KEY=\n{}", unfilled(rpc)));
        assert_eq!((status, &error["code"]), (401, &json!(16)), "{rpc}: {error}");
        assert_eq!(error["details"][0]["reason"], "UNAUTHENTICATED");
        assert!(
            error["message"].as_str().is_some_and(|message| message.contains("Authorization")),
            "{error}"
        );
    }
}

#[test]
fn the_commands_here_are_the_documented_ones() {
    let list = "curl \"${AGENTROUTER_BASE_URL}/v1/secrets\" \\\n \
                -H \"Authorization: Bearer ak-${AGENTROUTER_API_KEY}\"";
    assert_eq!(unfilled(Rpc::ListSecrets), list);
    let rotate = "curl -X POST \"${AGENTROUTER_BASE_URL}/v1/secrets/01H.../rotate\" \\\n \
                  -H \"Authorization: Bearer ak-${AGENTROUTER_API_KEY}\" \\\n \
                  -H \"Content-Type: application/json\" \\\n \
                  -d '{\n \"realm\": \"...\",\n \"new_value\": \"...\"\n }'";
    assert_eq!(unfilled(Rpc::RotateSecret), rotate);
}
