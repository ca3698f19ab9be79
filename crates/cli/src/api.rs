//! `tare api secret …`: one call of the API each.

use agentrouter_sdk::secret::v1;
use agentrouter_sdk::{SecretClient, types};
use zeroize::Zeroizing;

use crate::args::{Create, Delete, Format, GetValue, List, Named, Rotate, SecretCall, SecretValueCall};
use crate::failure::Failure;
use crate::notice::hint;
use crate::output::{DeleteBody, ListBody, Output, SecretBody, Table, ValidateBody, ValueBody};
use crate::terminal;
use crate::value::Source;

/// Makes the call and prints the response.
pub(crate) async fn call(client: &SecretClient, output: Output, call: SecretCall) -> Result<(), Failure> {
    match call {
        SecretCall::Create(args) => create(client, output, args).await,
        SecretCall::Get(args) => get(client, output, &args).await,
        SecretCall::List(args) => list(client, output, args).await,
        SecretCall::Delete(args) => delete(client, output, &args).await,
        SecretCall::Rotate(args) => rotate(client, output, args).await,
        SecretCall::Validate(args) => validate(client, output, &args).await,
        SecretCall::SecretValue(SecretValueCall::Get(args)) => get_value(client, output, args).await,
    }
}

async fn create(client: &SecretClient, output: Output, args: Create) -> Result<(), Failure> {
    let source = Source {
        flag: "--value",
        inline: args.value,
        file: args.value_file.as_deref(),
        keep_newline: args.keep_newline,
        generate: args.generate,
    };
    let question = format!("Value of {} (hidden; empty keeps a stored one): ", args.which.name);
    // An update may do without a value; whether this is one, only the server knows.
    let value = source.read(args.update_mask.is_none().then_some(question)).await?.unwrap_or_default();
    let request = v1::CreateSecretRequest {
        name: args.which.name.clone(),
        realm: args.which.wire_realm(),
        description: args.description.unwrap_or_default(),
        value: (*value).clone(),
        tags: tags(args.tags)?,
        user_id: args.user_id.unwrap_or_default(),
        expected_version: args.expected_version,
        update_mask: args.update_mask.map(|paths| types::FieldMask { paths, ..Default::default() }).into(),
    };
    print_stored(output, client.create_secret(request).await?.secret.into_option())
}

async fn get(client: &SecretClient, output: Output, args: &Named) -> Result<(), Failure> {
    let request = v1::GetSecretRequest { name: args.name.clone(), realm: args.wire_realm() };
    print_secret(output, client.get_secret(request).await?.secret.into_option())
}

async fn list(client: &SecretClient, output: Output, args: List) -> Result<(), Failure> {
    let request = v1::ListSecretsRequest {
        realm: args.realm.unwrap_or_default(),
        status: args.status.unwrap_or_default(),
        tags: tags(args.tags)?,
        page_size: args.page_size.unwrap_or_default(),
        page_token: args.page_token.unwrap_or_default(),
        name_prefix: args.name_prefix.unwrap_or_default(),
    };
    let body = if args.all {
        ListBody::new(client.list_all(request).collect().await?, String::new())
    } else {
        let page = client.list_secrets(request).await?;
        if !page.next_page_token.is_empty() && output.format == Format::Table {
            let token = &page.next_page_token;
            let body = ListBody::new(page.secrets, token.clone());
            output.print(&body, || body.table())?;
            hint(&format!("there are more; --all shows them all, --page-token {token} the next page"));
            return Ok(());
        }
        ListBody::new(page.secrets, page.next_page_token)
    };
    output.print(&body, || body.table())
}

async fn delete(client: &SecretClient, output: Output, args: &Delete) -> Result<(), Failure> {
    let Named { name, realm } = &args.which;
    if !args.yes {
        confirm(name, realm.as_deref())?;
    }
    let request = v1::DeleteSecretRequest { name: name.clone(), realm: args.which.wire_realm() };
    let body = DeleteBody { success: client.delete_secret(request).await?.success };
    output
        .print(&body, || Table::fields(vec![("deleted", name.clone())]))
        .map_err(|failure| failure.after(|| format!("{name} is deleted")))
}

fn confirm(name: &str, realm: Option<&str>) -> Result<(), Failure> {
    if !terminal::is_interactive() {
        return Err(Failure::usage(
            "delete asks for confirmation, and there is no terminal to ask on",
            "add --yes",
        ));
    }
    let realm = match realm.filter(|realm| !realm.is_empty()) {
        Some(realm) => format!("realm {realm}"),
        None => "the key's current realm".to_owned(),
    };
    let question = format!("Delete {name} ({realm}) with all its versions? [y/N]");
    match terminal::ask(&question)?.as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::NotConfirmed),
    }
}

async fn rotate(client: &SecretClient, output: Output, args: Rotate) -> Result<(), Failure> {
    let source = Source {
        flag: "--new-value",
        inline: args.new_value,
        file: args.new_value_file.as_deref(),
        keep_newline: args.keep_newline,
        generate: args.generate,
    };
    let question = format!("New value of {} (hidden): ", args.which.name);
    let value = source.read(Some(question)).await?.filter(|value| !value.is_empty());
    let Some(value) = value else {
        return Err(Failure::usage(
            "rotate needs a new value",
            "give --new-value-file FILE ('-' is standard input), or --generate",
        ));
    };
    let request = v1::RotateSecretRequest {
        name: args.which.name.clone(),
        realm: args.which.wire_realm(),
        new_value: (*value).clone(),
        expected_version: args.expected_version,
        grace_period: args.grace_period.map(types::Duration::from).into(),
    };
    print_stored(output, client.rotate_secret(request).await?.secret.into_option())
}

const INVALID: &str = "'tare api secret rotate NAME' puts a new value in its place; 'agentrouter-secrets doctor' on the \
                       server may say why";

async fn validate(client: &SecretClient, output: Output, args: &Named) -> Result<(), Failure> {
    let request = v1::ValidateSecretRequest { name: args.name.clone(), realm: args.wire_realm() };
    let response = client.validate_secret(request).await?;
    let body = ValidateBody { valid: response.valid, error: response.error };
    output.print(&body, || {
        let mut rows = vec![("valid", body.valid.to_string())];
        if !body.error.is_empty() {
            rows.push(("error", body.error.clone()));
        }
        Table::fields(rows)
    })?;
    if body.valid { Ok(()) } else { Err(Failure::Reported(INVALID)) }
}

async fn get_value(client: &SecretClient, output: Output, args: GetValue) -> Result<(), Failure> {
    let request = v1::GetSecretValueRequest {
        name: args.which.name.clone(),
        realm: args.which.wire_realm(),
        user_id: args.user_id.unwrap_or_default(),
        version: args.version.unwrap_or_default(),
    };
    let response = client.get_secret_value(request).await?;
    let value = Zeroizing::new(response.value);
    if output.format == Format::Table {
        return output.value(&value);
    }
    let body = ValueBody::new(&value, response.secret.into_option().unwrap_or_default());
    output.print(&body, || Table::fields(Vec::new()))
}

/// Prints a secret that was written. If that fails, the error says what is stored.
fn print_stored(output: Output, secret: Option<v1::Secret>) -> Result<(), Failure> {
    let secret = secret.unwrap_or_default();
    let stored = format!("{} is stored as version {}", secret.name, secret.version);
    print_secret(output, Some(secret)).map_err(|failure| failure.after(|| stored))
}

fn print_secret(output: Output, secret: Option<v1::Secret>) -> Result<(), Failure> {
    let body = SecretBody::new(secret.unwrap_or_default());
    output.print(&body, || body.table())
}

/// The tags as the wire has them. A key that is given twice is an error.
pub(crate) fn tags<M>(pairs: Vec<(String, String)>) -> Result<M, Failure>
where
    M: Default + Extend<(String, String)>,
{
    let mut seen = std::collections::BTreeSet::new();
    for (key, _) in &pairs {
        if !seen.insert(key.as_str()) {
            return Err(Failure::usage(
                format!("the tag {key} is given twice"),
                "a tag has one value; give each key once",
            ));
        }
    }
    let mut tags = M::default();
    tags.extend(pairs);
    Ok(tags)
}
