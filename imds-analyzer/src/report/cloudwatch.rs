//! What CloudWatch counted, against the records: calls that no record explains were made where nobody watched.
//!
//! The input is what `aws cloudwatch get-metric-data` prints for the metrics `MetadataNoToken` and
//! `MetadataNoTokenRejected` of the namespace `AWS/EC2`. The label of a result names the instance and the metric, as the
//! runbook's queries do: `i-0123456789abcdef0 MetadataNoToken`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::fold::{Fold, Host};
use crate::summary::Answers;

const SUCCEEDED: &str = "MetadataNoToken";
const REJECTED: &str = "MetadataNoTokenRejected";
/// Longest file that is read: a page of results has at most 100,800 data points.
const FILE_MAX: u64 = 256 << 20;

/// The metrics of all instances.
#[derive(Debug, Default)]
pub struct Metrics(BTreeMap<String, Metric>);

/// The sums of one instance's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metric {
    succeeded: u64,
    rejected: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    metric_data_results: Vec<Series>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Series {
    label: String,
    values: Vec<f64>,
    /// `Complete`, `PartialData`, `InternalError` or `Forbidden`.
    status_code: Option<String>,
}

impl Metrics {
    /// Adds a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is something else, or says that data is missing.
    pub fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let size = fs::metadata(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .len();
        ensure!(
            size <= FILE_MAX,
            "{} is too long to be what get-metric-data prints",
            path.display()
        );
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.add(&text).with_context(|| path.display().to_string())
    }

    fn add(&mut self, text: &str) -> anyhow::Result<()> {
        let output: Output =
            serde_json::from_str(text).context("this is not the JSON that `aws cloudwatch get-metric-data` prints")?;
        for series in output.metric_data_results {
            let (instance, name) = series
                .label
                .split_once(' ')
                .with_context(|| format!("the label {:?} is not an instance and a metric", series.label))?;
            ensure!(
                series.status_code.as_deref().is_none_or(|status| status == "Complete"),
                "the data of {:?} is not complete: ask for the next page, or again",
                series.label
            );
            // Sums of counts; a wrong sign counts for nothing.
            let sum = series
                .values
                .iter()
                .map(|value| value.max(0.0).round() as u64)
                .fold(0, u64::saturating_add);
            let metric = self.0.entry(instance.to_owned()).or_default();
            match name {
                SUCCEEDED => metric.succeeded = metric.succeeded.saturating_add(sum),
                REJECTED => metric.rejected = metric.rejected.saturating_add(sum),
                _ => anyhow::bail!("{name:?} is neither {SUCCEEDED} nor {REJECTED}"),
            }
        }
        Ok(())
    }

    pub fn of(&self, instance: &str) -> Option<&Metric> {
        self.0.get(instance)
    }

    /// Hosts that have a metric and no record.
    pub fn without(&self, fold: &Fold) -> Vec<Host> {
        let unknown = self
            .0
            .keys()
            .filter(|instance| !fold.hosts.contains_key(instance.as_str()));
        unknown
            .map(|instance| {
                let mut host = Host::default();
                host.name.at(0, instance);
                host.cloud.instance.at(0, instance);
                host
            })
            .collect()
    }
}

impl Metric {
    /// Calls that were counted and are in no record. An answer that was not seen may have been either.
    pub fn unexplained(&self, answers: &Answers) -> u64 {
        let more = self.succeeded.saturating_sub(answers.succeeded) + self.rejected.saturating_sub(answers.rejected);
        more.saturating_sub(answers.unseen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(label: &str, status: &str) -> String {
        format!(
            r#"{{"MetricDataResults":[{{"Id":"m1","Label":"{label}","Timestamps":["2026-11-22T00:00:00+00:00"],
                "Values":[3.0,4.0],"StatusCode":"{status}"}}],"Messages":[]}}"#
        )
    }

    #[test]
    fn sums_are_compared_with_answers() {
        let mut metrics = Metrics::default();
        metrics
            .add(&results("i-1 MetadataNoToken", "Complete"))
            .expect("understood");
        metrics
            .add(&results("i-1 MetadataNoTokenRejected", "Complete"))
            .expect("understood");
        let metric = metrics.of("i-1").expect("known");
        let answers = |succeeded, rejected, unseen| Answers {
            succeeded,
            rejected,
            unseen,
            ..Answers::default()
        };
        for (answers, unexplained) in [
            (answers(7, 7, 0), 0),
            // Our records may be more: another period, or a status that is not counted.
            (answers(9, 7, 0), 0),
            (answers(5, 7, 0), 2),
            (answers(9, 6, 0), 1),
            (answers(5, 6, 2), 1),
            (answers(0, 0, 0), 14),
        ] {
            assert_eq!(metric.unexplained(&answers), unexplained, "{answers:?}");
        }
        assert_eq!(metrics.without(&Fold::default()).len(), 1);
    }

    #[test]
    fn anything_else_is_an_error() {
        for (text, why) in [
            ("", "not the JSON"),
            ("[]", "not the JSON"),
            (&results("i-1", "Complete"), "not an instance and a metric"),
            (&results("i-1 CPUUtilization", "Complete"), "is neither"),
            (&results("i-1 MetadataNoToken", "PartialData"), "not complete"),
        ] {
            let error = format!("{:#}", Metrics::default().add(text).expect_err(text));
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
