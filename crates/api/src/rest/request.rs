//! The seven requests of REST: their fields, their parsers, and their conversion to the model's requests.

use std::borrow::Cow;

use agentrouter_model::{Refusal, Rpc, rpc};

use super::fields::{Field, Fields};
use super::text::Text;
use super::{body, query};

/// One of the seven requests.
pub trait Request<'a>: Sized {
    /// The RPC.
    const RPC: Rpc;

    /// The model's request.
    type Call<'c>
    where
        Self: 'c;

    /// Parses a request.
    ///
    /// `name` is the decoded name of the path ([`crate::routes::Match::name`]), empty if the route has none. `query` is the
    /// raw query without its `?`, empty if there is none. `body` is the raw body, which must be empty for GET and DELETE.
    ///
    /// # Errors
    /// `MALFORMED_BODY` when the body is not one JSON value in UTF-8. `INVALID_REQUEST` with a violation for each field that
    /// has the wrong type, is given twice, or differs from the path's name. Unknown names are reported as the field `body` or
    /// `query`.
    fn parse(name: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal>;

    /// The model's request, borrowed from this one.
    fn call(&self) -> Self::Call<'_>;
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ident($type:ty),)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub struct $name<'a> {
            $($field: $type,)*
        }

        impl<'a> Fields<'a> for $name<'a> {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            fn field(&mut self, name: &str) -> Option<Field<'_, 'a>> {
                match name {
                    $(stringify!($field) => Some(Field::$kind(&mut self.$field)),)*
                    _ => None,
                }
            }
        }
    };
}

request! {
    /// `POST /v1/secrets`
    CreateSecret {
        name: Text(Text<'a>),
        realm: Text(Text<'a>),
        description: Text(Text<'a>),
        value: Text(Text<'a>),
        tags: Tags(Vec<(Text<'a>, Text<'a>)>),
        user_id: Text(Text<'a>),
        expected_version: OptionalInt(Option<i32>),
        update_mask: Mask(Option<Text<'a>>),
    }
}

request! {
    /// `GET /v1/secrets/{name}`
    GetSecret {
        name: Text(Text<'a>),
        realm: Text(Text<'a>),
    }
}

request! {
    /// `GET /v1/secrets`
    ListSecrets {
        realm: Text(Text<'a>),
        status: Text(Text<'a>),
        tags: Tags(Vec<(Text<'a>, Text<'a>)>),
        page_size: Int(i32),
        page_token: Text(Text<'a>),
        name_prefix: Text(Text<'a>),
    }
}

request! {
    /// `DELETE /v1/secrets/{name}`
    DeleteSecret {
        name: Text(Text<'a>),
        realm: Text(Text<'a>),
    }
}

request! {
    /// `POST /v1/secrets/{name}/rotate`
    RotateSecret {
        name: Text(Text<'a>),
        realm: Text(Text<'a>),
        new_value: Text(Text<'a>),
        expected_version: OptionalInt(Option<i32>),
        grace_period: Duration(Option<(i64, i32)>),
    }
}

request! {
    /// `POST /v1/secrets/{name}/validate`
    ValidateSecret {
        name: Text(Text<'a>),
        realm: Text(Text<'a>),
    }
}

request! {
    /// `POST /v1/secrets/{name}/value`
    GetSecretValue {
        name: Text(Text<'a>),
        realm: Text(Text<'a>),
        user_id: Text(Text<'a>),
        version: Int(i32),
    }
}

/// Parses a request whose fields are in the body.
fn from_body<'a, F: Fields<'a> + Default>(query: &'a str, body: &'a [u8]) -> Result<F, Refusal> {
    let mut request = F::default();
    query::read(&mut request, &[], query)?;
    body::read(&mut request, body)?;
    Ok(request)
}

/// Parses a request whose fields `names` are in the query.
fn from_query<'a, F: Fields<'a> + Default>(
    names: &[&'static str],
    query: &'a str,
    body: &'a [u8],
) -> Result<F, Refusal> {
    if !body.is_empty() {
        return Err(Refusal::field("body", "must be empty"));
    }
    let mut request = F::default();
    query::read(&mut request, names, query)?;
    Ok(request)
}

/// Sets the name of the path. A body may repeat it.
fn put_name<'a>(slot: &mut Text<'a>, name: &'a str) -> Result<(), Refusal> {
    if !slot.is_empty() && **slot != *name {
        return Err(Refusal::field("name", "must be the name in the path, or left out"));
    }
    *slot = Cow::Borrowed(name).into();
    Ok(())
}

fn lend<'c>(tags: &'c [(Text<'_>, Text<'_>)]) -> Vec<(&'c str, &'c str)> {
    tags.iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// The paths of a field mask in proto3 JSON. An empty text has none.
fn paths(mask: &str) -> Vec<&str> {
    mask.split(',').filter(|_| !mask.is_empty()).collect()
}

impl<'a> Request<'a> for CreateSecret<'a> {
    const RPC: Rpc = Rpc::CreateSecret;
    type Call<'c>
        = rpc::CreateSecret<'c>
    where
        Self: 'c;

    fn parse(_: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        from_body(query, body)
    }

    fn call(&self) -> rpc::CreateSecret<'_> {
        rpc::CreateSecret {
            name: &self.name,
            realm: &self.realm,
            description: &self.description,
            value: &self.value,
            tags: lend(&self.tags),
            user_id: &self.user_id,
            expected_version: self.expected_version,
            update_mask: self.update_mask.as_deref().map(paths),
        }
    }
}

impl<'a> Request<'a> for GetSecret<'a> {
    const RPC: Rpc = Rpc::GetSecret;
    type Call<'c>
        = rpc::GetSecret<'c>
    where
        Self: 'c;

    fn parse(name: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        let mut request: Self = from_query(&["realm"], query, body)?;
        put_name(&mut request.name, name)?;
        Ok(request)
    }

    fn call(&self) -> rpc::GetSecret<'_> {
        rpc::GetSecret { name: &self.name, realm: &self.realm }
    }
}

impl<'a> Request<'a> for ListSecrets<'a> {
    const RPC: Rpc = Rpc::ListSecrets;
    type Call<'c>
        = rpc::ListSecrets<'c>
    where
        Self: 'c;

    fn parse(_: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        from_query(Self::NAMES, query, body)
    }

    fn call(&self) -> rpc::ListSecrets<'_> {
        rpc::ListSecrets {
            realm: &self.realm,
            status: &self.status,
            tags: lend(&self.tags),
            page_size: self.page_size,
            page_token: &self.page_token,
            name_prefix: &self.name_prefix,
        }
    }
}

impl<'a> Request<'a> for DeleteSecret<'a> {
    const RPC: Rpc = Rpc::DeleteSecret;
    type Call<'c>
        = rpc::DeleteSecret<'c>
    where
        Self: 'c;

    fn parse(name: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        let mut request: Self = from_query(&["realm"], query, body)?;
        put_name(&mut request.name, name)?;
        Ok(request)
    }

    fn call(&self) -> rpc::DeleteSecret<'_> {
        rpc::DeleteSecret { name: &self.name, realm: &self.realm }
    }
}

impl<'a> Request<'a> for RotateSecret<'a> {
    const RPC: Rpc = Rpc::RotateSecret;
    type Call<'c>
        = rpc::RotateSecret<'c>
    where
        Self: 'c;

    fn parse(name: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        let mut request: Self = from_body(query, body)?;
        put_name(&mut request.name, name)?;
        Ok(request)
    }

    fn call(&self) -> rpc::RotateSecret<'_> {
        rpc::RotateSecret {
            name: &self.name,
            realm: &self.realm,
            new_value: &self.new_value,
            expected_version: self.expected_version,
            grace_period: self.grace_period,
        }
    }
}

impl<'a> Request<'a> for ValidateSecret<'a> {
    const RPC: Rpc = Rpc::ValidateSecret;
    type Call<'c>
        = rpc::ValidateSecret<'c>
    where
        Self: 'c;

    fn parse(name: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        let mut request: Self = from_body(query, body)?;
        put_name(&mut request.name, name)?;
        Ok(request)
    }

    fn call(&self) -> rpc::ValidateSecret<'_> {
        rpc::ValidateSecret { name: &self.name, realm: &self.realm }
    }
}

impl<'a> Request<'a> for GetSecretValue<'a> {
    const RPC: Rpc = Rpc::GetSecretValue;
    type Call<'c>
        = rpc::GetSecretValue<'c>
    where
        Self: 'c;

    fn parse(name: &'a str, query: &'a str, body: &'a [u8]) -> Result<Self, Refusal> {
        let mut request: Self = from_body(query, body)?;
        put_name(&mut request.name, name)?;
        Ok(request)
    }

    fn call(&self) -> rpc::GetSecretValue<'_> {
        rpc::GetSecretValue {
            name: &self.name,
            realm: &self.realm,
            user_id: &self.user_id,
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests;
