//! Locked memory for KEKs.
//!
//! All KEKs of a process are in one region of pages that are not swapped out, not dumped and not passed to child processes:
//! `memfd_secret` (Linux 5.14), whose pages not even root can read through `/proc` or the kernel, or else private pages with
//! `mlock` and `MADV_DONTDUMP`. A page without access is before it and behind it. A key is one slot of 32 bytes, which is
//! wiped when the key is dropped. When the region is full, another one is made. Regions are kept for as long as the process
//! lives.
//!
//! If the system refuses to lock the pages, the keys are in pages that may be swapped out ([`key_memory`] says so): a server
//! that does not start would be worse.
//!
//! This is the only module with `unsafe` code, because no safe interface to these calls exists. Invariants: a slot is in the
//! list of free slots or belongs to one [`LockedKey`], never both. A region is never unmapped or moved. A slot is aligned
//! for bytes, and always initialised (the pages begin as zeros).

#![expect(unsafe_code, reason = "memory that is locked and never moves has no safe interface")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroize;

use crate::hazmat::KEY_LEN;

/// How the memory of keys is protected. The later, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyMemory {
    /// It may be swapped out.
    Unlocked,
    /// It is locked, and not in a core dump.
    Locked,
    /// It is locked, and neither root nor the kernel can read it by accident: `memfd_secret`.
    Secret,
}

/// The protection of the memory that new keys get.
pub fn key_memory() -> KeyMemory {
    drop(LockedKey::default());
    pool().kind
}

/// The bytes of a region: 512 keys. It takes a whole page where pages are larger.
const REGION: usize = 16 * 1024;

/// A key in locked memory. It never moves, and is wiped when dropped.
pub(crate) struct LockedKey(NonNull<[u8; KEY_LEN]>);

// SAFETY: a slot belongs to one key, and its bytes are reached through that key alone.
unsafe impl Send for LockedKey {}
// SAFETY: a shared reference to the key gives shared references to the bytes only.
unsafe impl Sync for LockedKey {}

impl Default for LockedKey {
    /// A key of zeros, to be filled.
    fn default() -> Self {
        let mut pool = pool();
        loop {
            if let Some(slot) = pool.free.pop() {
                return Self(slot.0);
            }
            pool.grow();
        }
    }
}

impl Deref for LockedKey {
    type Target = [u8; KEY_LEN];

    fn deref(&self) -> &Self::Target {
        // SAFETY: the slot is initialised, belongs to this key, and its region is never unmapped.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for LockedKey {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as above, and the key is borrowed exclusively.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        self.zeroize();
        pool().free.push(Slot(self.0));
    }
}

/// A slot that belongs to no key.
struct Slot(NonNull<[u8; KEY_LEN]>);

// SAFETY: a free slot is not read or written.
unsafe impl Send for Slot {}

struct Pool {
    free: Vec<Slot>,
    /// That of the last region, or the worst of all.
    kind: KeyMemory,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), kind: KeyMemory::Secret });

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Adds a region.
    fn grow(&mut self) {
        let (base, kind) = match secret().or_else(private) {
            Some(mapped) => mapped,
            // Not even pages: the heap, for as long as the process lives.
            None => (NonNull::from(Box::leak(Box::new([0_u8; REGION]))).cast(), KeyMemory::Unlocked),
        };
        self.kind = self.kind.min(kind);
        let slots = (0..REGION / KEY_LEN).rev().map(|at| {
            // SAFETY: the region has `REGION` bytes from `base` on.
            Slot(unsafe { base.add(at * KEY_LEN) }.cast())
        });
        self.free.extend(slots);
    }
}

/// Pages of `memfd_secret`. None if the kernel or a filter of system calls refuses them, or too much is locked.
fn secret() -> Option<(NonNull<u8>, KeyMemory)> {
    // SAFETY: the call takes flags and returns a new descriptor or an error.
    let opened = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let file = libc::c_int::try_from(opened).ok().filter(|file| *file >= 0)?;
    // SAFETY: the descriptor was just opened.
    let is_sized = unsafe { libc::ftruncate(file, REGION as libc::off_t) } == 0;
    let mapped = if is_sized { map(libc::MAP_SHARED, file) } else { None };
    // SAFETY: the descriptor is this function's. The mapping stays without it.
    unsafe { libc::close(file) };
    let base = mapped?;
    // SAFETY: the pages were just mapped. A failure leaves them as they are: the server's children get them until `exec`.
    unsafe { libc::madvise(base.as_ptr().cast(), REGION, libc::MADV_DONTFORK) };
    Some((base, KeyMemory::Secret))
}

/// Private pages, locked if the system allows it.
fn private() -> Option<(NonNull<u8>, KeyMemory)> {
    let base = map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    let pages = base.as_ptr().cast();
    // SAFETY: the pages were just mapped, and the calls change how the kernel treats them alone.
    let (is_locked, is_not_dumped) = unsafe {
        libc::madvise(pages, REGION, libc::MADV_DONTFORK);
        (libc::mlock(pages, REGION) == 0, libc::madvise(pages, REGION, libc::MADV_DONTDUMP) == 0)
    };
    Some((base, if is_locked && is_not_dumped { KeyMemory::Locked } else { KeyMemory::Unlocked }))
}

/// Maps a region between two pages without access.
fn map(flags: libc::c_int, file: libc::c_int) -> Option<NonNull<u8>> {
    // SAFETY: the call only reads a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let whole = REGION.next_multiple_of(page) + 2 * page;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let reserved = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address that the kernel chooses replaces nothing. The second one replaces the middle of the
    // first, which nothing uses yet.
    unsafe {
        let around = libc::mmap(std::ptr::null_mut(), whole, libc::PROT_NONE, reserved, -1, 0);
        if around == libc::MAP_FAILED {
            return None;
        }
        let middle = around.cast::<u8>().add(page).cast();
        let mapped = libc::mmap(middle, REGION, access, flags | libc::MAP_FIXED, file, 0);
        if mapped == libc::MAP_FAILED {
            libc::munmap(around, whole);
            return None;
        }
        NonNull::new(mapped.cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_apart_and_a_dropped_one_is_wiped_before_it_is_used_again() {
        // More than one region has.
        let mut keys: Vec<LockedKey> = (0..REGION / KEY_LEN + 3).map(|_| LockedKey::default()).collect();
        for (at, key) in keys.iter_mut().enumerate() {
            assert_eq!(**key, [0; KEY_LEN]);
            key.fill(u8::try_from(at % 251 + 1).expect("a byte"));
        }
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(**key, [u8::try_from(at % 251 + 1).expect("a byte"); KEY_LEN]);
        }
        drop(keys);
        let keys: Vec<LockedKey> = (0..REGION / KEY_LEN).map(|_| LockedKey::default()).collect();
        assert!(keys.iter().all(|key| **key == [0; KEY_LEN]));
    }

    #[test]
    fn the_pages_of_keys_are_locked_and_not_dumped() {
        let key = LockedKey::default();
        let address = key.as_ptr() as usize;
        assert!(key_memory() >= KeyMemory::Locked, "the limit on locked memory is {:?}", key_memory());
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("read");
        let mut flags = None;
        let mut is_here = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Ok(from), Ok(to))) =
                range.map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)))
            {
                is_here = (from..to).contains(&address);
            } else if is_here && let Some(found) = line.strip_prefix("VmFlags: ") {
                flags = Some(found.to_owned());
            }
        }
        let flags = flags.expect("the pages are mapped");
        for flag in ["lo", "dd", "dc"] {
            assert!(flags.split(' ').any(|found| found == flag), "{flag} is not among {flags}");
        }
        drop(key);
    }

    #[test]
    fn without_secret_pages_private_ones_are_locked() {
        let (base, kind) = private().expect("pages");
        assert_eq!(kind, KeyMemory::Locked);
        // SAFETY: the pages were just mapped, and nothing else uses them.
        unsafe {
            base.write(7);
            base.add(REGION - 1).write(8);
            assert_eq!((base.read(), base.add(REGION - 1).read()), (7, 8));
        }
    }
}
