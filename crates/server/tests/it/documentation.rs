//! The documented commands are run, and documented tables are compared with the code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentrouter_secrets::settings::SETTINGS;
use serde_json::Value;

use crate::postgres::Fleet;
use crate::support::{Server, binary, copy, root, tare};

/// The pages whose `bash` blocks are run. On every other page, a command that is not run is marked `console`.
const RUN: [&str; 4] = ["README.md", "docs/api.md", "docs/operations.md", "docs/tare.md"];

/// The pages whose `bash` blocks the tests of the KMS plugin run: `crates/kms/tests/counterparts`.
const RUN_WITH_COUNTERPARTS: [&str; 3] =
    ["docs/kek/aws-kms.md", "docs/kek/pkcs11.md", "docs/kek/vault-transit.md"];

/// A fenced block of a page.
#[derive(Debug)]
struct Block {
    language: String,
    text: String,
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The fenced blocks of a page, in order.
fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

fn is_shell(block: &Block) -> bool {
    ["bash", "sh", "shell", "zsh"].contains(&block.language.as_str())
}

/// Every page of the project in Markdown.
fn pages() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("a folder of the project").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            if entry.file_type().expect("a kind").is_dir() {
                if !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// The prelude of every block: a `curl` that fails when the server refuses, and prints the response on one line.
const PRELUDE: &str = r#"
curl() {
    local response
    response="$(command curl --silent --show-error --fail-with-body --max-time 10 "$@")" || {
        echo "curl $* was refused: $response" >&2
        return 1
    }
    printf '%s\n' "$response"
}
"#;

/// Runs a block as documented, in the folder with `data/`. Returns its standard output.
fn run(server: &Server, text: &str, path: &Path) -> String {
    let folder = server.process.data_dir().parent().expect("the folder that data/ is in");
    let path = std::env::join_paths(
        [path, binary().parent().expect("a folder"), tare().parent().expect("a folder")]
            .into_iter()
            .map(Path::to_owned)
            .chain(std::env::split_paths(&std::env::var_os("PATH").expect("a PATH"))),
    );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c"])
        .arg(format!("{PRELUDE}{text}"))
        .current_dir(folder)
        .env("PATH", path.expect("a PATH"))
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// The environment that a reader of the pages has set up: see the top of `docs/api.md`.
const ENVIRONMENT: &str = "set -a; . data/bootstrap.env; set +a\n";

/// The responses among the lines. None may be an error.
fn responses(out: &str) -> Vec<Value> {
    let responses: Vec<Value> = out
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    for response in &responses {
        assert!(response.get("code").is_none(), "{response}");
    }
    responses
}

/// The paths of all members, such as `secret.tags.env`.
fn members(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Value::Object(object) = value {
        for (key, member) in object {
            let path = format!("{at}.{key}");
            members(member, &path, found);
            found.insert(path);
        }
    }
}

#[test]
fn the_commands_of_the_front_page_do_what_it_says() {
    let page = read("README.md");
    let shell: Vec<String> = blocks(&page).into_iter().filter(is_shell).map(|block| block.text).collect();
    let [build, curls, cli] = &shell[..] else { panic!("{} blocks", shell.len()) };
    // These two build the server and run the tests. Both have run before this test.
    let commands: Vec<&str> =
        build.lines().filter_map(|line| line.split('#').next()).map(str::trim).collect();
    assert_eq!(commands, ["cargo run --release -p agentrouter-secrets -- serve", "cargo xtask test"]);

    let server = Server::start();
    let folder = server.process.data_dir().parent().expect("a folder").to_owned();
    let out = run(&server, curls, &folder);
    let responses = responses(&out);
    assert_eq!(responses.len(), 4, "{out}");
    assert_eq!(responses[1]["secrets"][0]["name"], "openai-api-key", "{out}");
    assert_eq!(responses[2]["secret"]["version"], 2, "{out}");
    assert_eq!(responses[3]["value"], "sk-second", "{out}");

    // The file and the program that the page requires.
    std::fs::write(folder.join("providers.env"), PROVIDERS).expect("written");
    std::fs::create_dir(folder.join("bin")).expect("made");
    let python = folder.join("python");
    std::fs::write(&python, "#!/bin/sh\necho \"$1 has $OPENAI_API_KEY and $GEMINI_API_KEY\"\n")
        .expect("written");
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    copy(&python, &folder.join("bin/python"));
    let install = cli.lines().next().expect("a line");
    assert!(install.starts_with("cargo install --path crates/cli "), "{install}");
    let out = run(&server, &cli.replace(install, ""), &folder.join("bin"));
    assert!(out.contains("3 created\n"), "{out}");
    assert!(out.contains("ANTHROPIC_API_KEY"), "{out}");
    assert!(out.ends_with("gateway.py has sk-proj-1 and AIza-3\n"), "{out}");
}

const PROVIDERS: &str = "\
# three providers
OPENAI_API_KEY=sk-proj-1
ANTHROPIC_API_KEY=\"sk-ant-2\"
export GEMINI_API_KEY=AIza-3
";

#[test]
fn the_commands_of_the_api_page_run_in_order_with_the_documented_responses() {
    let server = Server::start();
    let folder = server.process.data_dir().parent().expect("a folder").to_owned();
    let page = blocks(&read("docs/api.md"));
    let (mut ran, mut compared) = (0, 0);
    for (i, block) in page.iter().enumerate().filter(|(_, block)| is_shell(block)) {
        let out = run(&server, &format!("{ENVIRONMENT}{}", block.text), &folder);
        let responses = responses(&out);
        assert_eq!(responses.len(), 1, "{}\n{out}", block.text);
        ran += 1;
        let Some(shown) = page.get(i + 1).filter(|next| next.language == "json") else { continue };
        let shown: Value = serde_json::from_str(&shown.text).expect("a response in JSON");
        let (mut documented, mut returned) = (BTreeSet::new(), BTreeSet::new());
        members(&shown, "", &mut documented);
        members(&responses[0], "", &mut returned);
        assert_eq!(documented, returned, "{}", block.text);
        compared += 1;
    }
    assert_eq!((ran, compared), (8, 3), "a block was added or lost: see that it is still run");
}

#[test]
fn the_commands_of_the_operations_page_run() {
    let server = Server::start();
    let folder = server.process.data_dir().parent().expect("a folder").to_owned();
    let page = blocks(&read("docs/operations.md"));
    let shell: Vec<&Block> = page.iter().filter(|block| is_shell(block)).collect();
    assert!(shell.len() >= 4, "{} blocks", shell.len());
    for block in shell {
        run(&server, &format!("{ENVIRONMENT}{}", block.text), &folder);
    }
    let verified = run(&server, "agentrouter-secrets audit verify --data-dir data", &folder);
    assert!(verified.ends_with(": the chain is whole\n"), "{verified}");
}

#[test]
fn the_commands_of_the_page_of_tare_run() {
    let server = Server::start();
    let folder = server.process.data_dir().parent().expect("a folder").to_owned();
    let page = blocks(&read("docs/tare.md"));
    let shell: Vec<&Block> = page.iter().filter(|block| is_shell(block)).collect();
    let [login, completion, one, many] = &shell[..] else { panic!("{} blocks", shell.len()) };
    let out = run(&server, &login.text, &folder);
    assert!(out.contains("(from profile default)\n"), "{out}");
    let complete = format!("{}\ncomplete -p tare", completion.text);
    assert!(run(&server, &complete, &folder).contains("-F _clap_complete_tare tare\n"));
    let out = run(&server, &one.text, &folder);
    assert!(out.contains("rotated_pending"), "{out}");
    assert!(out.ends_with("sk-seconddeleted  openai-api-key\n"), "{out}");
    let out = run(&server, &many.text, &folder);
    assert!(out.contains("realm app: 2 created\n"), "{out}");
    assert!(out.contains("realm app: 1 rotated, 1 unchanged\n"), "{out}");
    assert!(out.ends_with("the key is sk-2\nOPENAI_API_KEY=sk-2\nREGION=eu\n"), "{out}");
    assert_eq!(std::fs::read_to_string(folder.join("app.yaml")).expect("written"), "key: sk-2\n");
}

#[test]
fn a_command_on_any_other_page_is_marked_as_one_that_is_not_run() {
    let pages = pages();
    let run = [&RUN[..], &RUN_WITH_COUNTERPARTS].concat();
    for page in &run {
        assert!(pages.iter().any(|found| found == page), "{page} is not among {pages:?}");
    }
    for page in pages.iter().filter(|page| !run.contains(&page.as_str())) {
        let shell: Vec<Block> = blocks(&read(page)).into_iter().filter(is_shell).collect();
        assert!(shell.is_empty(), "{page} has commands that no test runs; mark them 'console': {shell:?}");
    }
}

#[test]
fn the_page_of_settings_lists_exactly_the_settings_there_are() {
    let mut table = String::from("| key | flag | variable | default | what it is |\n|---|---|---|---|---|\n");
    for setting in SETTINGS.iter() {
        let default =
            if setting.default.is_empty() { "unset".to_owned() } else { format!("`{}`", setting.default) };
        let only = if setting.common { "" } else { " ¹" };
        table.push_str(&format!(
            "| `{}`{only} | `--{} {}` | `{}` | {default} | {} |\n",
            setting.key,
            setting.key.replace('.', "-"),
            setting.value_name,
            setting.variable(),
            setting.help.replace('|', "\\|"),
        ));
    }
    let page = read("docs/settings.md");
    let shown: String =
        page.lines().filter(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    assert!(shown == table, "docs/settings.md is out of date; its table has to be:\n\n{table}");
}

#[test]
fn the_example_of_a_settings_file_is_one_that_the_server_takes() {
    let page = blocks(&read("docs/settings.md"));
    let example = page.iter().find(|block| block.language == "toml").expect("an example");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.toml");
    // The paths of a real installation do not exist here.
    let lines: Vec<&str> = example.text.lines().collect();
    let text = lines.join("\n").replace("/var/lib/agentrouter-secrets", dir.path().to_str().expect("UTF-8"));
    let (tls, text): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("/etc/"));
    assert!(!tls.is_empty());
    std::fs::write(&path, text.join("\n")).expect("written");
    let config = path.to_str().expect("UTF-8");
    let process =
        agentrouter_testkit::ServerProcess::start(binary(), &dir.path().join("d"), &["--config", config]);
    assert!(process.url.starts_with("http://127.0.0.1:"));
}

#[test]
fn the_alarms_and_reasons_of_the_operations_page_are_those_of_the_server() {
    // The metrics of issuers exist only where there may be issuers.
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    let issuer = "[[issuer]]\nname = \"a\"\nissuer = \"a\"\naudience = \"a\"\njwks = \"none.json\"\n[[issuer.rule]]\nmatch = { sub = \"a\" }\nuser = \"a\"\nscopes = [\"secrets/read\"]\n";
    std::fs::write(&config, issuer).expect("written");
    let server = Server::start_with(&["--config", config.to_str().expect("UTF-8")]);
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
    // The metrics of leases exist only where there may be several servers.
    let fleet = Fleet::new();
    let replica = Server::of(fleet.start("one"));
    let metrics = [&server, &replica].map(|server| server.send("GET", "/metrics", &[], b"").body).concat();
    let page = read("docs/operations.md");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut named = 0;
    for (at, _) in page.match_indices("agentrouter_secrets_") {
        let name: String = page[at..].chars().take_while(|c| is_part(*c)).collect();
        assert!(metrics.lines().any(|line| line.starts_with(&name)), "there is no metric {name}");
        named += 1;
    }
    assert!(named >= 6, "{named}");
    // Each counter whose help text says that it is an alarm is on the page.
    for line in metrics.lines().filter(|line| line.starts_with("# HELP ") && line.contains("alarm")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(page.contains(name), "{name} is not on the page");
    }
    for reason in ["SHUTTING_DOWN", "AUDIT_UNAVAILABLE", "KEK_UNAVAILABLE", "STORE_UNAVAILABLE"] {
        assert!(page.contains(reason), "{reason}");
    }
    for file in std::fs::read_dir(server.process.data_dir()).expect("the directory").flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        assert!(page.contains(&format!("`{name}")), "{name} is not on the page");
    }
}

#[test]
fn the_reasons_of_the_sdks_are_those_of_the_server_and_of_the_page() {
    let table: Value = serde_json::from_str(&read("sdk/cases/errors.json")).expect("JSON");
    let table = table["reasons"].as_object().expect("reasons");
    let source = read("crates/model/src/refusal.rs");
    let spellings =
        source.split("impl Reason {").nth(1).and_then(|rest| rest.split("pub const fn code").next());
    let spellings = spellings.expect("Reason::as_str").lines().filter_map(|line| line.split('"').nth(1));
    let mut server: Vec<&str> = spellings.collect();
    server.sort_unstable();
    assert_eq!(server, table.keys().map(String::as_str).collect::<Vec<_>>());
    let page = read("docs/errors.md");
    for (reason, code) in table {
        let row = format!("| `{reason}` | {} (", code.as_str().expect("a code"));
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn the_documented_error_is_the_response_of_the_server() {
    let page = read("docs/errors.md");
    let examples: Vec<Block> = blocks(&page).into_iter().filter(|block| block.language == "json").collect();
    let [example] = &examples[..] else { panic!("one example") };
    let call = page.split("`GET ").nth(1).and_then(|rest| rest.split('`').next()).expect("its call");
    let example: Value = serde_json::from_str(&example.text).expect("JSON");
    assert_eq!(Server::start().call("GET", call, "").json(), example);
}

#[test]
fn the_unit_of_the_operations_page_is_the_one_to_install() {
    let page = blocks(&read("docs/operations.md"));
    let unit = page.iter().find(|block| block.language == "ini").expect("a unit");
    assert_eq!(unit.text, read("deploy/agentrouter-secrets.service"));
    for name in ["agentrouter-secrets.service", "agentrouter-secrets-backup.service"] {
        let text = read(&format!("deploy/{name}"));
        let commands = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
        let ours = commands.filter_map(|line| line.split_once("agentrouter-secrets ")).map(|(_, rest)| rest);
        for command in ours {
            let word = command.split(' ').next().expect("a command");
            let output = Command::new(binary()).args([word, "--help"]).output().expect("the binary runs");
            assert!(output.status.success(), "{name}: {command}");
        }
    }
}

#[test]
fn the_alerting_rules_are_the_alarms_of_the_operations_page() {
    let page = read("docs/operations.md");
    let rules = read("deploy/alerts.yaml");
    let expressions: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 8, "{expressions:?}");
    for expression in &expressions {
        // A vertical bar in a table's cell is written so.
        let cell = format!("| `{}` |", expression.replace('|', "\\|"));
        assert!(page.contains(&cell), "{expression} is not on the page");
    }
    let alarms = page.lines().skip_while(|line| *line != "### Alerts");
    let alarms = alarms.take_while(|line| !line.starts_with("Free space"));
    let rows: Vec<&str> = alarms.filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), expressions.len(), "every alarm of the page is a rule: {rows:?}");
    // Parsed as YAML: two spaces a level, one rule after the other, each with the fields that Prometheus requires.
    let (mut alerts, mut summaries) = (BTreeSet::new(), 0);
    for line in rules.lines() {
        assert!(!line.contains('\t') && line.trim_end() == line, "{line:?}");
        if let Some(name) = line.strip_prefix("      - alert: ") {
            assert!(alerts.insert(name.to_owned()), "{name} twice");
        }
        summaries +=
            usize::from(line.starts_with("        annotations: {summary: \"") && line.ends_with("\"}"));
    }
    assert_eq!((alerts.len(), summaries), (expressions.len(), expressions.len()));
}

#[test]
fn the_load_balancer_configuration_uses_the_probes_of_the_server() {
    let text = read("deploy/haproxy.cfg");
    let server = Server::start();
    for (line, path, status) in [
        ("option httpchk GET /readyz", "/readyz", 200),
        ("http-check expect status 200", "/readyz", 200),
        ("http-request deny if { path /metrics }", "/metrics", 200),
    ] {
        assert!(text.lines().any(|found| found.trim() == line), "{line}");
        assert_eq!(server.send("GET", path, &[], b"").status, status, "{path}");
    }
    for setting in ["drain-time", "shutdown-time", "trusted-proxies", "limit.body-time"] {
        assert!(text.contains(setting) && SETTINGS.iter().any(|known| known.key == setting), "{setting}");
    }
}

#[test]
fn the_compose_file_sets_what_there_is_and_fits_the_load_balancer() {
    let text = read("deploy/compose.yaml");
    let balancer = read("deploy/haproxy.cfg");
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
        line.unwrap_or_else(|| panic!("{key} is not set")).to_owned()
    };
    let mut set = 0;
    for line in text.lines() {
        assert!(!line.contains('\t') && line.trim_end() == line, "{line:?}");
        let Some((variable, _)) = line.trim().split_once(": ") else { continue };
        if variable.starts_with("AGENTROUTER_SECRETS_") {
            assert!(
                SETTINGS.iter().any(|setting| setting.variable() == variable),
                "{variable} is no setting"
            );
            set += 1;
        }
    }
    assert!(set >= 6, "{set}");
    let seconds = |key: &str| humantime_seconds(&value(key));
    let stop = seconds("stop_grace_period");
    assert!(seconds("AGENTROUTER_SECRETS_DRAIN_TIME") + seconds("AGENTROUTER_SECRETS_SHUTDOWN_TIME") < stop);
    assert_eq!(value("AGENTROUTER_SECRETS_TRUSTED_PROXIES"), value("ipv4_address"));
    // The replicas of the compose file are the servers of the load balancer's configuration.
    let replicas: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("  secrets-")?.strip_suffix(':')).collect();
    let servers: BTreeSet<&str> = balancer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("server secrets-")?.split(' ').next())
        .collect();
    assert!(replicas.len() == 2 && replicas == servers, "{replicas:?} {servers:?}");
    let docker = read("deploy/Dockerfile");
    assert!(docker.contains("EXPOSE 8080") && balancer.contains("secrets-1:8080"));
    assert!(docker.contains(" CMD [\"agentrouter-secrets\", \"health\"]\n"));
    for line in docker.lines().filter(|line| line.contains("AGENTROUTER_SECRETS_")) {
        let variable = line.trim().trim_start_matches("ENV ").split('=').next().expect("a name");
        assert!(SETTINGS.iter().any(|setting| setting.variable() == variable), "{variable} is no setting");
    }
}

#[test]
fn the_image_has_the_server_and_beside_it_the_plugin_of_every_provider() {
    let docker = read("deploy/Dockerfile");
    for program in ["agentrouter-secrets", "agentrouter-secrets-kms"] {
        // A build of its own each, so that neither changes the features of the other.
        let build = format!("cargo build --profile dist --locked -p {program} \\\n");
        let install = format!("install -D target/dist/{program} /out/{program}\n");
        assert!(docker.contains(&build) && docker.contains(&install), "{program} is not built");
    }
    let copy = "COPY --from=build /out/agentrouter-secrets /out/agentrouter-secrets-kms /usr/local/bin/\n";
    assert!(docker.contains(copy));
    // Without other features, the plugin has the providers by name.
    let manifest = read("crates/kms/Cargo.toml");
    let default =
        manifest.lines().find_map(|line| line.strip_prefix("default = ")).expect("default features");
    let by_name = ["aws-kms", "azure-key-vault", "gcp-kms", "gcp-secret-manager", "pkcs11", "vault-transit"];
    assert_eq!(default, format!("{by_name:?}"));
    for provider in by_name {
        read(&format!("docs/kek/{provider}.md"));
    }
}

#[test]
fn the_units_are_sandboxed() {
    for name in ["agentrouter-secrets.service", "agentrouter-secrets-backup.service"] {
        let unit = crate::support::root().join("deploy").join(name);
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=true", "--no-pager", "--threshold=15"]).arg(&unit);
        let rated = analyze.output().expect("systemd-analyze runs; it is in the package systemd");
        let text = [rated.stdout, rated.stderr].concat();
        assert!(rated.status.success(), "{name}: {}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn the_load_balancer_accepts_its_configuration_in_a_clean_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let certs = dir.path().join("certs");
    std::fs::create_dir(&certs).expect("made");
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let pem = [issued.cert.pem(), issued.signing_key.serialize_pem()].concat();
    std::fs::write(certs.join("localhost.pem"), pem).expect("written");
    let mut check = Command::new("sh");
    check.args(["-c", "ulimit -n 1024; exec haproxy -c -f \"$0\""]);
    check.arg(crate::support::root().join("deploy/haproxy.cfg")).env("CERTS", &certs).current_dir(dir.path());
    let checked = check.output().expect("sh runs");
    let text = [checked.stdout, checked.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(checked.status.success() && text.contains("Configuration file is valid"), "{text}");
}

#[test]
fn the_role_of_the_compose_file_is_no_superuser_and_serves() {
    let compose = read("deploy/compose.yaml");
    assert!(compose.contains("./postgres-init.sh:/docker-entrypoint-initdb.d/"));
    let url = compose.lines().find_map(|line| line.trim().strip_prefix("AGENTROUTER_SECRETS_DATABASE_URL: "));
    let url = url.expect("a URL").replace("@postgres/", "@127.0.0.1:PORT/");
    let postgres = agentrouter_testkit::Postgres::start("");
    let mut script = Command::new("sh");
    script.arg(crate::support::root().join("deploy/postgres-init.sh"));
    script.env("PGHOST", "127.0.0.1").env("PGPORT", postgres.port().to_string());
    let ran = script.env("POSTGRES_PASSWORD", "it's \\ one").output().expect("sh runs");
    assert!(ran.status.success(), "{ran:?}");
    let roles = "SELECT rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = 'agentrouter'";
    assert_eq!(postgres.sql("postgres", roles), "agentrouter|f|f");
    assert_eq!(
        postgres.sql("postgres", "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'"),
        "t"
    );
    let dir = tempfile::tempdir().expect("a directory");
    let url = url.replace("PORT", &postgres.port().to_string());
    let env = [("AGENTROUTER_SECRETS_DATABASE_URL", url.as_str()), ("PGPASSWORD", "it's \\ one")];
    let process =
        agentrouter_testkit::ServerProcess::start_with(binary(), &dir.path().join("data"), &[], &env);
    assert_eq!(Server::of(process).call("GET", "/v1/secrets", "").status, 200);
}

#[test]
fn the_kubernetes_manifest_sets_what_there_is() {
    let text = read("deploy/kubernetes.yaml");
    let mut set = std::collections::BTreeMap::new();
    for line in text.lines() {
        assert!(!line.contains('\t') && line.trim_end() == line, "{line:?}");
        let Some(pair) = line.trim().strip_prefix("- {name: AGENTROUTER_SECRETS_") else { continue };
        let (name, value) =
            pair.strip_suffix('}').and_then(|pair| pair.split_once(", value: ")).expect("a pair");
        let variable = format!("AGENTROUTER_SECRETS_{name}");
        assert!(SETTINGS.iter().any(|setting| setting.variable() == variable), "{variable} is no setting");
        set.insert(name.to_owned(), value.trim_matches('"').to_owned());
    }
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
        line.unwrap_or_else(|| panic!("{key} is not set")).to_owned()
    };
    let stop: u64 = value("terminationGracePeriodSeconds").parse().expect("a number");
    assert!(humantime_seconds(&set["DRAIN_TIME"]) + humantime_seconds(&set["SHUTDOWN_TIME"]) < stop);
    // The volume is mounted above the data directory, and the image has that user and port.
    assert!(text.contains("mountPath: /var/lib/agentrouter-secrets}"));
    assert_eq!(set["DATA_DIR"], "/var/lib/agentrouter-secrets/data");
    assert_eq!(value("fsGroupChangePolicy"), "OnRootMismatch");
    let docker = read("deploy/Dockerfile");
    assert!(docker.contains(&format!("--uid {} ", value("runAsUser"))) && set["LISTEN"].ends_with(":8080"));
}

/// `30s` as a number.
fn humantime_seconds(text: &str) -> u64 {
    text.strip_suffix('s').and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}
