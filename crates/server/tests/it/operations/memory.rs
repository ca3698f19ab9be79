//! What is in the memory of a server: the copies of a KEK, a DEK, a value and an API key, during calls and after them.
//!
//! The test reads `/proc/PID/mem` as root does, so it runs as root. SECURITY.md, "Memory", promises what it asserts.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use agentrouter_sdk::Client;
use agentrouter_sdk::secret::v1::GetSecretValueRequest;
use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;

use crate::support::{Server, within};

/// The limit for each wait, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// How often the value is read over each of the protocols.
const READS: usize = 1_000;

/// Most copies of a value or a key at once, with one call at a time.
const MOST_DURING: usize = 8;
/// Most copies of an API key, which libraries leave in freed buffers and on stacks.
const MOST_OF_KEY: usize = 100;

/// What is looked for, by its name.
type Needles = Vec<(&'static str, Vec<u8>)>;
/// How often each was found.
type Copies = BTreeMap<&'static str, usize>;

/// The bytes of a page on every machine that runs the tests.
const PAGE: u64 = 4096;

/// Counts the needles in all memory of a process that can be written and read.
fn copies(process: u32, needles: &Needles) -> Copies {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("root reads the maps");
    let file = |name: &str| File::open(format!("/proc/{process}/{name}")).expect("root reads the memory");
    let (memory, pages) = (file("mem"), file("pagemap"));
    let mut found: Copies = needles.iter().map(|(name, _)| (*name, 0)).collect();
    let mut read = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else { continue };
        let (from, to) = range.split_once('-').expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        // Pages that cannot be written have the program, or are guards.
        if !access.starts_with("rw") {
            continue;
        }
        for (from, to) in present(&pages, address(from), address(to)) {
            let mut bytes = vec![0; usize::try_from(to - from).expect("it fits")];
            // The pages of `memfd_secret` cannot be read. Others may be unmapped by now.
            if memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            read += bytes.len();
            for (name, needle) in needles {
                *found.get_mut(name).expect("listed") += memchr::memmem::find_iter(&bytes, needle).count();
            }
        }
    }
    assert!(read > 1 << 20, "the memory was read");
    found
}

/// The runs of pages that are in memory or in swap.
fn present(pages: &File, from: u64, to: u64) -> Vec<(u64, u64)> {
    let mut entries = vec![0; usize::try_from((to - from) / PAGE * 8).expect("it fits")];
    if pages.read_exact_at(&mut entries, from / PAGE * 8).is_err() {
        return Vec::new();
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (entry, at) in entries.chunks(8).zip((from..to).step_by(4096)) {
        if u64::from_ne_bytes(entry.try_into().expect("8 bytes")) >> 62 == 0 {
            continue;
        }
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end = at + PAGE,
            _ => runs.push((at, at + PAGE)),
        }
    }
    runs
}

/// The DEK of a version and its sealing key, from the KEK and the stored envelope (the layout is in `crypto::open`).
fn keys_of(kek: &[u8; 32], kek_id: &str, wrapped: &[u8], sealed: &[u8]) -> ([u8; 32], [u8; 32]) {
    let derive = |salt: &[u8], secret: &[u8], info: &[&[u8]]| {
        let mut key = [0; 32];
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
        let expanded = extracted.expand(info, hkdf::HKDF_SHA256).expect("expanded");
        expanded.fill(&mut key).expect("filled");
        key
    };
    let wrap_key = derive(&wrapped[2..34], kek, &[b"wrap", kek_id.as_bytes()]);
    // GCM encrypts as CTR does, from the counter 2 on.
    let counter = [&wrapped[34..46], &[0, 0, 0, 2]].concat();
    let mut dek: [u8; 32] = wrapped[46..78].try_into().expect("32 bytes");
    let key = UnboundCipherKey::new(&AES_256, &wrap_key).expect("a key");
    let iv: [u8; 16] = counter.try_into().expect("16 bytes");
    let context = DecryptionContext::Iv128(iv.into());
    DecryptingKey::ctr(key).expect("a key").decrypt(&mut dek, context).expect("decrypted");
    let sealing = derive(&sealed[2..34], &dek, &[b"seal"]);
    assert_eq!(derive(&sealed[2..34], &dek, &[b"commit"]), sealed[34..66], "it is the DEK");
    (dek, sealing)
}

#[test]
fn after_calls_no_kek_dek_or_value_is_in_memory_that_root_can_read() {
    // Each thread has a stack of its own.
    let server = Server::start_with(&["--threads", "2"]);
    let value = "canary-VqT7xkz9Lw3Rm5Yb8Jc2Nf6Hd4Gs0Pa1";
    let body = format!(r#"{{"name":"a","value":"{value}"}}"#);
    assert_eq!(server.call("POST", "/v1/secrets", &body).status, 200);
    let key = server.issue("ann", "secrets/read,secrets/read/internal", &[]);
    let conn = Connection::open(server.data("secrets.db")).expect("opened");
    let stored = conn.query_row("SELECT kek_id, wrapped_dek, sealed FROM versions", (), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?))
    });
    drop(conn);
    let (kek_id, wrapped, sealed) = stored.expect("a version");
    let file = std::fs::read_to_string(server.data("kek.json")).expect("read");
    let file: serde_json::Value = serde_json::from_str(&file).expect("JSON");
    let text = file["keys"][0]["key"].as_str().expect("a key").to_owned();
    let kek: [u8; 32] = STANDARD.decode(&text).expect("base 64").try_into().expect("32 bytes");
    let (dek, sealing) = keys_of(&kek, &kek_id, &wrapped, &sealed);
    let needles: Needles = vec![
        ("KEK", kek.to_vec()),
        ("KEK in base 64", text.into_bytes()),
        ("DEK", dek.to_vec()),
        ("sealing key", sealing.to_vec()),
        ("value", value.as_bytes().to_vec()),
        // Its secret part.
        ("API key", key.as_bytes()[17..].to_vec()),
    ];
    let process = server.process.id();

    let over_rest = |times: usize| {
        for _ in 0..times {
            let reply = server.call_as(&key, "POST", "/v1/secrets/a/value", r#"{"user_id":"admin"}"#);
            assert_eq!(reply.json()["value"], value);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let over_grpc = |times: usize| {
        runtime.block_on(async {
            let client =
                Client::builder().base_url(&server.process.url).api_key(&key).build().expect("a client");
            for _ in 0..times {
                let request = GetSecretValueRequest {
                    name: "a".into(),
                    user_id: "admin".into(),
                    ..GetSecretValueRequest::default()
                };
                let found = client.secret().get_secret_value(request).await.expect("a value");
                assert_eq!(found.value, value);
            }
        });
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let during = std::thread::scope(|scope| {
        let scan = scope.spawn(|| {
            let mut most = Copies::new();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                for (name, count) in copies(process, &needles) {
                    let seen = most.entry(name).or_default();
                    *seen = count.max(*seen);
                }
            }
            most
        });
        over_rest(READS);
        over_grpc(READS);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        scan.join().expect("no panic")
    });
    // While it is used: in the response, its buffers, and on the stacks of the threads that make it. The KEK is in pages of
    // `memfd_secret`, or once in locked ones. The cache has the sealing key.
    for (name, most) in [
        ("KEK", 1),
        ("KEK in base 64", 0),
        ("DEK", MOST_DURING),
        ("sealing key", MOST_DURING),
        ("value", MOST_DURING),
        ("API key", MOST_OF_KEY),
    ] {
        assert!(during[name] <= most, "during the calls: {during:?}");
    }
    let mut after = Copies::new();
    // Ten seconds are enough on a machine that is not busy.
    let is_clean = within(LIMIT, || {
        after = copies(process, &needles);
        after["value"] + after["DEK"] == 0
    });
    assert!(is_clean, "after the calls: {after:?}");
    for (name, most) in [("KEK", 1), ("KEK in base 64", 0), ("sealing key", 1), ("API key", MOST_OF_KEY)] {
        assert!(after[name] <= most, "after the calls: {after:?}");
    }
}
