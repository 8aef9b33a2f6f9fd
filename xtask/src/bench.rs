//! `cargo xtask bench`: the cost of the hooks for all other programs. A paired benchmark: it makes the same sends over
//! loopback without the analyzer and with it, in turns, so that other load on the machine affects both.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::lab;

/// Bytes of a send, sends of a batch, batches of a round.
const SIZE: usize = 64;
const BATCH: usize = 200;
const BATCHES: usize = 1_000;
/// Rounds without and with the analyzer.
const ROUNDS: usize = 15;

pub(crate) fn run() -> Result<ExitCode> {
    println!(
        "{} sends of {SIZE} bytes over loopback a round, {ROUNDS} pairs of rounds",
        BATCH * BATCHES
    );
    for args in [
        &["--owner", "connect", "--no-answers"][..],
        &["--owner", "connect"],
        &["--owner", "auto"],
    ] {
        let mut ratios = Vec::new();
        let (mut without, mut with) = (Vec::new(), Vec::new());
        // The first pair warms up.
        for round in 0..=ROUNDS {
            let plain = sends()?;
            let analyzer = Analyzer::start(args)?;
            let watched = sends()?;
            analyzer.stop()?;
            if round > 0 {
                ratios.push(watched.as_secs_f64() / plain.as_secs_f64());
                without.push(plain);
                with.push(watched);
            }
        }
        ratios.sort_by(f64::total_cmp);
        let nanos = |mut times: Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_nanos() / BATCH as u128
        };
        println!(
            "{:<30} {} ns a send without, {} ns with; ratio: median {:.3}, quartiles {:.3} to {:.3}",
            args.join(" "),
            nanos(without),
            nanos(with),
            ratios[ROUNDS / 2],
            ratios[ROUNDS / 4],
            ratios[ROUNDS - 1 - ROUNDS / 4],
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The median time of a batch of sends. One thread sends and then reads: the kernel carries each packet to the
/// receiving socket inside the send, so the time does not depend on when another thread is scheduled.
fn sends() -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    let message = [0; SIZE];
    let mut buffer = vec![0; SIZE * BATCH];
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let started = Instant::now();
        for _ in 0..BATCH {
            client.write_all(&message)?;
        }
        times.push(started.elapsed());
        server.read_exact(&mut buffer)?;
    }
    times.sort();
    Ok(times[BATCHES / 2])
}

struct Analyzer(Child);

impl Analyzer {
    fn start(args: &[&str]) -> Result<Self> {
        let mut child = Command::new(lab::binary())
            .args(["watch", "--format", "json", "--kernel-rate", "0"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("the release binary does not run")?;
        let stderr = child.stderr.take().context("piped")?;
        let ready = BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.starts_with("ready"));
        ensure!(
            ready,
            "the analyzer did not get ready: run this as root, and see `imds-analyzer check`"
        );
        Ok(Self(child))
    }

    fn stop(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Analyzer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
