use std::{sync::Arc, time::SystemTime};

use imds_analyzer_ebpf::classify::Version;
use proptest::prelude::*;

use super::*;
use crate::{
    event::Process,
    sink::tests::{full_event, minimal_event},
};

fn noise(limits: Limits) -> Noise {
    Noise::new(&Config {
        limits,
        ..Config::default()
    })
}

fn limits(caller: u32, place: u32, user: u32) -> Limits {
    Limits {
        caller,
        place,
        user,
        ..Limits::default()
    }
}

/// A v1 call that is not for credentials.
fn event(uid: u32, unit: &str, caller: &str) -> Event {
    let mut event = full_event();
    event.path_class = PathClass::Plain;
    event.process = Some(Arc::new(Process {
        caller: caller.to_owned(),
        unit: Some(unit.to_owned()),
        system_unit: Some(unit.to_owned()),
        container: None,
        user: crate::event::User {
            id: Some(uid),
            name: None,
        },
        ..Process::default()
    }));
    event
}

fn written(noise: &mut Noise, event: &Event, count: usize, now: Instant) -> usize {
    (0..count)
        .filter(|_| noise.judge(event, now).0 == Decision::Write)
        .count()
}

#[test]
fn a_burst_is_written_and_the_rest_is_counted() {
    let mut noise = noise(limits(3, 100, 100));
    let now = Instant::now();
    let event = event(1, "a.service", "/bin/a");
    assert_eq!(written(&mut noise, &event, 10, now), 3);
    let due = noise.next_due().expect("something is folded");
    assert_eq!(noise.due(now), None);
    let folded = noise.due(due).expect("the window is over");
    assert_eq!(folded.caller.as_deref(), Some("/bin/a"));
    assert_eq!(folded.unit.as_deref(), Some("a.service"));
    assert_eq!(folded.counts.v1, 7);
    assert_eq!(noise.next_due(), None);
    assert_eq!(written(&mut noise, &event, 10, due), 3);
}

#[test]
fn nobody_uses_up_what_is_anothers() {
    let mut noise = noise(limits(5, 20, 50));
    let now = Instant::now();
    for caller in 0..10_000 {
        noise.judge(&event(1, &format!("u{}", caller % 300), &format!("/tmp/{caller}")), now);
    }
    // Calls of another user, and of the same user in another place if there is room, are written.
    assert_eq!(written(&mut noise, &event(2, "b.service", "/bin/b"), 3, now), 3);
    assert!(noise.callers <= CALLERS_PER_USER + PLACES_MAX + 2, "{}", noise.callers);
    assert!(noise.judge(&event(2, "b.service", "/bin/c"), now).1.v1);
    assert!(noise.unannounced() > 0);

    let mut noise = self::noise(limits(5, 20, 50));
    for caller in 0..1000 {
        noise.judge(&event(1, "loud.service", &format!("/tmp/{caller}")), now);
    }
    assert_eq!(written(&mut noise, &event(1, "quiet.service", "/bin/b"), 3, now), 3);
}

#[test]
fn a_day_has_an_end() {
    let mut noise = noise(Limits {
        user_daily: 50,
        ..limits(10, 10, 10)
    });
    let mut now = Instant::now();
    let event = event(1, "a", "/bin/a");
    let mut sum = 0;
    for _ in 0..100 {
        sum += written(&mut noise, &event, 20, now);
        while noise.due(now).is_some() {
            sum += 1;
        }
        now += Duration::from_secs(60);
    }
    // Folded requests are reported once an hour then.
    assert!((50..=53).contains(&sum), "{sum}");
    assert_eq!(written(&mut noise, &event, 20, now + DAY), 10);
}

#[test]
fn the_first_credential_call_is_written_whatever_the_budgets_say() {
    let mut noise = noise(limits(1, 1, 1));
    let now = Instant::now();
    let mut loud = event(1, "a", "/bin/a");
    assert_eq!(written(&mut noise, &loud, 100, now), 1);
    loud.path_class = PathClass::Credential;
    loud.verdict = Verdict::V2;
    assert_eq!(
        noise.judge(&loud, now),
        (
            Decision::Write,
            First {
                v1: false,
                credential: true
            }
        )
    );
    assert_eq!(noise.judge(&loud, now), (Decision::Fold, First::default()));
    let folded = noise.take_folded().expect("folded");
    assert_eq!((folded.counts.v1, folded.counts.v2, folded.credential), (99, 1, 1));
}

#[test]
fn who_is_new_is_said_once() {
    let mut noise = noise(Limits::default());
    let now = Instant::now();
    let first = First {
        v1: true,
        credential: true,
    };
    assert_eq!(noise.judge(&full_event(), now).1, first);
    assert_eq!(noise.judge(&full_event(), now).1, First::default());
    let mut v2 = event(5, "a", "/bin/a");
    v2.verdict = Verdict::V2;
    assert_eq!(noise.judge(&v2, now).1, First::default());
    v2.verdict = Verdict::V1;
    assert!(noise.judge(&v2, now).1.v1);
    // An unknown process is a caller, too.
    assert_eq!(noise.judge(&minimal_event(), now).0, Decision::Write);
}

#[test]
fn lists() {
    let text = "[[ignore]]\nunit = \"quiet*\"\n[[expect]]\nexecutable = \"*python*\"";
    let config: Config = toml::from_str(text).expect("a configuration");
    let mut noise = Noise::new(&config);
    let now = Instant::now();
    assert_eq!(noise.judge(&event(1, "quiet.service", "x"), now).0, Decision::Ignore);
    assert_eq!(noise.judge(&full_event(), now), (Decision::Write, First::default()));
}

/// A credential call that matches `[[ignore]]`.
fn ignored(uid: u32, caller: &str) -> Event {
    let mut event = event(uid, "quiet.service", caller);
    event.path_class = PathClass::Credential;
    event
}

fn quiet(limits: Limits) -> Noise {
    let config: Config = toml::from_str("[[ignore]]\nunit = \"quiet*\"").expect("a configuration");
    Noise::new(&Config { limits, ..config })
}

#[test]
fn the_first_credential_call_of_a_caller_is_never_ignored() {
    let mut noise = quiet(limits(0, 0, 0));
    let now = Instant::now();
    let mut judge = |uid, caller| noise.judge(&ignored(uid, caller), now);
    let first = First {
        v1: true,
        credential: true,
    };
    // Written in full regardless of the budgets, and announced.
    assert_eq!(judge(1, "/bin/a"), (Decision::Write, first));
    assert_eq!(judge(1, "/bin/a"), (Decision::Ignore, First::default()));
    // This holds for each caller and for each user.
    assert_eq!(judge(1, "/bin/b").0, Decision::Write);
    assert_eq!(judge(2, "/bin/a").0, Decision::Write);
    assert_eq!(judge(2, "/bin/a").0, Decision::Ignore);
    let mut plain = ignored(3, "/bin/a");
    plain.path_class = PathClass::Plain;
    assert_eq!(noise.judge(&plain, now).0, Decision::Ignore);
    assert_eq!(
        noise.judge(&ignored(3, "/bin/a"), now).0,
        Decision::Write,
        "the first for credentials"
    );
    // The same caller in another container is not a new one.
    let mut moved = ignored(1, "/bin/a");
    let process = Arc::make_mut(moved.process.as_mut().expect("a process"));
    process.container = Some(crate::event::Container {
        id: "c".to_owned(),
        ..Default::default()
    });
    assert_eq!(noise.judge(&moved, now).0, Decision::Ignore);
}

/// A crowd of invented callers can fill the tables, but hides no credential call on the ignore list: it is at least
/// counted.
#[test]
fn a_crowd_of_callers_hides_no_credential_call_in_the_ignore_list() {
    let mut noise = quiet(limits(1, 1, 1));
    let now = Instant::now();
    let mut written = 0;
    for caller in 0..3000 {
        let decision = noise.judge(&ignored(1, &format!("/tmp/{caller}")), now).0;
        assert_ne!(decision, Decision::Ignore, "{caller}");
        written += usize::from(decision == Decision::Write);
    }
    assert!(written <= SEEN_PER_USER + CALLERS_PER_PLACE + 2, "{written}");
    let nobody = {
        let mut event = minimal_event();
        event.path_class = PathClass::Credential;
        event
    };
    let mut all = Noise::new(&toml::from_str("[[ignore]]\ncaller = \"*\"").expect("a configuration"));
    for _ in 0..3 {
        assert_ne!(all.judge(&nobody, now).0, Decision::Ignore, "nobody is known");
    }
}

#[test]
fn what_was_idle_makes_room() {
    let mut noise = noise(Limits::default());
    let now = Instant::now();
    for caller in 0..1000 {
        noise.judge(&event(1, "a", &format!("/tmp/{caller}")), now);
    }
    while noise.take_folded().is_some() {}
    let later = now + IDLE + Duration::from_secs(1);
    for caller in 0..50 {
        noise.judge(&event(1, "a", &format!("/new/{caller}")), later);
    }
    let place = noise
        .users
        .get(&1)
        .expect("a user")
        .places
        .values()
        .next()
        .expect("a place");
    assert_eq!(place.callers.len(), CALLERS_PER_PLACE + 1);
    assert!(place.callers.values().all(|caller| caller.used == later));
}

proptest! {
    /// Every request is written, folded or ignored, and each folded request is reported.
    #[test]
    fn nothing_is_lost(
        calls in prop::collection::vec((0u32..4, 0u32..4, 0u32..60, 0u64..40, any::<bool>()), 0..400),
        caller in 0u32..5, place in 0u32..10, user in 0u32..20, user_daily in 0u32..40,
    ) {
        let mut noise = noise(Limits { user_daily, ..limits(caller, place, user) });
        let mut now = Instant::now();
        let (mut full, mut folded, mut count) = (0, 0, 0);
        for (uid, unit, caller, seconds, credential) in calls {
            now += Duration::from_secs(seconds);
            while let Some(it) = noise.due(now) {
                folded += it.counts.sum();
            }
            let mut event = event(uid, &unit.to_string(), &caller.to_string());
            event.time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            if credential {
                event.path_class = PathClass::Credential;
            }
            prop_assert_eq!(event.verdict.version(), Version::V1);
            count += 1;
            full += u64::from(noise.judge(&event, now).0 == Decision::Write);
        }
        while let Some(it) = noise.take_folded() {
            prop_assert!(it.since <= it.until);
            folded += it.counts.sum();
        }
        prop_assert_eq!(full + folded, count);
    }
}
