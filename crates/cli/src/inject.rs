//! `tare secret inject`: fills secrets into a template.
//!
//! `{{ sm://REALM/NAME }}` is replaced by the value, as it is. Other text between `{{` and `}}` belongs to other template
//! languages and stays. All values are read before anything is written.

use zeroize::Zeroizing;

use crate::args::Inject;
use crate::export::write;
use crate::failure::Failure;
use crate::notice::warn;
use crate::output::Output;
use crate::paced_client::PacedClient;
use crate::reference::{Reference, ResolvedReference, SCHEME};
use crate::value::read_text;

/// The largest template, in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// Reads the template and the secrets, and writes the result.
///
/// # Errors
/// When the template has a reference that cannot be read, a secret cannot be read, or the output cannot be written.
pub(crate) async fn inject(client: &PacedClient, output: Output, task: &Inject) -> Result<(), Failure> {
    let template = read_text(&task.template, MOST, "a template has at most 16 MiB")?;
    let pieces = parse(&template)?;
    let mut targets: Vec<ResolvedReference> = Vec::new();
    for piece in &pieces {
        if let Piece::Secret(target) = piece
            && !targets.contains(target)
        {
            targets.push(target.clone());
        }
    }
    if targets.is_empty() {
        warn("the template has no {{ sm://REALM/NAME }} in it");
    }
    let values = client.values(&targets, task.user_id.as_deref().unwrap_or_default()).await?;
    let value = |target: &ResolvedReference| {
        let found = targets.iter().zip(&values).find(|(known, _)| *known == target);
        found.map_or("", |(_, value)| value.as_str())
    };
    let texts = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => text,
        Piece::Secret(target) => value(target),
    });
    let mut content = Zeroizing::new(Vec::with_capacity(texts.clone().map(str::len).sum()));
    texts.for_each(|text| content.extend_from_slice(text.as_bytes()));
    write(output, &task.destination, &content)
}

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// Text that stays.
    Text(&'a str),
    /// A secret to fill in.
    Secret(ResolvedReference),
}

fn parse(template: &str) -> Result<Vec<Piece<'_>>, Failure> {
    let mut pieces = Vec::new();
    let (mut text_start, mut from) = (0, 0);
    while let Some(open) = template[from..].find("{{").map(|at| from + at) {
        let inner = open + 2;
        let body = template[inner..].trim_start();
        if !body.starts_with(SCHEME) {
            from = inner;
            continue;
        }
        let wrong = |rule: &str| {
            let line = template[..open].matches('\n').count() + 1;
            Failure::usage(format!("line {line} of the template has a reference that cannot be read"), rule)
        };
        let length = template[inner..].find("}}").ok_or_else(|| wrong("close it with }}"))?;
        let reference = template[inner..inner + length].trim().parse::<Reference>().map_err(wrong)?;
        let Reference { realm: Some(realm), name, version } = reference else {
            return Err(wrong("write it as {{ sm://REALM/NAME }}"));
        };
        pieces.push(Piece::Text(&template[text_start..open]));
        pieces.push(Piece::Secret(ResolvedReference { realm, name, version }));
        from = inner + length + 2;
        text_start = from;
    }
    pieces.push(Piece::Text(&template[text_start..]));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(realm: &str, name: &str, version: Option<i32>) -> Piece<'static> {
        Piece::Secret(ResolvedReference { realm: realm.into(), name: name.into(), version })
    }

    #[test]
    fn references_are_found_and_other_braces_stay() {
        let pieces = parse("a {{ .Values.x }} {{sm://r/n}}{{ sm://r/n#2 }}\n{{").expect("valid");
        let expected = [
            Piece::Text("a {{ .Values.x }} "),
            secret("r", "n", None),
            Piece::Text(""),
            secret("r", "n", Some(2)),
            Piece::Text("\n{{"),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(parse("").expect("valid"), [Piece::Text("")]);
    }

    #[test]
    fn the_error_for_a_wrong_reference_names_its_line() {
        for wrong in ["x\n{{ sm://r }}", "x\n{{ sm://r/n", "x\n{{ sm://r/n#v }}", "x\n{{ sm://r/a b }}"] {
            let failure = parse(wrong).expect_err(wrong);
            assert!(failure.to_string().starts_with("line 2 "), "{failure}");
        }
    }
}
