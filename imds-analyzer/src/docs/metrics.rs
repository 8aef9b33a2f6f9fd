//! The tables of `docs/metrics.md`.

use super::{Block, code, table};
use crate::{identity::Identity, loss, sink::metrics::Metrics};

pub(super) fn blocks() -> Vec<Block> {
    vec![("metrics", metrics()), ("losses", losses())]
}

fn metrics() -> String {
    let metrics = Metrics::new(0, &Identity::default()).expect("metrics");
    let rows = metrics.described().iter().map(|metric| {
        let labels: Vec<_> = metric.variable_labels.iter().map(|label| code(label)).collect();
        [code(&metric.fq_name), labels.join(", "), metric.help.clone()]
    });
    table(["metric", "labels", "meaning"], rows)
}

fn losses() -> String {
    let rows = loss::Kind::ALL.iter().map(|kind| {
        [
            code(kind.name()),
            kind.class().as_str().to_owned(),
            kind.meaning().to_owned(),
        ]
    });
    table(["kind", "is a", "meaning"], rows)
}
