//! `tare secret export`: secrets as a `.env` file, as shell assignments, or as a map in JSON or YAML.

use std::collections::BTreeMap;
use std::io;

use zeroize::Zeroizing;

use crate::args::{Destination, Export, Format};
use crate::dotenv;
use crate::failure::Failure;
use crate::output::Output;
use crate::paced_client::PacedClient;
use crate::private_file::{self, Existing};
use crate::selection;
use crate::variable;

/// Reads the secrets and writes them.
///
/// # Errors
/// When the secrets cannot be selected or read, a name has no form in a shell, or the output cannot be written.
pub(crate) async fn export(client: &PacedClient, output: Output, task: &Export) -> Result<(), Failure> {
    if task.shell && output.format != Format::Table {
        return Err(Failure::usage("--shell and --output are both given", "leave one of them out"));
    }
    let selection = selection::select(client, &task.choice).await?;
    let variables = selection::read(client, selection, task.choice.user_id()).await?;
    let unfit = variables.iter().find(|(variable, _)| !variable::is_identifier(variable));
    if let Some((variable, _)) = unfit.filter(|_| task.shell) {
        return Err(Failure::usage(
            format!("a shell has no variable {variable}"),
            "leave --keep-names out, or choose with --only",
        ));
    }
    let content = match output.format {
        Format::Table => {
            let line = if task.shell { dotenv::shell_line } else { dotenv::line };
            let mut content = Zeroizing::new(Vec::with_capacity(variables.iter().map(capacity).sum()));
            for (variable, value) in &variables {
                content.extend_from_slice(line(variable, value).as_bytes());
            }
            content
        }
        Format::Json | Format::Yaml => {
            let map: BTreeMap<&str, &str> =
                variables.iter().map(|(variable, value)| (variable.as_str(), value.as_str())).collect();
            output.encode(&map)
        }
    };
    write(output, &task.destination, &content)
}

/// The longest form of a line, so that the buffer is never moved and no copy stays behind.
fn capacity((variable, value): &(String, Zeroizing<String>)) -> usize {
    variable.len() + 4 * value.len() + 16
}

/// Writes secrets in clear text to the file, or to standard output.
pub(crate) fn write(output: Output, destination: &Destination, content: &[u8]) -> Result<(), Failure> {
    let Some(path) = &destination.out else { return output.bytes(content) };
    let existing = if destination.force { Existing::Replace } else { Existing::Keep };
    private_file::write(path, content, existing).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => "add --force to replace it",
            _ => "check the path; the folder must exist",
        };
        Failure::usage(format!("cannot write {}: {error}", path.display()), hint)
    })
}
