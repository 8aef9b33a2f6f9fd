//! The normal form of a request target's path, which determines its class.

/// Decodes percent-encoding once; removes empty and `.` segments, scheme, authority, query, fragment and trailing
/// slash; resolves `..`. This is how the classifier reads a target (`imds-analyzer-ebpf/src/classify/path.rs`). A
/// target that is not a path is unchanged.
pub(super) fn normal(target: &str) -> String {
    let Some(path) = path(target) else {
        return target.to_owned();
    };
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let mut segment = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, width)) = next(rest) {
        rest = rest.get(width..).unwrap_or_default();
        match byte {
            b'/' => end(&mut segments, std::mem::take(&mut segment)),
            byte if width == 1 && matches!(byte, b'?' | b'#') => break,
            byte => segment.push(byte),
        }
    }
    end(&mut segments, segment);
    let path = segments.join(&b'/');
    format!("/{}", String::from_utf8_lossy(&path))
}

/// The target from the slash after scheme and authority.
fn path(target: &str) -> Option<&str> {
    const SCHEME: &str = "http://";
    if let Some(path) = target.strip_prefix('/') {
        return Some(path);
    }
    let scheme = target.get(..SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    let rest = target.get(SCHEME.len()..)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let rest = rest.get(end..)?;
    Some(rest.strip_prefix('/').unwrap_or_default())
}

/// The first decoded byte, and the number of bytes that encode it.
fn next(text: &[u8]) -> Option<(u8, usize)> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let first = *text.first()?;
    let encoded = (first == b'%').then(|| digit(1).zip(digit(2))).flatten();
    Some(match encoded {
        // Two digits fit.
        Some((high, low)) => (u8::try_from(high << 4 | low).unwrap_or_default(), 3),
        None => (first, 1),
    })
}

fn end(segments: &mut Vec<Vec<u8>>, segment: Vec<u8>) {
    match segment.as_slice() {
        b"" | b"." => {}
        b".." => {
            segments.pop();
        }
        _ => segments.push(segment),
    }
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::classify::path_class;
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::normal;

    #[test]
    fn one_form() {
        for target in [
            "/latest/meta-data/instance-id",
            "/latest/meta-data/instance-id?x=1",
            "/latest/meta-data/instance-id#/../user-data",
            "//latest/meta-data/instance-id",
            "/latest/./meta-data/instance-id",
            "/latest/meta-data/instance-id/",
            "/latest/meta-data/instance-id//.",
            "/latest/meta-data/instance-id/x/..",
            "/latest/dynamic/../meta-data/instance-id",
            "/../latest/meta-data/instance-id",
            "/latest/meta%2Ddata/%69nstance-id",
            "/latest%2fmeta-data%2Finstance-id",
            "/latest/%2e/meta-data/.%2E/meta-data/instance-id",
            "http://169.254.169.254/latest/meta-data/instance-id",
            "HTTP://user@host:80//latest/meta-data/instance-id?y",
        ] {
            assert_eq!(normal(target), "/latest/meta-data/instance-id", "{target}");
        }
    }

    #[test]
    fn others_stay_apart() {
        for (target, expected) in [
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("latest/meta-data", "latest/meta-data"),
            ("\\latest\\meta-data", "\\latest\\meta-data"),
            ("http://host", "/"),
            ("http://host?/latest", "/"),
            ("https://host/latest", "https://host/latest"),
            ("/latest/%3Fx", "/latest/?x"),
            ("/latest/%252e", "/latest/%2e"),
            ("/latest/%zz%4", "/latest/%zz%4"),
            ("/LATEST", "/LATEST"),
            ("/latest/...", "/latest/..."),
        ] {
            assert_eq!(normal(target), expected, "{target}");
        }
    }

    proptest! {
        /// Rules see the same path as the classifier.
        #[test]
        fn the_class_is_that_of_the_normal_path(
            target in "(http://h)?(/|//|/\\./|/\\.\\./|%2f|/latest|/meta-data|/iam|/instance-id|/security%2Dcredentials|/user-data|%2e|%|\\?|#|/[a-z%.]{0,3}){0,8}"
        ) {
            let path = normal(&target);
            // An encoded `?` or `#` must not end the path.
            let written = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            prop_assert_eq!(path_class(written.as_bytes()), path_class(target.as_bytes()), "{} {}", target, path);
        }

        #[test]
        fn no_target_is_too_bad(target in "\\PC*") {
            let _ = normal(&target);
        }
    }
}
