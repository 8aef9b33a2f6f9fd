//! Programs run to their end.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{binary, patience};

/// The exit code and the output of a program that ended.
#[derive(Debug)]
pub struct Output {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `imds-analyzer` with these arguments.
pub fn imds_analyzer(args: &[&str]) -> Output {
    run_to_end(Command::new(binary()).args(args))
}

/// Runs `command` to its end. Both outputs must be UTF-8.
pub fn run_to_end(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = read(child.stdout.take().expect("piped"));
    let stderr = read(child.stderr.take().expect("piped"));
    let status = wait(&mut child);
    Output {
        code: status.code(),
        stdout: stdout.join().expect("UTF-8 on stdout"),
        stderr: stderr.join().expect("UTF-8 on stderr"),
    }
}

fn read(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("UTF-8");
        text
    })
}

/// Waits until `child` ends, and kills it if it takes too long.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + patience();
    loop {
        match child.try_wait().expect("our own child") {
            Some(status) => return status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("process {} does not end", child.id());
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
}
