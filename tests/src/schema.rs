//! The schema that the analyzer prints, and checks of records against it.

use std::sync::OnceLock;

use serde_json::Value;

use crate::imds_analyzer;

static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();

/// The schema that `imds-analyzer schema` prints.
pub fn schema() -> &'static jsonschema::Validator {
    SCHEMA.get_or_init(|| {
        let schema = serde_json::from_str(&imds_analyzer(&["schema"]).stdout).expect("JSON");
        jsonschema::validator_for(&schema).expect("a schema")
    })
}

/// True if tests of this program check records against the schema.
pub(crate) fn is_in_use() -> bool {
    SCHEMA.get().is_some()
}

/// Fails unless `record` fits the schema.
pub fn fits_schema(record: &Value) {
    let errors: Vec<_> = schema().iter_errors(record).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?} in {record:#}");
}
