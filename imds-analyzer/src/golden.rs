//! Comparison with expected text that is kept in files.

use std::path::Path;

/// Compares `actual` with the file `name`, relative to `src/`. With UPDATE_GOLDEN set it writes the file first.
pub(crate) fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).expect("can write testdata");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        actual, expected,
        "{name} differs; if that is intended, run the test with UPDATE_GOLDEN=1"
    );
}
