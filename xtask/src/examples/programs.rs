//! The commands of each language, and the expected outputs.

use super::Language;

/// The RPCs in the order in which they run. Each uses the secrets of those before it.
pub(super) const CALLS: [&str; 7] = [
    "create-secret",
    "get-secret",
    "list-secrets",
    "rotate-secret",
    "validate-secret",
    "get-secret-value",
    "delete-secret",
];

pub(super) const LANGUAGES: [Language; 3] = [
    Language {
        name: "go",
        file: "main.go",
        install: "go mod tidy",
        check: "go vet ./...",
        run: &["go", "run", "."],
        request: ("req := &secretv1.", "\n\t}"),
        carries_on: false,
        prints: [
            "version:1",
            r#"name:"openai-api-key" realm:"llm-providers" user_id:"system""#,
            r#"tags:{key:"env" value:"prod"}"#,
            "version:2",
            "valid:true",
            "value: sk-example-second",
            "success:true",
        ],
    },
    Language {
        name: "python",
        file: "main.py",
        install: "python3 -m venv .venv && . .venv/bin/activate && pip install --quiet --upgrade pip && \
                  pip install --quiet -r requirements.txt",
        check: "",
        run: &[".venv/bin/python", "main.py"],
        request: ("req = secret_pb2.", "\n)"),
        carries_on: true,
        prints: [
            "version: 1",
            r#"name: "openai-api-key" realm: "llm-providers" user_id: "system""#,
            r#"tags { key: "env" value: "prod" }"#,
            "version: 2",
            "valid: true",
            "value: sk-example-second",
            "success: true",
        ],
    },
    Language {
        name: "typescript",
        file: "index.ts",
        install: "npm install --no-audit --no-fund",
        check: "npx tsc -p .",
        run: &["npx", "tsx", "index.ts"],
        request: ("const req =", "\n}"),
        carries_on: true,
        prints: [
            "version: 1",
            "name: 'openai-api-key', realm: 'llm-providers', userId: 'system'",
            // Node prints no deeper levels.
            "secrets: [ { '$typeName': 'agentrouter.secret.v1.Secret'",
            "version: 2",
            "valid: true",
            "value: sk-example-second",
            "success: true",
        ],
    },
];
