//! What the fuzz targets in `fuzz/` see of this crate beyond its public items. Compiled with `--cfg fuzzing` alone.

use agentrouter_model::{KekId, Slot};

use crate::aad::Aad;

/// What a sealed value is bound to.
pub fn data_aad(slot: Slot<'_>) -> Vec<u8> {
    Aad::default().data(slot).to_vec()
}

/// What a wrapped DEK is bound to.
pub fn wrap_aad(slot: Slot<'_>, kek_id: &KekId) -> Vec<u8> {
    Aad::default().wrap(slot, kek_id).to_vec()
}

/// What a wrapped internal key is bound to.
pub fn internal_aad(purpose: &str, kek_id: &KekId) -> Vec<u8> {
    Aad::default().internal(purpose, kek_id).to_vec()
}
