//! Generates the messages, the client and the server trait from `proto/api.proto`, without `protoc`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use connectrpc_build::{CodeGenConfig, Config};

fn main() -> Result<(), Box<dyn Error>> {
    for watched in ["build.rs", "proto"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("descriptor.binpb");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).open_file("api.proto")?;
    fs::write(&descriptors, compiler.encode_file_descriptor_set())?;

    let mut messages = CodeGenConfig::default();
    messages.generate_json = true;
    // Unknown fields are not forwarded, and dropping them bounds the memory of a message.
    messages.preserve_unknown_fields = false;
    Config::new()
        .buffa_config(messages)
        .descriptor_set(&descriptors)
        .files(&["api.proto"])
        .gate_client_feature(true)
        .include_file("wire.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
