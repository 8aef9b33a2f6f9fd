//! The limit on the requests that the kernel side reports for one user; it only counts the rest.

use imds_analyzer_ebpf::abi::Budget;

/// Requests per second of one user, and burst; a rate of 0 means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelBudget {
    pub rate: u32,
    pub burst: u32,
}

impl Default for KernelBudget {
    fn default() -> Self {
        Self {
            rate: 2000,
            burst: 10_000,
        }
    }
}

impl KernelBudget {
    /// A budget of `rate`, with a burst in the same proportion as the default's.
    pub fn of_rate(rate: u32) -> Self {
        let default = Self::default();
        Self {
            rate,
            burst: rate.saturating_mul(default.burst / default.rate),
        }
    }

    /// The cost of one record and the most that a user can save up, in microseconds.
    pub(super) fn in_kernel(self) -> Budget {
        const SECOND: u32 = 1_000_000;
        let cost = SECOND.checked_div(self.rate).map_or(0, |cost| cost.max(1));
        Budget {
            cost,
            depth: cost.saturating_mul(self.burst),
        }
    }

    /// The line of a plan that `check` prints.
    pub(super) fn describe(self) -> String {
        match self {
            Self { rate: 0, .. } => "budget: none, every call is reported".to_owned(),
            Self { rate, burst } => {
                format!("budget: {rate} calls per second of one user, bursts of {burst}; the rest is only counted")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_microseconds_in_the_kernel() {
        for (rate, burst, expected) in [
            (2000, 10_000, (500, 5_000_000)),
            (1, 5, (1_000_000, 5_000_000)),
            (0, 10_000, (0, 0)),
            // Above one call per microsecond the budget has no practical effect, but it is still a budget.
            (u32::MAX, u32::MAX, (1, u32::MAX)),
            (1, u32::MAX, (1_000_000, u32::MAX)),
        ] {
            let Budget { cost, depth } = KernelBudget { rate, burst }.in_kernel();
            assert_eq!((cost, depth), expected, "{rate} {burst}");
        }
    }

    #[test]
    fn a_burst_is_in_proportion() {
        assert_eq!(KernelBudget::of_rate(2000), KernelBudget::default());
        assert_eq!(KernelBudget::of_rate(1).burst, 5);
        assert_eq!(KernelBudget::of_rate(u32::MAX).burst, u32::MAX);
    }
}
