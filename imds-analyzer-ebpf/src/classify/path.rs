//! Classifies a request target while its bytes go by.
//!
//! The path is normalised as it is read: percent-encoding is decoded, empty and `.` segments are skipped, `..` goes
//! back one segment, scheme and authority of an absolute-form target (RFC 9112, 3.2.2) are stripped, and a query or
//! fragment ends it. The class is that of the path a normalising server would serve; the record keeps the original.
//!
//! Classes: IMDS.md B8 of the project's notes, from the EC2 User Guide, "Instance metadata categories".

use super::PathClass;

/// Each directory or file that has a class of its own. `#` is any digit. A class holds for the path and, unless a
/// longer row says otherwise, for everything below it.
const PATHS: &[(&[u8], Class)] = &[
    (b"meta-data", Class::Imds(PathClass::Plain)),
    (b"meta-data/iam", Class::Imds(PathClass::Plain)),
    (
        b"meta-data/iam/security-credentials",
        Class::Imds(PathClass::Credential),
    ),
    (b"meta-data/iam/info", Class::Imds(PathClass::Account)),
    (b"meta-data/identity-credentials", Class::Imds(PathClass::Plain)),
    (b"meta-data/identity-credentials/ec2", Class::Imds(PathClass::Plain)),
    (
        b"meta-data/identity-credentials/ec2/security-credentials",
        Class::Imds(PathClass::Credential),
    ),
    (
        b"meta-data/identity-credentials/ec2/info",
        Class::Imds(PathClass::Account),
    ),
    (b"meta-data/public-keys", Class::Imds(PathClass::Keys)),
    (b"meta-data/managed-ssh-keys", Class::Imds(PathClass::Keys)),
    (b"meta-data/tags", Class::Imds(PathClass::Tags)),
    (b"meta-data/spot", Class::Imds(PathClass::Lifecycle)),
    (b"meta-data/events", Class::Imds(PathClass::Lifecycle)),
    (b"meta-data/autoscaling", Class::Imds(PathClass::Lifecycle)),
    (b"meta-data/network", Class::Imds(PathClass::Network)),
    (b"meta-data/local-ipv4", Class::Imds(PathClass::Network)),
    (b"meta-data/public-ipv4", Class::Imds(PathClass::Network)),
    (b"meta-data/ipv6", Class::Imds(PathClass::Network)),
    (b"meta-data/mac", Class::Imds(PathClass::Network)),
    (b"user-data", Class::Imds(PathClass::UserData)),
    (b"dynamic", Class::Imds(PathClass::Plain)),
    (b"dynamic/instance-identity", Class::Imds(PathClass::Identity)),
    (b"api", Class::Imds(PathClass::Plain)),
    (b"api/token", Class::Imds(PathClass::Token)),
];

/// The roots that hold [`PATHS`].
const ROOTS: &[&[u8]] = &[b"latest", b"1.0", b"20##-##-##"];

/// First segments of the paths that other clouds' services serve at the same address: Google; Azure, DigitalOcean and
/// IBM; Oracle; OpenStack; Hetzner; Vultr and Linode; IBM.
const CLOUDS: &[&[u8]] = &[
    b"computeMetadata",
    b"metadata",
    b"opc",
    b"openstack",
    b"hetzner",
    b"v1",
    b"v1.json",
    b"instance_identity",
];

/// A class as the table stores it in a byte.
#[derive(Clone, Copy)]
enum Class {
    Imds(PathClass),
    OtherCloud,
}

impl Class {
    const OTHER_CLOUD: u8 = 0x80;

    const fn to_raw(self) -> u8 {
        match self {
            Self::Imds(class) => class as u8,
            Self::OtherCloud => Self::OTHER_CLOUD,
        }
    }
}

const STATES: usize = 512;
const COLUMNS: usize = 64;
/// The root directory, and the first of the absorbing states: one per class, for unknown segments.
const ROOT: u16 = 0;
const ABSORBING: u16 = 1;
const CLOUD: u16 = ABSORBING + PathClass::ALL.len() as u16;

/// A trie of segments. A state is a directory (before any byte of a segment) or a prefix of a segment.
struct Table {
    columns: [u8; 256],
    next: [u16; STATES * COLUMNS],
    /// The class of a path that ends here, as [`Class::to_raw`].
    class: [u8; STATES],
    /// The state after the slash that ends the segment here.
    directory: [u16; STATES],
}

static TABLE: Table = build();

impl Table {
    #[inline(always)]
    fn next(&self, state: u16, byte: u8) -> u16 {
        let column = self.columns[byte as usize] as usize & (COLUMNS - 1);
        // VERIFIER: masked, so that any state read from a map is in range.
        self.next[((state as usize * COLUMNS) | column) & (STATES * COLUMNS - 1)]
    }

    #[inline(always)]
    fn class(&self, state: u16) -> u8 {
        self.class[state as usize & (STATES - 1)]
    }

    #[inline(always)]
    fn directory(&self, state: u16) -> u16 {
        self.directory[state as usize & (STATES - 1)]
    }
}

struct Builder {
    table: Table,
    used: u16,
    columns: u8,
}

impl Builder {
    const fn column(&mut self, byte: u8) -> usize {
        if self.table.columns[byte as usize] == 0 {
            self.columns += 1;
            self.table.columns[byte as usize] = self.columns;
        }
        self.table.columns[byte as usize] as usize
    }

    /// Adds a state to a directory whose unknown segments have class `below`.
    const fn state(&mut self, below: u8) -> u16 {
        let state = self.used;
        self.used += 1;
        let absorbing = absorbing(below);
        let mut column = 0;
        while column < COLUMNS {
            self.table.next[state as usize * COLUMNS + column] = absorbing;
            column += 1;
        }
        self.table.class[state as usize] = below;
        self.table.directory[state as usize] = absorbing;
        state
    }

    /// The directory after the segment that ends in `state`, created when it is first asked for.
    const fn directory(&mut self, state: u16, below: u8) -> u16 {
        let directory = self.table.directory[state as usize];
        if directory >= ABSORBING && directory <= CLOUD {
            let made = self.state(below);
            self.table.directory[state as usize] = made;
            return made;
        }
        directory
    }

    /// Walks one segment from `directory`, creating the states that are missing.
    const fn segment(&mut self, directory: u16, segment: &[u8], below: u8) -> u16 {
        let mut state = directory;
        let mut i = 0;
        while i < segment.len() {
            let any_digit = segment[i] == b'#';
            let first = if any_digit { b'0' } else { segment[i] };
            let column = self.column(first);
            let mut next = self.table.next[state as usize * COLUMNS + column];
            if next >= ABSORBING && next <= CLOUD {
                next = self.state(below);
                self.table.next[state as usize * COLUMNS + column] = next;
                let mut digit = b'1';
                while any_digit && digit <= b'9' {
                    let column = self.column(digit);
                    self.table.next[state as usize * COLUMNS + column] = next;
                    digit += 1;
                }
            }
            state = next;
            i += 1;
        }
        state
    }
}

const fn absorbing(class: u8) -> u16 {
    if class == Class::OTHER_CLOUD {
        CLOUD
    } else {
        ABSORBING + class as u16
    }
}

const fn build() -> Table {
    let mut b = Builder {
        table: Table {
            columns: [0; 256],
            next: [0; STATES * COLUMNS],
            class: [0; STATES],
            directory: [0; STATES],
        },
        used: 0,
        columns: 0,
    };
    let not_imds = PathClass::NotImds as u8;
    b.state(not_imds);
    b.table.class[ROOT as usize] = PathClass::Root as u8;
    let mut class = 0;
    while class < PathClass::ALL.len() {
        b.state(class as u8);
        class += 1;
    }
    b.state(Class::OTHER_CLOUD);

    // All roots share one directory.
    let plain = PathClass::Plain as u8;
    let mut shared = ROOT;
    let mut i = 0;
    while i < ROOTS.len() {
        let state = b.segment(ROOT, ROOTS[i], not_imds);
        b.table.class[state as usize] = plain;
        if i == 0 {
            shared = b.directory(state, plain);
        }
        b.table.directory[state as usize] = shared;
        i += 1;
    }
    let mut i = 0;
    while i < CLOUDS.len() {
        let state = b.segment(ROOT, CLOUDS[i], not_imds);
        let cloud = Class::OtherCloud.to_raw();
        b.table.class[state as usize] = cloud;
        b.table.directory[state as usize] = absorbing(cloud);
        i += 1;
    }
    let mut i = 0;
    while i < PATHS.len() {
        insert(&mut b, shared, PATHS[i].0, PATHS[i].1.to_raw());
        i += 1;
    }
    assert!(b.used as usize <= STATES);
    assert!((b.columns as usize) < COLUMNS);
    b.table
}

/// Adds one row of [`PATHS`], whose parents have rows before it.
const fn insert(b: &mut Builder, root: u16, path: &[u8], class: u8) {
    let mut directory = root;
    let mut below = PathClass::Plain as u8;
    let mut rest = path;
    loop {
        let mut end = 0;
        while end < rest.len() && rest[end] != b'/' {
            end += 1;
        }
        let (segment, tail) = rest.split_at(end);
        let state = b.segment(directory, segment, below);
        if tail.is_empty() {
            b.table.class[state as usize] = class;
            let made = b.directory(state, class);
            // "api/token/" is the token path, "api/token/x" is not.
            if class == PathClass::Token as u8 {
                let unknown = absorbing(PathClass::Plain as u8);
                let mut column = 0;
                while column < COLUMNS {
                    b.table.next[made as usize * COLUMNS + column] = unknown;
                    column += 1;
                }
            }
            return;
        }
        below = b.table.class[state as usize];
        directory = b.directory(state, below);
        rest = tail.split_at(1).1;
    }
}

/// The part of the target that comes next.
mod stage {
    pub(super) const FIRST: u8 = 0;
    pub(super) const PATH: u8 = 1;
    pub(super) const AUTHORITY: u8 = 2;
    /// Nothing more matters.
    pub(super) const DONE: u8 = 3;
    /// From here on: `SCHEME + n` if n bytes of "http://" have matched.
    pub(super) const SCHEME: u8 = 16;
}

/// The kind of the current segment, as far as it was read.
mod segment {
    pub(super) const EMPTY: u8 = 0;
    pub(super) const DOT: u8 = 1;
    pub(super) const DOTS: u8 = 2;
    pub(super) const NAME: u8 = 3;
}

const SCHEME: &[u8; 8] = b"http://\0";
/// Directories remembered for `..`: the longest of [`PATHS`] is not deeper.
const DEPTH: usize = 8;

/// The state of one request target.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Target {
    directories: [u16; DEPTH],
    state: u16,
    depth: u16,
    stage: u8,
    segment: u8,
    /// 0, or 1 + the digits of a percent-encoded byte read so far.
    percent: u8,
    high: u8,
}

impl Target {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self {
            directories: [ROOT; DEPTH],
            state: ROOT,
            depth: 0,
            stage: stage::FIRST,
            segment: 0,
            percent: 0,
            high: 0,
        }
    }

    /// Takes the next byte of the target.
    #[inline(always)]
    pub(super) fn push(&mut self, byte: u8) {
        match self.stage {
            stage::PATH => self.push_path(byte),
            stage::FIRST => {
                self.stage = match byte {
                    b'/' => stage::PATH,
                    b'h' | b'H' => stage::SCHEME + 1,
                    _ => self.not_a_path(),
                };
            }
            stage::AUTHORITY => match byte {
                b'/' => self.stage = stage::PATH,
                b'?' | b'#' => self.stage = stage::DONE,
                _ => {}
            },
            stage::DONE => {}
            _ => {
                let matched = (self.stage - stage::SCHEME) as usize & (SCHEME.len() - 1);
                if SCHEME[matched] != byte | 0x20 && SCHEME[matched] != byte {
                    self.stage = self.not_a_path();
                } else if matched + 2 == SCHEME.len() {
                    self.stage = stage::AUTHORITY;
                } else {
                    self.stage += 1;
                }
            }
        }
    }

    /// The class of the target so far, and whether it is another cloud's.
    #[inline(always)]
    pub(super) fn class(&self) -> (PathClass, bool) {
        let state = match self.segment {
            // The target ends inside an encoded byte: no known name has a '%'.
            _ if self.percent != 0 => TABLE.next(self.state, b'%'),
            segment::EMPTY | segment::DOT => self.directory(self.depth),
            segment::DOTS => self.directory(self.depth.saturating_sub(1)),
            _ => self.state,
        };
        // IMDS serves no target that ends before its path or authority.
        let class = match self.stage {
            stage::FIRST | stage::SCHEME.. => PathClass::NotImds as u8,
            _ => TABLE.class(state),
        };
        match PathClass::from_raw(class) {
            Some(class) => (class, false),
            None => (PathClass::NotImds, true),
        }
    }

    #[inline(always)]
    fn not_a_path(&mut self) -> u8 {
        self.state = ABSORBING;
        self.segment = segment::NAME;
        stage::DONE
    }

    #[inline(always)]
    fn push_path(&mut self, byte: u8) {
        let mut byte = byte;
        let mut encoded = false;
        if self.percent != 0 {
            let digit = super::hex_value(byte);
            if digit > 15 {
                // Not an encoded byte, so this byte has its usual meaning: it may be '%', '/' or '?'.
                self.percent = 0;
                self.push_name(b'%');
            } else if self.percent == 1 {
                self.percent = 2;
                self.high = digit;
                return;
            } else {
                self.percent = 0;
                byte = self.high << 4 | digit;
                encoded = true;
            }
        }
        if byte == b'%' && !encoded {
            self.percent = 1;
        } else if (byte == b'?' || byte == b'#') && !encoded {
            self.stage = stage::DONE;
        } else if byte == b'/' {
            self.end_segment();
        } else {
            self.push_name(byte);
        }
    }

    #[inline(always)]
    fn push_name(&mut self, byte: u8) {
        self.segment = if byte == b'.' && self.segment < segment::DOTS {
            self.segment + 1
        } else {
            segment::NAME
        };
        self.state = TABLE.next(self.state, byte);
    }

    #[inline(always)]
    fn end_segment(&mut self) {
        match self.segment {
            segment::NAME => {
                self.state = TABLE.directory(self.state);
                self.depth = self.depth.saturating_add(1);
                if (self.depth as usize) < DEPTH {
                    self.directories[self.depth as usize & (DEPTH - 1)] = self.state;
                }
            }
            segment::DOTS => {
                self.depth = self.depth.saturating_sub(1);
                self.state = self.directory(self.depth);
            }
            _ => self.state = self.directory(self.depth),
        }
        self.segment = segment::EMPTY;
    }

    /// The directory at `depth`. All directories below the last remembered one are alike: no name in them is known.
    #[inline(always)]
    fn directory(&self, depth: u16) -> u16 {
        let depth = depth as usize;
        self.directories[if depth < DEPTH { depth } else { DEPTH - 1 } & (DEPTH - 1)]
    }
}

const _: () = assert!(DEPTH.is_power_of_two() && SCHEME.len().is_power_of_two());
