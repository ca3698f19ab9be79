//! `agentrouter-secrets`: the server and its command line.

/// Without huge pages (its feature `no_thp`). They make no request faster here, and with them an idle server uses 20
/// MiB instead of 15.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    agentrouter_secrets::run()
}
