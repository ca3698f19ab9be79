//! Generates the wire types, the descriptor set and the OpenAPI document from `proto/`, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use connectrpc_build::{CodeGenConfig, Config};

#[path = "build/openapi.rs"]
mod openapi;

/// The definitions to generate code for. No code is generated for their imports.
const FILES: [&str; 2] = ["tars/secret/v1/secret.proto", "google/rpc/error_details.proto"];

/// A library serves this service. Reflection shows it like the others.
const HEALTH: &str = "grpc/health/v1/health.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for watched in ["build.rs", "build", "../../proto"] {
        println!("cargo:rerun-if-changed={watched}");
    }

    let mut compiler =
        protox::Compiler::new([root.clone(), root.join("third_party"), PathBuf::from("build/include")])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let documented = out.join("documented.binpb");
    fs::write(&documented, compiler.encode_file_descriptor_set())?;

    // The descriptors in the binary are for reflection and need no comments.
    compiler.include_source_info(false).open_file(HEALTH)?;
    fs::write(out.join("descriptor.binpb"), compiler.encode_file_descriptor_set())?;

    let mut messages = CodeGenConfig::default();
    messages.generate_json = true;
    // Unknown fields are not forwarded, and dropping them bounds the memory of a message.
    messages.preserve_unknown_fields = false;
    Config::new()
        .buffa_config(messages)
        .descriptor_set(&documented)
        .files(&FILES)
        .gate_client_feature(true)
        .include_file("wire.rs")
        .emit_rerun_directives(false)
        .compile()?;

    let document = openapi::document(&compiler.descriptor_pool(), &env::var("CARGO_PKG_VERSION")?)?;
    fs::write(out.join("openapi.json"), document)?;
    Ok(())
}
