//! Times of records, in microseconds since the epoch.

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// Where every fleet begins: 2026-11-01.
pub(super) const BEGIN: u64 = 1_793_491_200 * SECOND;

/// Appends `time` as records have it: `2026-11-01T00:00:00.000000Z`.
pub(super) fn write(to: &mut Vec<u8>, time: u64) {
    let (year, month, day) = date(time / DAY);
    number(to, year, 4);
    to.push(b'-');
    number(to, month, 2);
    to.push(b'-');
    number(to, day, 2);
    to.push(b'T');
    number(to, time / HOUR % 24, 2);
    to.push(b':');
    number(to, time / MINUTE % 60, 2);
    to.push(b':');
    number(to, time / SECOND % 60, 2);
    to.push(b'.');
    number(to, time % SECOND, 6);
    to.push(b'Z');
}

pub(super) fn text(time: u64) -> String {
    let mut text = Vec::new();
    write(&mut text, time);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends `value` with at least `width` digits.
pub(super) fn number(to: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    to.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

/// The date of a day since the epoch: Howard Hinnant's `civil_from_days`, for years after 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_in_records() {
        assert_eq!(text(BEGIN), "2026-11-01T00:00:00.000000Z");
        assert_eq!(text(BEGIN + 120 * DAY - 1), "2027-02-28T23:59:59.999999Z");
        assert_eq!(text(0), "1970-01-01T00:00:00.000000Z");
    }
}
