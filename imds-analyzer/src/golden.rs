//! Comparison with expected text that is kept in files.

use std::path::Path;

/// Compares `actual` with the file `name`, relative to `src/`. With UPDATE_GOLDEN set it writes the file first.
pub(crate) fn golden(name: &str, actual: &str) {
    golden_at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name), actual);
}

/// Compares `actual` with the file at `path`, like [`golden`].
pub(crate) fn golden_at(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).expect("can write the file");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "{} differs; if that is intended, run the test with UPDATE_GOLDEN=1",
        path.display()
    );
}
