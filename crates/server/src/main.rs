//! `agentrouter-secrets`: the server and its command line.

/// Without huge pages (its feature `no_thp`): they make nothing faster here, and with them a server at rest holds 20 MiB
/// instead of 15.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    agentrouter_secrets::run()
}
