//! Registers metrics: name, help line and labels are given in one place.

#[cfg(test)]
use prometheus::core::Desc;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector};

#[derive(Default)]
pub(super) struct Register {
    pub(super) registry: Registry,
    /// For the documents: a registry does not list metrics without values.
    #[cfg(test)]
    pub(super) described: Vec<Desc>,
}

impl Register {
    pub(super) fn add<C: Collector + Clone + 'static>(&mut self, metric: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        #[cfg(test)]
        self.described.extend(metric.desc().into_iter().cloned());
        Ok(metric)
    }

    pub(super) fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }
}
