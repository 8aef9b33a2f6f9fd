//! Issues, remembers and checks session tokens.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// Lifetimes that EC2 allows, in seconds.
const MAX_TTL: u32 = 21_600;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Keeps every token, even expired ones, for the life of the server, because tests search for them in the analyzer's
/// output.
#[derive(Debug)]
pub(super) struct TokenStore {
    random: File,
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    in_order: Vec<String>,
    expiry: HashMap<String, Instant>,
}

impl TokenStore {
    pub(super) fn open() -> anyhow::Result<Self> {
        let random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
        Ok(Self {
            random,
            issued: Mutex::default(),
        })
    }

    /// `ttl` in seconds, within the limits of [`parse_ttl`].
    pub(super) fn issue(&self, ttl: u32) -> io::Result<String> {
        let mut bytes = [0; 40];
        (&self.random).read_exact(&mut bytes)?;
        let token = encode(&bytes);
        let mut issued = self.lock();
        issued.in_order.push(token.clone());
        issued
            .expiry
            .insert(token.clone(), Instant::now() + Duration::from_secs(ttl.into()));
        Ok(token)
    }

    pub(super) fn is_valid(&self, token: &str) -> bool {
        self.lock()
            .expiry
            .get(token)
            .is_some_and(|expiry| Instant::now() < *expiry)
    }

    pub(super) fn issued(&self) -> Vec<String> {
        self.lock().in_order.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses `X-aws-ec2-metadata-token-ttl-seconds`; `None` if it is invalid.
pub(super) fn parse_ttl(value: &str) -> Option<u32> {
    // `parse` alone would take a sign.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|ttl| digits && (1..=MAX_TTL).contains(ttl))
}

/// base64url: 40 bytes give 56 characters with a final `==`, like EC2's tokens.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .chain(&[0; 2])
            .take(3)
            .fold(0, |group, byte| group << 8 | usize::from(*byte));
        for position in 0..4 {
            let used = position <= chunk.len();
            text.push(if used {
                ALPHABET[group >> (18 - 6 * position) & 63].into()
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_rfc_4648_does() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
        assert_eq!(encode(&[0xfb, 0xff]), "-_8=");
    }

    #[test]
    fn ttl_is_a_number_from_1_to_21600() {
        for (value, ttl) in [("1", Some(1)), ("21600", Some(21_600)), ("0060", Some(60))] {
            assert_eq!(parse_ttl(value), ttl, "{value}");
        }
        for value in ["", "0", "21601", "-1", "+1", "1.5", "1 0", "x", "99999999999"] {
            assert_eq!(parse_ttl(value), None, "{value}");
        }
    }

    #[test]
    fn tokens_have_the_shape_of_ec2_s_and_expire() -> anyhow::Result<()> {
        let store = TokenStore::open()?;
        let (token, expired) = (store.issue(60)?, store.issue(0)?);
        assert_eq!(token.len(), 56);
        assert!(token.ends_with("=="));
        assert!(store.is_valid(&token));
        assert!(!store.is_valid(&expired));
        assert!(!store.is_valid(""));
        assert_eq!(store.issued(), [token, expired]);
        Ok(())
    }
}
