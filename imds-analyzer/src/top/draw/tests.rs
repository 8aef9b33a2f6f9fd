//! The drawn cells, at the edges of each width.

use std::time::{Duration, SystemTime};

use imds_analyzer_ebpf::{abi::Loss, classify::Verdict};
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    event::{Answer, Cause, Event, Process, Reply},
    golden::golden,
    identity::Identity,
    record::Record,
    sink::tests::{full_event, minimal_event},
    top::keys::Action,
};

const WIDTHS: [u16; 9] = [160, 150, 149, 100, 99, 80, 79, 60, 59];

fn start() -> SystemTime {
    // 2026-11-22T09:10:00Z
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_338_600)
}

fn answered(status: u16) -> Answer {
    Answer::Answered(Reply {
        status,
        duration: Duration::from_millis(1),
        hop_limit: Some(1),
    })
}

/// A call, `seconds` after the start.
fn call(program: &str, verdict: Verdict, answer: Answer, path: &str, seconds: u64) -> Event {
    let mut event = full_event();
    let process = event.process.as_deref().cloned().expect("a process");
    event.process = Some(
        Process {
            caller: format!("{program} (app.service)"),
            program: program.to_owned(),
            container: None,
            user_unit: None,
            unit: Some("app.service".to_owned()),
            ..process
        }
        .into(),
    );
    event.time = start() + Duration::from_secs(seconds);
    (event.verdict, event.answer) = (verdict, answer);
    event.http.path = Some(path.to_owned());
    if verdict != Verdict::V1 {
        event.judgement.cause = None;
        event.judgement.remedy = None;
    }
    event
}

fn add(state: &mut State, event: &Event) {
    let host = Identity::named("ip-10-0-0-1");
    state.apply(&Record::of_request(event, &host), event.time);
}

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/app";

/// Some callers, one of them with a call that could not be judged.
fn sample_with_unknown() -> State {
    let mut state = sample();
    let mut event = minimal_event();
    (event.time, event.verdict) = (start(), Verdict::Unknown);
    add(&mut state, &event);
    state
}

/// Some callers, as a host may have them.
fn sample() -> State {
    let mut state = State::new("wire tap attached, owner from tp_btf".to_owned(), false);
    for second in 0..50 {
        add(
            &mut state,
            &call("/opt/app/run.py", Verdict::V1, answered(200), CREDENTIALS, second),
        );
        add(
            &mut state,
            &call(
                "/usr/bin/amazon-ssm-agent",
                Verdict::V2,
                answered(200),
                "/latest/meta-data/instance-id",
                second,
            ),
        );
    }
    for second in [20, 40] {
        add(
            &mut state,
            &call("/opt/app/run.py", Verdict::V1, answered(401), CREDENTIALS, second),
        );
        add(
            &mut state,
            &call(
                "/opt/tag > /usr/bin/curl",
                Verdict::V1,
                Answer::None,
                "/latest/meta-data/placement/region",
                second,
            ),
        );
    }
    let mut local = call("/opt/proxy/client", Verdict::V1, answered(200), "/latest/user-data", 30);
    local.local = true;
    add(&mut state, &local);
    state.advance(start() + Duration::from_secs(55));
    state
}

fn drawn(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    terminal.draw(|frame| draw(state, frame)).expect("memory");
    let buffer = terminal.backend().buffer().clone();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn press(state: &mut State, actions: impl IntoIterator<Item = Action>) {
    for action in actions {
        let room = room(state, (80, 24));
        state.act(action, room);
    }
}

#[test]
fn the_table_at_each_edge() {
    let state = sample();
    let mut text = String::new();
    for width in WIDTHS {
        text.push_str(&format!("{width} columns\n{}\n", drawn(&state, width, 20)));
    }
    golden("top/testdata/table.txt", &text);
    let state = sample_with_unknown();
    let text: String = [100, 80, 59]
        .map(|width| format!("{width} columns\n{}\n", drawn(&state, width, 20)))
        .concat();
    golden("top/testdata/table-unknown.txt", &text);
}

#[test]
fn a_caller_and_the_help() {
    let mut state = sample();
    press(&mut state, [Action::Open]);
    golden("top/testdata/caller.txt", &drawn(&state, 80, 40));
    press(&mut state, [Action::Close, Action::Help]);
    golden("top/testdata/help.txt", &drawn(&state, 80, 40));
}

#[test]
fn no_size_is_too_small() {
    let mut state = sample();
    for mode in [Action::Close, Action::Open, Action::Help, Action::Filter] {
        press(&mut state, [Action::Close, mode]);
        for width in 0..12 {
            for height in 0..12 {
                drawn(&state, width, height);
                press(&mut state, [Action::Pages(1), Action::Last, Action::First]);
            }
        }
    }
}

#[test]
fn an_empty_table_says_what_it_waits_for() {
    let state = State::new("wire tap".to_owned(), false);
    let text = drawn(&state, 80, 24);
    assert!(text.contains("No call to the metadata service yet."), "{text}");
    let mut state = sample();
    press(&mut state, [Action::Filter, Action::Type('~'), Action::Accept]);
    let text = drawn(&state, 80, 24);
    assert!(text.contains("No caller contains this text"), "{text}");
    assert!(text.contains("0 of 4 callers with \"~\""), "{text}");
}

#[test]
fn losses_and_callers_without_room_are_told() {
    let mut state = sample();
    assert!(drawn(&state, 80, 24).contains("Nothing lost"));
    state.set_loss([(Loss::RequestRing, 7)].into_iter().collect());
    for number in 0..crate::summary::CALLERS_MAX {
        let program = format!("/opt/{number}");
        add(&mut state, &call(&program, Verdict::V1, Answer::Unseen, "/latest", 54));
    }
    let text = drawn(&state, 160, 24);
    assert!(text.contains("Lost: 7 requests not reported (buffer full)"), "{text}");
    assert!(text.contains("  4 calls of callers beyond the first 1000"), "{text}");
    assert!(
        text.lines().nth(1).is_some_and(|line| line.starts_with("v1 1054 ")),
        "{text}"
    );
}

#[test]
fn the_selection_stays_with_its_caller() {
    let mut state = sample();
    press(&mut state, [Action::Lines(1)]);
    let selected = |state: &State| {
        let text = drawn(state, 80, 24);
        let mut lines = text.lines().filter(|line| line.starts_with('>'));
        let line = lines.next().expect("a selected row").to_owned();
        assert_eq!(lines.next(), None);
        line
    };
    assert!(selected(&state).contains("curl"), "{}", selected(&state));
    for second in 0..60 {
        add(
            &mut state,
            &call(
                "/opt/tag > /usr/bin/curl",
                Verdict::V1,
                answered(200),
                "/latest/user-data",
                second,
            ),
        );
    }
    let first = |state: &State| {
        drawn(state, 80, 24)
            .lines()
            .nth(4)
            .map(str::to_owned)
            .unwrap_or_default()
    };
    assert!(first(&state).contains("curl"), "it is the first now");
    assert!(selected(&state).contains("curl"));
    press(&mut state, [Action::Sort, Action::Sort, Action::Sort, Action::Sort]);
    assert!(selected(&state).contains("curl"));
    // With a filter that leaves it out, the first is selected until it is back.
    press(
        &mut state,
        [
            Action::Filter,
            Action::Type('r'),
            Action::Type('u'),
            Action::Type('n'),
            Action::Accept,
        ],
    );
    assert!(selected(&state).contains("run.py"));
    press(&mut state, [Action::Filter, Action::Forget]);
    assert!(selected(&state).contains("curl"));
}

#[test]
fn a_pause_holds_the_screen_and_nothing_else() {
    let mut state = sample();
    let before = drawn(&state, 80, 24);
    press(&mut state, [Action::Pause]);
    assert!(!state.is_moving());
    add(&mut state, &call("/opt/new", Verdict::V1, answered(200), "/latest", 56));
    state.advance(start() + Duration::from_secs(70));
    let held = drawn(&state, 80, 24);
    assert!(held.contains("PAUSED"), "{held}");
    assert_eq!(
        held.lines().skip(1).collect::<Vec<_>>(),
        before.lines().skip(1).collect::<Vec<_>>()
    );
    press(&mut state, [Action::Pause]);
    assert!(state.is_moving());
    assert!(drawn(&state, 80, 24).contains("/opt/new"));
}

#[test]
fn it_moves_as_long_as_the_last_call_is_shown() {
    let mut state = sample();
    for (seconds, moves) in [(60, true), (300, true), (400, false)] {
        state.advance(start() + Duration::from_secs(seconds));
        assert_eq!(state.is_moving(), moves, "{seconds}");
    }
}

/// Everything that others control is escaped.
#[test]
fn nobody_drives_the_terminal() {
    let evil = "x\u{1b}[2J\n\u{9b}1m\u{202e}\r".to_owned();
    let mut event = call(&evil, Verdict::V1, answered(200), &evil, 54);
    event.http.method = Some(evil.clone());
    event.http.user_agent = Some(evil.clone());
    let mut process = event.process.as_deref().cloned().expect("a process");
    process.name = evil.clone();
    process.executable = Some(evil.clone());
    process.working_directory = Some(evil.clone());
    process.args = vec![evil.clone()];
    process.user.name = Some(evil.clone());
    process.unit = Some(evil.clone());
    process.ancestors[0].name = evil.clone();
    event.process = Some(process.into());
    let mut state = State::new(evil, true);
    add(&mut state, &event);
    for mode in [Action::Close, Action::Open] {
        press(&mut state, [mode]);
        for width in [60, 80, 160] {
            let text = drawn(&state, width, 60);
            let bad = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
            assert!(!text.contains(bad), "{text:?}");
            assert!(text.contains("\\x1b"), "{text}");
        }
    }
}

#[test]
fn color_changes_no_text() {
    let (plain, mut colored) = (sample(), sample());
    colored.color = true;
    assert_eq!(drawn(&plain, 100, 24), drawn(&colored, 100, 24));
    let style = painted(crate::sink::layout::ALARM, false);
    assert_eq!((style.fg, style.bg), (None, None));
    assert!(painted(crate::sink::layout::ALARM, true).fg.is_some());
}

#[test]
fn a_caller_shows_its_last_calls_and_why() {
    let mut state = sample();
    press(&mut state, [Action::Open]);
    let text = drawn(&state, 100, 80);
    for part in [
        "/opt/app/run.py (app.service)",
        Cause::TokenUnanswered.as_str(),
        "supervisord(1200) < systemd(1)",
        "Last 50 calls",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(text.matches(CREDENTIALS).count(), 50, "{text}");
    press(&mut state, [Action::Last]);
    let end = drawn(&state, 100, 30);
    assert!(
        end.lines().nth(28).is_some_and(|line| line.contains(CREDENTIALS)),
        "{end}"
    );
}
