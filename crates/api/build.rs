//! Generates the wire types, the descriptor set and the OpenAPI document from `proto/`, without a protoc.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use connectrpc_build::{CodeGenConfig, Config};

#[path = "build/openapi.rs"]
mod openapi;

/// The definitions to generate code for; what they import is generated nowhere.
const FILES: [&str; 2] = ["tars/secret/v1/secret.proto", "google/rpc/error_details.proto"];

/// Served by a library, and shown by reflection like our own.
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

    // What the binary carries, for reflection, needs no comments.
    compiler.include_source_info(false).open_file(HEALTH)?;
    fs::write(out.join("descriptor.binpb"), compiler.encode_file_descriptor_set())?;

    let mut messages = CodeGenConfig::default();
    messages.generate_json = true;
    // Nothing passes messages on, and what is not kept cannot be made to cost memory.
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
