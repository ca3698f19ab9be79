//! `agentrouter-secrets`: the server and its command line.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    agentrouter_secrets::run()
}
