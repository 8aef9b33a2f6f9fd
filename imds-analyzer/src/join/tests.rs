#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::{self, Write as _};

use imds_analyzer_ebpf::abi::{CAPTURE_SHORT, Header, Owner, PATHS_MAX, RecordKind};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;
use crate::{
    decode::{self, Record},
    process::ResolverSettings,
    secrets::ArgsMode,
    sink::{Output, Sink as _, json::JsonSink},
};

/// `cargo test --release -p imds-analyzer -- --ignored --nocapture throughput`
#[test]
#[ignore = "a measurement"]
fn throughput_of_decoding_joining_resolving_and_formatting() {
    let task = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        tid: 4_194_304,
        comm: *b"python3\0\0\0\0\0\0\0\0\0",
        hook: OwnerHook::TpBtf as u8,
        ..Task::default()
    };
    let argv = b"python3\0/opt/app/run.py\0--config\0/etc/app/config.toml\0";
    let mut owner = Owner::new_zeroed();
    owner.header = header(RecordKind::Owner, argv.len());
    owner.task = task;
    owner.argv_len = argv.len().try_into().unwrap();
    owner.paths_room = PATHS_MAX.try_into().unwrap();
    owner.ancestors_len = 8;
    for (pid, ancestor) in (1..=8).rev().zip(&mut owner.ancestors) {
        (ancestor.tgid, ancestor.start, ancestor.comm) = (pid, 1, *b"an-ancestor\0\0\0\0\0");
    }
    let announced = [owner.as_bytes(), &[0; PATHS_MAX], argv].concat();

    let capture =
        b"GET /latest/meta-data/iam/security-credentials/app HTTP/1.1\r\nUser-Agent: Boto3/1.9.0 Python/3.8\r\n";
    let mut request = Request::new_zeroed();
    request.header = header(RecordKind::Request, capture.len());
    request.task = task;
    request.verdict = Verdict::V1 as u8;
    request.path_class = PathClass::Credential as u8;
    request.family = 4;
    let mut judged = [request.as_bytes(), capture].concat();
    judged.resize(size_of::<Request>() + CAPTURE_SHORT, 0);

    let mut join = Join::new(Resolver::new(ResolverSettings {
        args: ArgsMode::Redacted,
        name_service: false,
        capacity: 100,
    }));
    let mut sink = JsonSink::new(Output::new(io::sink(), false), "ip-10-0-0-1".to_owned());
    let begin = cpu_time();
    let count = 500_000;
    for _ in 0..count {
        // Each process is announced once for each connection.
        if let Record::Owner(owner, names, argv) = decode::decode(&announced).unwrap() {
            join.resolver().observe(&owner, names, argv);
        }
        if let Record::Request(request, capture) = decode::decode(&judged).unwrap() {
            let event = join.request(&request, capture).unwrap();
            assert!(event.process.is_some());
            sink.write(&event).unwrap();
        }
    }
    let rate = f64::from(count) / (cpu_time() - begin).as_secs_f64();
    writeln!(
        io::stderr(),
        "{rate:.0} requests a second, each of an announced connection"
    )
    .unwrap();
}

/// Of this thread: others may be at work on the machine.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

fn header(kind: RecordKind, data_len: usize) -> Header {
    Header {
        time: 7,
        kind: kind as u16,
        data_len: data_len.try_into().unwrap(),
        reserved: 0,
    }
}
