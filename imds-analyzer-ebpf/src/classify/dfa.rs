//! The automaton over request lines, header lines and scanned bodies, built at compile time.
//!
//! A state is a number; entering it may mean an [`Action`]. States below [`FIRST_HEADER_STATE`] belong to the request
//! line, states whose action is at least [`Action::SCAN`] to a scanned body.

use super::{Method, facts};

/// What entering a state means for the classifier.
pub(super) struct Action;

impl Action {
    pub(super) const NONE: u8 = 0;
    /// A byte of the request target.
    pub(super) const TARGET: u8 = 1;
    /// Between heads.
    pub(super) const IDLE: u8 = 2;
    /// The method is complete; see [`Table::method`].
    pub(super) const METHOD: u8 = 3;
    pub(super) const NOT_HTTP: u8 = 4;
    /// The request line ended without a version.
    pub(super) const SIMPLE_END: u8 = 5;
    /// A line of the head begins.
    pub(super) const LINE: u8 = 6;
    /// Like [`Self::LINE`], and the line before was not a header line.
    pub(super) const MALFORMED_LINE: u8 = 7;
    /// The head is complete.
    pub(super) const END: u8 = 8;
    pub(super) const LENGTH_DIGIT: u8 = 9;
    /// Nothing but the state's facts.
    pub(super) const FACT: u8 = 12;
    /// A Content-Length begins. Otherwise like [`Self::DROP`].
    pub(super) const LENGTH: u8 = 10;
    /// The line is not to be shown.
    pub(super) const DROP: u8 = 11;
    /// A byte of a scanned body; so are the actions that follow.
    pub(super) const SCAN: u8 = 32;
    /// A byte of a line that has been reported already.
    pub(super) const SCAN_DEAD: u8 = 33;
    /// The line is a request line.
    pub(super) const SCAN_FOUND: u8 = 34;
    /// The line is empty.
    pub(super) const SCAN_BLANK: u8 = 35;
    /// The line has more than a request line or something else in it, whatever it ends like: it may be a header.
    pub(super) const SCAN_ODD: u8 = 36;
    /// The line would be a request line if it ended here.
    pub(super) const SCAN_WHOLE: u8 = 37;
}

// States that other code names. Tries get their states from `Builder::state`.
pub(super) const START: u8 = 0;
const START_CR: u8 = 1;
const BAD: u8 = 2;
pub(super) const METHOD: u8 = 3;
const SPACE_GET: u8 = 4;
const SPACE_HEAD: u8 = 5;
const SPACE_PUT: u8 = 6;
const SPACE_OTHER: u8 = 7;
const TARGET: u8 = 8;
const TARGET_END: u8 = 9;
const SIMPLE_CR: u8 = 10;
const SIMPLE_END: u8 = 11;
const VERSION_1_0: u8 = 12;
const VERSION_OTHER: u8 = 13;
const VERSION_END: u8 = 14;
const VERSION_CR: u8 = 15;
const VERSION_CRS: u8 = 16;
/// In a target that has a byte no target may have, and after such a target: only a version shows that the line is a
/// request line.
const TARGET_ODD: u8 = 17;
const TARGET_ODD_END: u8 = 18;
/// The tries of "GET", "HEAD", "PUT" and of "HTTP/1." lie between the request line's named states and
/// [`FIRST_HEADER_STATE`].
const METHOD_TRIES: u8 = 19;

/// Below this number the request line is not complete.
pub(super) const FIRST_HEADER_STATE: u8 = 40;
/// A header line begins: in general, and after a token without a value, a Content-Length, a Transfer-Encoding, a
/// User-Agent. obs-fold means something else after each.
const LINE: u8 = 40;
const LINE_TOKEN: u8 = 41;
const LINE_LENGTH: u8 = 42;
const LINE_ENCODING: u8 = 43;
const LINE_KEPT: u8 = 44;
const LINE_MALFORMED: u8 = 45;
const END_CR: u8 = 46;
const END: u8 = 47;
const NAME: u8 = 48;
const NAME_SPACE: u8 = 49;
const DROPPED: u8 = 50;
const VALUE: u8 = 51;
const VALUE_CR: u8 = 52;
const MALFORMED: u8 = 53;
const MALFORMED_CR: u8 = 54;
const TOKEN: u8 = 55;
const TOKEN_SPACE: u8 = 56;
const TOKEN_FOLD: u8 = 57;
const TOKEN_CR: u8 = 58;
const TOKEN_VALUE: u8 = 59;
const TTL: u8 = 60;
const FORWARDED: u8 = 61;
const FOREIGN: u8 = 62;
const LENGTH: u8 = 63;
const LENGTH_SPACE: u8 = 64;
const LENGTH_DIGIT: u8 = 65;
const LENGTH_TAIL: u8 = 66;
const LENGTH_CR: u8 = 67;
const LENGTH_INVALID: u8 = 68;
const ENCODING: u8 = 69;
const ENCODING_SPACE: u8 = 70;
const CHUNKED: u8 = 71;
const ENCODING_TAIL: u8 = 72;
const ENCODING_CR: u8 = 73;
const ENCODING_OTHER: u8 = 74;
const METADATA: u8 = 75;
const METADATA_SPACE: u8 = 76;
const KEPT: u8 = 77;
const KEPT_CR: u8 = 78;
/// The first header line begins: there is no line before it that it can continue.
const LINE_FIRST: u8 = 79;
/// From here on: scanned bodies.
pub(super) const SCAN_LINE: u8 = 80;
pub(super) const SCAN_DEAD: u8 = 81;
const SCAN_BLANK: u8 = 82;
const SCAN_BLANK_CR: u8 = 83;
/// Outside any word; in the first word, after it; in a later word, after that.
const SCAN_GAP: u8 = 84;
const SCAN_WORD: u8 = 85;
const SCAN_SPACE: u8 = 86;
const SCAN_WORDS: u8 = 87;
const SCAN_SPACES: u8 = 88;
const SCAN_VERSION: u8 = 89;
const SCAN_VERSION_END: u8 = 90;
const SCAN_FOUND: u8 = 91;
const SCAN_FOUND_CR: u8 = 92;
const SCAN_SIMPLE: u8 = 93;
/// In a first word that is not a method; in a word after the second that is not a version.
const SCAN_ODD: u8 = 94;
const SCAN_MORE: u8 = 95;
/// After a CR that follows the second word.
const SCAN_WORDS_CR: u8 = 96;
/// Tries take the states that are left.
const HEADER_TRIES: u8 = 97;

/// Rows of the table: one for each value of a byte, so that no state is out of range.
const STATES: usize = 256;
/// Columns: a power of two above the number of classes.
const CLASSES: usize = 64;

/// Classes of bytes. Each letter has one class for both cases; the letters of methods and of "HTTP" have a second one
/// for upper case.
mod class {
    pub(super) const HIGH: u8 = 0;
    pub(super) const CONTROL: u8 = 1;
    pub(super) const SPACE: u8 = 2;
    pub(super) const TAB: u8 = 3;
    pub(super) const CR: u8 = 4;
    pub(super) const LF: u8 = 5;
    pub(super) const COLON: u8 = 6;
    pub(super) const SLASH: u8 = 7;
    pub(super) const VISIBLE: u8 = 8;
    /// From here on: `tchar` of RFC 9110, 5.6.2.
    pub(super) const TCHAR: u8 = 9;
    pub(super) const DASH: u8 = 10;
    pub(super) const DOT: u8 = 11;
    pub(super) const ZERO: u8 = 12;
    pub(super) const ONE: u8 = 13;
    pub(super) const TWO: u8 = 14;
    pub(super) const DIGIT: u8 = 15;
    pub(super) const LETTER: u8 = 16;
    pub(super) const UPPER: u8 = LETTER + 26;
    pub(super) const END: u8 = UPPER + UPPER_LETTERS.len() as u8;

    /// The letters whose case matters.
    pub(super) const UPPER_LETTERS: &[u8] = b"GETPUHAD";

    pub(super) const fn of(byte: u8) -> u8 {
        match byte {
            0x80.. => HIGH,
            b' ' => SPACE,
            b'\t' => TAB,
            b'\r' => CR,
            b'\n' => LF,
            0x00..=0x1f | 0x7f => CONTROL,
            b':' => COLON,
            b'/' => SLASH,
            b'-' => DASH,
            b'.' => DOT,
            b'0' => ZERO,
            b'1' => ONE,
            b'2' => TWO,
            b'3'..=b'9' => DIGIT,
            b'a'..=b'z' => LETTER + (byte - b'a'),
            b'A'..=b'Z' => {
                let mut i = 0;
                while i < UPPER_LETTERS.len() {
                    if UPPER_LETTERS[i] == byte {
                        return UPPER + i as u8;
                    }
                    i += 1;
                }
                LETTER + (byte - b'A')
            }
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'_' | b'`' | b'|' | b'~' => TCHAR,
            _ => VISIBLE,
        }
    }
}

/// Sets of classes, for whole rows.
#[derive(Clone, Copy)]
enum Set {
    All,
    Tchar,
    Visible,
    Digits,
    Blank,
}

impl Set {
    const fn contains(self, class: u8) -> bool {
        match self {
            Self::All => true,
            Self::Tchar => class >= class::TCHAR,
            Self::Visible => class >= class::COLON,
            Self::Digits => class >= class::ZERO && class <= class::DIGIT,
            Self::Blank => class == class::SPACE || class == class::TAB,
        }
    }
}

/// The finished automaton.
pub(super) struct Table {
    classes: [u8; 256],
    next: [u8; STATES * CLASSES],
    actions: [u8; STATES],
    /// Facts about a head that enters the state.
    facts: [u16; STATES],
}

impl Table {
    /// The state after `byte`.
    #[inline(always)]
    pub(super) fn next(&self, state: u8, byte: u8) -> u8 {
        let class = self.classes[byte as usize] as usize & (CLASSES - 1);
        self.next[(state as usize * CLASSES) | class]
    }

    /// The facts that entering `state` adds.
    #[inline(always)]
    pub(super) fn facts(&self, state: u8) -> u16 {
        self.facts[state as usize]
    }

    /// The method that `state` stands for, entered with [`Action::METHOD`].
    #[inline(always)]
    pub(super) fn method(&self, state: u8) -> u8 {
        state - SPACE_GET + Method::Get as u8
    }

    /// What entering `state` means.
    #[inline(always)]
    pub(super) fn action(&self, state: u8) -> u8 {
        self.actions[state as usize]
    }
}

/// A `static`, not a `const`: one table in memory, in the eBPF object's `.rodata` map.
pub(super) static HEAD: Table = build();

struct Builder {
    table: Table,
    used: u8,
    readings: Readings,
}

/// States in a head's lines that readers take in more than one way: some see a header begin where others see the line
/// before continue, or nothing that counts. The automaton looks for the name of the token or TTL header after each of
/// these states.
#[derive(Clone, Copy)]
struct Readings {
    /// A header may begin, in a head that is malformed anyhow: after a bare CR and blanks, or after a byte that no name
    /// begins with.
    malformed: u8,
    /// Like `malformed`, after the first letter of the name.
    malformed_x: u8,
    /// After the blanks at the beginning of a line: the line continues the value of the line before it (obs-fold).
    fold: u8,
    /// After a CR that follows nothing but such blanks.
    blank_cr: u8,
    /// The name has been seen.
    named: u8,
    /// The name has been seen in a line that breaks the grammar.
    named_malformed: u8,
    /// The line after one that is the name alone, without a colon.
    named_line: u8,
}

impl Builder {
    /// Adds a state that has no name.
    const fn state(&mut self) -> u8 {
        let state = self.used;
        self.used += 1;
        state
    }

    const fn action(&mut self, state: u8, action: u8) {
        self.table.actions[state as usize] = action;
    }

    /// Makes entering `state` mean `action` and add `facts`.
    const fn fact(&mut self, state: u8, action: u8, facts: u16) {
        self.action(state, action);
        self.table.facts[state as usize] = facts;
    }

    const fn on(&mut self, state: u8, class: u8, next: u8) {
        self.table.next[state as usize * CLASSES + class as usize] = next;
    }

    const fn fill(&mut self, state: u8, set: Set, next: u8) {
        let mut class = 0;
        while class < class::END {
            if set.contains(class) {
                self.on(state, class, next);
            }
            class += 1;
        }
    }

    const fn copy(&mut self, from: u8, to: u8) {
        let mut class = 0;
        while class < CLASSES {
            self.table.next[to as usize * CLASSES + class] = self.table.next[from as usize * CLASSES + class];
            class += 1;
        }
    }

    const fn get(&self, state: u8, class: u8) -> u8 {
        self.table.next[state as usize * CLASSES + class as usize]
    }

    /// Adds `word` from `root` on, as states of a trie whose other transitions are those of `like`. Returns the last
    /// state.
    const fn word(&mut self, root: u8, word: &[u8], any_case: bool, like: u8) -> u8 {
        let mut state = root;
        let mut i = 0;
        while i < word.len() {
            let class = class::of(word[i]);
            let mut next = self.get(state, class);
            if next == self.get(like, class) {
                next = self.state();
                self.copy(like, next);
                self.on(state, class, next);
                if any_case {
                    self.on(state, class::of(word[i].to_ascii_uppercase()), next);
                }
            }
            state = next;
            i += 1;
        }
        state
    }

    /// Adds a header: its name from the beginning of a line on, and the colon that leads to `value`. Returns the last
    /// state of the name.
    const fn header(&mut self, name: &[u8], value: u8) -> u8 {
        let last = self.word(LINE, name, true, NAME);
        self.on(last, class::COLON, value);
        last
    }

    /// Makes a header count with blanks before its colon, too: the blanks lead to `value` and add `facts`.
    const fn header_spaced(&mut self, last: u8, value: u8, facts: u16) {
        let space = self.state();
        self.copy(NAME_SPACE, space);
        self.fill(space, Set::Blank, space);
        self.on(space, class::COLON, value);
        self.fact(space, Action::FACT, facts::MALFORMED | facts);
        self.fill(last, Set::Blank, space);
    }

    /// Adds a header that makes a call an IMDSv2 call: its name counts in every reading.
    const fn token_header(&mut self, name: &[u8], value: u8) {
        let last = self.header(name, value);
        self.header_spaced(last, value, facts::TOKEN_NAME);
        let mut class = 0;
        while class < class::END {
            let next = self.get(last, class);
            if next == MALFORMED || next == MALFORMED_CR {
                self.on(last, class, self.readings.named_malformed);
            } else if next == LINE_MALFORMED {
                self.on(last, class, self.readings.named_line);
            }
            class += 1;
        }
    }

    /// Sets the transitions of a header's value: white space, other bytes, and how the line may end.
    const fn value(&mut self, state: u8, blank: u8, other: u8, cr: u8, line: u8) {
        self.fill(state, Set::All, other);
        self.fill(state, Set::Blank, blank);
        self.on(state, class::CONTROL, MALFORMED);
        self.on(state, class::CR, cr);
        self.on(state, class::LF, line);
    }

    /// Sets the transitions after a CR: only LF may follow. Some readers end a line at a bare CR.
    const fn cr(&mut self, state: u8, line: u8) {
        self.fill(state, Set::All, MALFORMED);
        self.begins_malformed(state);
        self.on(state, class::CR, MALFORMED_CR);
        self.on(state, class::LF, line);
    }

    /// Lets a header begin in `state` in another reading, maybe after bytes that some readers cut off: blanks, and what
    /// programming languages count as white space (VT, FF, NEL, no-break space).
    const fn begins_malformed(&mut self, state: u8) {
        self.fill(state, Set::Blank, self.readings.malformed);
        self.on(state, class::CONTROL, self.readings.malformed);
        self.on(state, class::HIGH, self.readings.malformed);
        self.on(state, class::of(b'x'), self.readings.malformed_x);
    }
}

const fn build() -> Table {
    let mut b = Builder {
        table: Table {
            classes: [0; 256],
            next: [BAD; STATES * CLASSES],
            actions: [Action::NONE; STATES],
            facts: [0; STATES],
        },
        used: METHOD_TRIES,
        readings: Readings {
            malformed: BAD,
            malformed_x: BAD,
            fold: BAD,
            blank_cr: BAD,
            named: BAD,
            named_malformed: BAD,
            named_line: BAD,
        },
    };
    let mut byte = 0;
    while byte < 256 {
        b.table.classes[byte] = class::of(byte as u8);
        byte += 1;
    }
    request_line(&mut b);
    assert!(b.used <= FIRST_HEADER_STATE);
    b.used = HEADER_TRIES;
    readings(&mut b);
    header_values(&mut b);
    header_lines(&mut b);
    scan(&mut b);
    assert!(b.used < 255);
    b.table
}

const fn request_line(b: &mut Builder) {
    b.action(BAD, Action::NOT_HTTP);
    b.action(START, Action::IDLE);
    b.action(START_CR, Action::IDLE);
    b.on(START, class::CR, START_CR);
    b.on(START, class::LF, START);
    b.on(START_CR, class::LF, START);
    b.fill(START, Set::Tchar, METHOD);
    b.fill(METHOD, Set::Tchar, METHOD);
    b.on(METHOD, class::SPACE, SPACE_OTHER);

    let mut i = 0;
    let methods: [(&[u8], u8); 3] = [(b"GET", SPACE_GET), (b"HEAD", SPACE_HEAD), (b"PUT", SPACE_PUT)];
    while i < methods.len() {
        let (method, space) = methods[i];
        let last = b.word(START, method, false, METHOD);
        b.on(last, class::SPACE, space);
        i += 1;
    }
    let mut space = SPACE_GET;
    while space <= SPACE_OTHER {
        b.action(space, Action::METHOD);
        b.fill(space, Set::Visible, TARGET);
        b.on(space, class::HIGH, TARGET_ODD);
        b.on(space, class::CONTROL, TARGET_ODD);
        // No form of a target begins with a colon (RFC 9112, 3.2); "Authorization :..." does.
        b.on(space, class::COLON, BAD);
        b.on(space, class::SPACE, space);
        space += 1;
    }

    b.action(TARGET, Action::TARGET);
    b.fill(TARGET, Set::Visible, TARGET);
    b.on(TARGET, class::SPACE, TARGET_END);
    b.on(TARGET, class::CR, SIMPLE_CR);
    b.on(TARGET, class::LF, SIMPLE_END);
    b.on(TARGET_END, class::SPACE, TARGET_END);
    b.on(TARGET_END, class::CR, SIMPLE_CR);
    b.on(TARGET_END, class::LF, SIMPLE_END);
    b.on(SIMPLE_CR, class::LF, SIMPLE_END);
    // CR, then a space: the target is a shell variable that was read from a file with CRLF.
    b.on(SIMPLE_CR, class::SPACE, TARGET_ODD_END);
    b.action(SIMPLE_END, Action::SIMPLE_END);

    let version = b.word(TARGET_END, b"HTTP/1.", false, BAD);
    b.copy(TARGET_END, TARGET_ODD_END);
    b.on(TARGET_ODD_END, class::SPACE, TARGET_ODD_END);
    b.on(TARGET_ODD_END, class::CR, BAD);
    b.on(TARGET_ODD_END, class::LF, BAD);
    b.fact(TARGET_ODD_END, Action::FACT, facts::MALFORMED);
    b.fill(TARGET_ODD, Set::Visible, TARGET_ODD);
    b.on(TARGET_ODD, class::HIGH, TARGET_ODD);
    b.on(TARGET_ODD, class::CONTROL, TARGET_ODD);
    b.on(TARGET_ODD, class::SPACE, TARGET_ODD_END);
    b.fact(TARGET_ODD, Action::TARGET, facts::MALFORMED);
    b.on(TARGET, class::HIGH, TARGET_ODD);
    b.on(TARGET, class::CONTROL, TARGET_ODD);
    b.fill(version, Set::Digits, VERSION_OTHER);
    b.on(version, class::ZERO, VERSION_1_0);
    b.fact(VERSION_1_0, Action::FACT, facts::HTTP_1_0);
    let mut state = VERSION_1_0;
    while state <= VERSION_END {
        b.on(state, class::SPACE, VERSION_END);
        b.on(state, class::CR, VERSION_CR);
        b.on(state, class::LF, LINE_FIRST);
        state += 1;
    }
    b.on(VERSION_CR, class::LF, LINE_FIRST);
    b.on(VERSION_CR, class::CR, VERSION_CRS);
    b.copy(VERSION_CR, VERSION_CRS);
    b.fact(VERSION_CRS, Action::FACT, facts::MALFORMED);
}

/// Adds the states in which a header may begin for some readers only.
const fn readings(b: &mut Builder) {
    b.readings = Readings {
        malformed: b.state(),
        malformed_x: b.state(),
        fold: b.state(),
        blank_cr: b.state(),
        named: b.state(),
        named_malformed: b.state(),
        named_line: b.state(),
    };
    let Readings {
        malformed,
        malformed_x,
        fold,
        blank_cr,
        named,
        named_malformed,
        ..
    } = b.readings;
    b.value(VALUE, VALUE, VALUE, VALUE_CR, LINE);
    // The letter x, then as much of the name as it takes to tell it from other headers.
    let x = b.state();
    b.copy(VALUE, x);
    let before_last = b.word(x, b"-aws-ec2-", true, VALUE);
    b.on(before_last, class::of(b'm'), named);
    b.copy(x, malformed_x);
    b.fact(malformed_x, Action::DROP, facts::MALFORMED);
    b.copy(VALUE, named);
    b.fact(named, Action::DROP, facts::TOKEN_NAME);
    b.copy(VALUE, named_malformed);
    b.fact(named_malformed, Action::DROP, facts::MALFORMED | facts::TOKEN_NAME);

    b.copy(VALUE, malformed);
    b.begins_malformed(malformed);
    b.fact(malformed, Action::DROP, facts::MALFORMED);

    b.copy(VALUE, fold);
    b.begins_malformed(fold);
    b.fill(fold, Set::Blank, fold);
    b.on(fold, class::of(b'x'), x);
    // Bytes above 0x7f may begin a value; some readers cut off those that are white space in their character set.
    let fold_text = b.state();
    b.copy(VALUE, fold_text);
    b.fill(fold_text, Set::Blank, fold_text);
    b.on(fold_text, class::HIGH, fold_text);
    b.on(fold_text, class::CONTROL, malformed);
    b.on(fold_text, class::of(b'x'), x);
    b.on(fold, class::HIGH, fold_text);
    b.on(fold, class::CR, blank_cr);
    // Blanks alone: some readers see an empty line.
    b.on(fold, class::LF, LINE_MALFORMED);
    b.action(fold, Action::DROP);
    b.cr(blank_cr, LINE_MALFORMED);
}

const fn header_values(b: &mut Builder) {
    // Values that nothing depends on. Headers that count by their presence alone have the same transitions.
    let plain = [
        (VALUE, Action::NONE, 0),
        (DROPPED, Action::DROP, 0),
        (MALFORMED, Action::DROP, facts::MALFORMED),
        (TOKEN_VALUE, Action::DROP, facts::TOKEN_VALUE),
        (TTL, Action::DROP, facts::TTL),
        (FORWARDED, Action::DROP, facts::FORWARDED),
        (FOREIGN, Action::DROP, facts::FOREIGN_HEADER),
    ];
    let mut i = 0;
    while i < plain.len() {
        let (state, action, facts) = plain[i];
        b.value(state, VALUE, VALUE, VALUE_CR, LINE);
        b.fact(state, action, facts);
        i += 1;
    }
    b.cr(VALUE_CR, LINE);
    b.cr(MALFORMED_CR, LINE);
    b.fact(MALFORMED_CR, Action::DROP, facts::MALFORMED);

    b.value(TOKEN, TOKEN_SPACE, TOKEN_VALUE, TOKEN_CR, LINE_TOKEN);
    b.copy(TOKEN, TOKEN_SPACE);
    b.copy(TOKEN, TOKEN_FOLD);
    b.fill(TOKEN_FOLD, Set::Blank, TOKEN_FOLD);
    b.on(TOKEN_FOLD, class::CR, b.readings.blank_cr);
    b.on(TOKEN_FOLD, class::LF, LINE_MALFORMED);
    b.cr(TOKEN_CR, LINE_TOKEN);
    b.fact(TOKEN, Action::DROP, facts::TOKEN);
    b.action(TOKEN_FOLD, Action::DROP);

    b.value(LENGTH, LENGTH_SPACE, LENGTH_INVALID, LENGTH_CR, LINE_LENGTH);
    b.fill(LENGTH, Set::Digits, LENGTH_DIGIT);
    b.copy(LENGTH, LENGTH_SPACE);
    b.value(LENGTH_TAIL, LENGTH_TAIL, LENGTH_INVALID, LENGTH_CR, LINE_LENGTH);
    b.copy(LENGTH_TAIL, LENGTH_DIGIT);
    b.fill(LENGTH_DIGIT, Set::Digits, LENGTH_DIGIT);
    b.value(LENGTH_INVALID, VALUE, VALUE, LENGTH_CR, LINE_LENGTH);
    b.cr(LENGTH_CR, LINE_LENGTH);
    b.fact(LENGTH, Action::LENGTH, facts::LENGTH | facts::LENGTH_EMPTY);
    b.action(LENGTH_DIGIT, Action::LENGTH_DIGIT);
    b.fact(LENGTH_INVALID, Action::DROP, facts::LENGTH_INVALID);

    b.value(ENCODING, ENCODING_SPACE, ENCODING_OTHER, ENCODING_CR, LINE_ENCODING);
    b.copy(ENCODING, ENCODING_SPACE);
    b.value(ENCODING_TAIL, ENCODING_TAIL, ENCODING_OTHER, ENCODING_CR, LINE_ENCODING);
    b.copy(ENCODING_TAIL, CHUNKED);
    b.value(ENCODING_OTHER, VALUE, VALUE, ENCODING_CR, LINE_ENCODING);
    b.cr(ENCODING_CR, LINE_ENCODING);
    b.fact(ENCODING, Action::DROP, facts::ENCODING);
    b.fact(CHUNKED, Action::DROP, facts::CHUNKED);
    b.fact(ENCODING_OTHER, Action::DROP, facts::ENCODING_OTHER);
    // The letters in between: like any other value unless they become "chunked".
    let inside = b.state();
    b.value(inside, ENCODING_OTHER, ENCODING_OTHER, ENCODING_CR, LINE_ENCODING);
    let before_last = b.word(ENCODING, b"chunke", true, inside);
    b.on(before_last, class::of(b'd'), CHUNKED);
    b.on(before_last, class::of(b'D'), CHUNKED);
    let c = b.get(ENCODING, class::of(b'c'));
    b.on(ENCODING_SPACE, class::of(b'c'), c);

    b.value(METADATA, METADATA_SPACE, VALUE, VALUE_CR, LINE);
    b.copy(METADATA, METADATA_SPACE);
    b.action(METADATA, Action::DROP);
    let before_last = b.word(METADATA, b"tru", true, VALUE);
    b.on(before_last, class::of(b'e'), FOREIGN);
    b.on(before_last, class::of(b'E'), FOREIGN);
    let t = b.get(METADATA, class::of(b't'));
    b.on(METADATA_SPACE, class::of(b't'), t);
    b.on(METADATA_SPACE, class::of(b'T'), t);

    b.value(KEPT, KEPT, KEPT, KEPT_CR, LINE_KEPT);
    b.cr(KEPT_CR, LINE_KEPT);
}

const fn header_lines(b: &mut Builder) {
    b.fill(NAME, Set::All, MALFORMED);
    b.fill(NAME, Set::Tchar, NAME);
    b.fill(NAME, Set::Blank, NAME_SPACE);
    b.on(NAME, class::COLON, DROPPED);
    b.on(NAME, class::CR, MALFORMED_CR);
    b.on(NAME, class::LF, LINE_MALFORMED);
    b.copy(NAME, NAME_SPACE);
    b.fill(NAME_SPACE, Set::Tchar, MALFORMED);
    b.fact(NAME_SPACE, Action::FACT, facts::MALFORMED);

    let fold = b.readings.fold;
    b.copy(NAME, LINE);
    b.on(LINE, class::COLON, MALFORMED);
    b.on(LINE, class::CONTROL, b.readings.malformed);
    b.on(LINE, class::HIGH, b.readings.malformed);
    b.fill(LINE, Set::Blank, fold);
    b.on(LINE, class::CR, END_CR);
    b.on(LINE, class::LF, END);
    b.cr(END_CR, END);
    let end_crs = b.state();
    b.on(END_CR, class::CR, end_crs);
    b.copy(END_CR, end_crs);
    b.fact(end_crs, Action::FACT, facts::MALFORMED);
    b.action(END, Action::END);

    // Blanks before the colon: nobody knows whether a server uses a length or coding in such a line.
    let encoding_spaced = b.state();
    b.copy(ENCODING_OTHER, encoding_spaced);
    b.fact(encoding_spaced, Action::DROP, facts::ENCODING | facts::ENCODING_OTHER);
    b.token_header(b"x-aws-ec2-metadata-token", TOKEN);
    b.token_header(b"x-aws-ec2-metadata-token-ttl-seconds", TTL);
    b.header(b"x-forwarded-for", FORWARDED);
    let length = b.header(b"content-length", LENGTH);
    b.header_spaced(length, LENGTH_INVALID, 0);
    let encoding = b.header(b"transfer-encoding", ENCODING);
    b.header_spaced(encoding, encoding_spaced, 0);
    b.header(b"user-agent", KEPT);
    b.header(b"metadata", METADATA);
    // Other clouds at the same address: Google and IBM, Linode.
    b.header(b"metadata-flavor", FOREIGN);
    b.header(b"metadata-token", FOREIGN);

    let fold_length = b.state();
    b.copy(fold, fold_length);
    b.fact(fold_length, Action::DROP, facts::LENGTH_INVALID);
    let fold_encoding = b.state();
    b.copy(fold, fold_encoding);
    b.fact(fold_encoding, Action::DROP, facts::ENCODING_OTHER);
    let named_line = b.readings.named_line;
    let folds = [
        (LINE_FIRST, b.readings.malformed),
        (LINE_TOKEN, TOKEN_FOLD),
        (LINE_LENGTH, fold_length),
        (LINE_ENCODING, fold_encoding),
        (LINE_KEPT, fold),
        (LINE_MALFORMED, fold),
        (named_line, fold),
    ];
    let mut i = 0;
    while i < folds.len() {
        let (line, fold) = folds[i];
        b.copy(LINE, line);
        b.fill(line, Set::Blank, fold);
        b.action(line, Action::LINE);
        i += 1;
    }
    b.action(LINE, Action::LINE);
    b.fact(LINE_MALFORMED, Action::MALFORMED_LINE, facts::MALFORMED);
    b.fact(named_line, Action::MALFORMED_LINE, facts::MALFORMED | facts::TOKEN_NAME);
}

const fn scan(b: &mut Builder) {
    let first = b.used;

    b.fill(SCAN_DEAD, Set::All, SCAN_DEAD);
    b.on(SCAN_DEAD, class::LF, SCAN_LINE);

    b.fill(SCAN_GAP, Set::All, SCAN_GAP);
    b.fill(SCAN_GAP, Set::Visible, SCAN_ODD);
    b.on(SCAN_GAP, class::LF, SCAN_LINE);

    b.copy(SCAN_GAP, SCAN_ODD);
    b.on(SCAN_ODD, class::SPACE, SCAN_SPACE);
    b.copy(SCAN_ODD, SCAN_WORD);
    b.fill(SCAN_WORD, Set::Tchar, SCAN_WORD);
    b.copy(SCAN_GAP, SCAN_SPACE);
    b.fill(SCAN_SPACE, Set::Visible, SCAN_WORDS);
    b.on(SCAN_SPACE, class::HIGH, SCAN_WORDS);
    b.on(SCAN_SPACE, class::CONTROL, SCAN_WORDS);
    b.on(SCAN_SPACE, class::COLON, SCAN_MORE);
    b.on(SCAN_SPACE, class::SPACE, SCAN_SPACE);

    b.copy(SCAN_GAP, SCAN_WORDS);
    b.fill(SCAN_WORDS, Set::Visible, SCAN_WORDS);
    b.on(SCAN_WORDS, class::SPACE, SCAN_SPACES);
    b.copy(SCAN_WORDS, SCAN_MORE);
    b.on(SCAN_WORDS, class::HIGH, SCAN_WORDS);
    b.on(SCAN_WORDS, class::CONTROL, SCAN_WORDS);
    b.on(SCAN_WORDS, class::CR, SCAN_WORDS_CR);
    b.copy(SCAN_GAP, SCAN_WORDS_CR);
    b.on(SCAN_WORDS_CR, class::SPACE, SCAN_SPACES);
    b.fill(SCAN_MORE, Set::Visible, SCAN_MORE);
    b.copy(SCAN_MORE, SCAN_SPACES);
    let dot = b.word(SCAN_SPACES, b"HTTP/1.", false, SCAN_MORE);
    b.fill(dot, Set::Digits, SCAN_VERSION);
    b.copy(SCAN_MORE, SCAN_VERSION);
    b.on(SCAN_VERSION, class::SPACE, SCAN_VERSION_END);
    b.on(SCAN_VERSION, class::CR, SCAN_FOUND_CR);
    b.on(SCAN_VERSION, class::LF, SCAN_FOUND);
    b.copy(SCAN_SPACES, SCAN_VERSION_END);
    b.on(SCAN_VERSION_END, class::SPACE, SCAN_VERSION_END);
    b.on(SCAN_VERSION_END, class::CR, SCAN_FOUND_CR);
    b.on(SCAN_VERSION_END, class::LF, SCAN_FOUND);

    // A whole line that is an HTTP/0.9 request.
    b.copy(SCAN_GAP, SCAN_LINE);
    b.fill(SCAN_LINE, Set::Tchar, SCAN_WORD);
    let get = b.word(SCAN_LINE, b"GET", false, SCAN_WORD);
    let space = b.state();
    b.copy(SCAN_SPACE, space);
    b.on(get, class::SPACE, space);
    b.on(space, class::SPACE, space);
    b.on(space, class::SLASH, SCAN_SIMPLE);
    b.copy(SCAN_WORDS, SCAN_SIMPLE);
    b.fill(SCAN_SIMPLE, Set::Visible, SCAN_SIMPLE);
    b.on(SCAN_SIMPLE, class::CR, SCAN_FOUND_CR);
    b.on(SCAN_SIMPLE, class::LF, SCAN_FOUND);

    b.on(SCAN_LINE, class::CR, SCAN_BLANK_CR);
    b.on(SCAN_LINE, class::LF, SCAN_BLANK);
    b.copy(SCAN_LINE, SCAN_BLANK);
    b.copy(SCAN_LINE, SCAN_FOUND);
    b.copy(SCAN_GAP, SCAN_BLANK_CR);
    b.on(SCAN_BLANK_CR, class::LF, SCAN_BLANK);
    b.copy(SCAN_GAP, SCAN_FOUND_CR);

    let mut state = SCAN_LINE;
    while state <= SCAN_WORDS_CR {
        b.action(state, Action::SCAN);
        state += 1;
    }
    let mut state = first;
    while state < b.used {
        b.action(state, Action::SCAN);
        state += 1;
    }
    b.action(SCAN_DEAD, Action::SCAN_DEAD);
    b.action(SCAN_BLANK, Action::SCAN_BLANK);
    b.action(SCAN_FOUND, Action::SCAN_FOUND);
    b.action(SCAN_FOUND_CR, Action::SCAN_FOUND);
    b.action(SCAN_GAP, Action::SCAN_ODD);
    b.action(SCAN_ODD, Action::SCAN_ODD);
    b.action(SCAN_MORE, Action::SCAN_ODD);
    b.action(SCAN_VERSION, Action::SCAN_WHOLE);
    b.action(SCAN_VERSION_END, Action::SCAN_WHOLE);
    b.action(SCAN_SIMPLE, Action::SCAN_WHOLE);
}

const _: () = {
    assert!(class::END as usize <= CLASSES);
    // Every state leads somewhere on every class, and the first of a head's states is where a head begins.
    assert!(HEAD.actions[START as usize] == Action::IDLE);
    assert!(HEAD.actions[SCAN_LINE as usize] == Action::SCAN);
};
