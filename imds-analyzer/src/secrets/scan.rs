//! Masks the secrets in a text.

mod shapes;
mod value;
mod view;

use std::ops::Range;

use self::{
    value::{Announced, Quotes, Value},
    view::View,
};
use super::{
    names::{self, Name},
    tools::{self, Found, Tool},
};

/// The replacement of a secret.
pub(super) const MASK: &str = "***";

/// Minimum length of a run of base64 characters of token shape, with padding. An IMDS token has 56.
pub(super) const TOKEN_SHAPE: usize = 40;
/// The same at the end of text that was cut.
const CUT_TOKEN: usize = 16;
/// Maximum depth of nested commands: `sh -c "ssh h 'curl ...'"`.
const COMMANDS: usize = 4;
/// Maximum number of values in one object of names and values.
const VALUES: usize = 8;

/// Values that may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    AllButTokens,
    NoSecrets,
}

/// A value that is expected in the next argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Header,
    Authorization(Awaited),
    /// The value of an option.
    Secret,
    /// The value of a name that is an argument of its own.
    Named,
    /// `user:password`, or with another separator.
    UserInfo(u8),
    /// `user:password@host`.
    Proxy,
}

/// The part of an `Authorization` value that is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The scheme, or the whole value.
    Scheme,
    /// The value after a known scheme.
    Credentials,
    /// The value, if the previous argument was a scheme.
    Perhaps,
}

impl Pending {
    fn for_name(name: Name, is_option: bool) -> Self {
        match name {
            Name::TokenHeader => Self::Header,
            Name::Authorization => Self::Authorization(Awaited::Scheme),
            Name::Secret | Name::Key | Name::Directory if is_option => Self::Secret,
            Name::Secret | Name::Key | Name::Directory => Self::Named,
        }
    }

    fn for_value(value: tools::Value) -> Self {
        match value {
            tools::Value::Secret => Self::Secret,
            tools::Value::UserInfo(separator) => Self::UserInfo(separator),
            tools::Value::Proxy => Self::Proxy,
        }
    }
}

/// Masks the arguments of one command. It remembers the program that its options belong to.
#[derive(Debug)]
pub(super) struct Scanner {
    shown: Shown,
    tool: Option<&'static Tool>,
    /// The subcommand that gives the program's options their meaning has been seen.
    has_command: bool,
    /// Number of words before one that is a secret by its position.
    places: Vec<(usize, tools::Value)>,
    /// A subcommand that sets values has been seen.
    sets_values: bool,
    /// Number of arguments seen.
    count: usize,
}

/// How values end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    /// An argument holds one value: `--password=two words`.
    Argument,
    /// A command line. Ends values like [`Context::Text`]; shell expansions are not secrets.
    Shell,
    /// A value ends at the next blank, quotation mark or separator.
    Text,
}

impl Scanner {
    pub(super) fn new(shown: Shown) -> Self {
        Self {
            shown,
            tool: None,
            has_command: false,
            places: Vec::new(),
            sets_values: false,
            count: 0,
        }
    }

    /// Masks text that is not an argument.
    pub(super) fn text(&mut self, text: &str) -> String {
        self.mask(text, Context::Text).0
    }

    /// Masks one argument. Also returns what to expect in the next one.
    pub(super) fn argument(&mut self, arg: &str, shell_text: bool) -> (String, Option<Pending>) {
        let context = if shell_text { Context::Shell } else { Context::Argument };
        let masked = self.mask(arg, context);
        self.count += 1;
        masked
    }

    fn mask(&mut self, text: &str, context: Context) -> (String, Option<Pending>) {
        let view = View::new(text);
        let mut spans = Vec::new();
        let mut pending = None;
        shapes::tokens(&view, &mut spans);
        if self.shown == Shown::NoSecrets {
            shapes::url_passwords(&view, &mut spans);
            shapes::user_infos(&view, &mut spans);
            if context != Context::Text {
                pending = self.options(&view, 0..view.len(), context, COMMANDS, &mut spans);
            }
        }
        let mut quotes = Quotes::default();
        let mut at = 0;
        while let Some(word) = view.next_run(at, is_word) {
            at = word.end;
            if names::is_auth_scheme(view.slice(&word)) {
                shapes::scheme_values(&view, &word, &mut spans);
            }
            if self.shown == Shown::NoSecrets {
                shapes::access_key_ids(&view, &word, &mut spans);
            }
            let Some(name) = self.name(&view, &word) else { continue };
            quotes.advance(&view, word.start);
            let (end, next) = self.named(&view, &word, name, context, &quotes, &mut spans);
            at = end.max(at);
            pending = next.or(pending);
        }
        (view.without(text, spans), pending)
    }

    /// Classifies `word` if its value is a secret in this mode.
    fn name(&self, view: &View, word: &Range<usize>) -> Option<Name> {
        let bytes = view.slice(word);
        let name = match names::classify(bytes) {
            // SQL.
            None if bytes.eq_ignore_ascii_case(b"by") && is_identified_by(view, word) => Name::Secret,
            name => name?,
        };
        if self.shown == Shown::AllButTokens && !name.is_header() {
            return None;
        }
        let in_query = matches!(view.before(word.start), Some(b'?' | b'&'));
        (name != Name::Key || bytes.starts_with(b"-") || in_query).then_some(name)
    }

    /// Masks the value of `word`. Returns its end, and what to expect in the next argument if the value is not here.
    fn named(
        &self,
        view: &View,
        word: &Range<usize>,
        name: Name,
        context: Context,
        quotes: &Quotes,
        spans: &mut Vec<Range<usize>>,
    ) -> (usize, Option<Pending>) {
        let bytes = view.slice(word);
        let is_option = bytes.starts_with(b"-");
        let mut masked = word.end;
        for (key, limit) in value::of_object(view, word).into_iter().take(VALUES) {
            if let Value::At { start, opening, form } = value::start(view, &key, name, Announced::NEVER) {
                let outer = Quotes::default();
                let value = value::span(view, &key, (start, opening, form), name, Context::Text, &outer);
                // A value without quotation marks ends with the object.
                let value = match opening {
                    Some(_) => value,
                    None => value.start..value.end.min(limit.max(value.start)),
                };
                masked = masked.max(word.end.max(if value.start > word.end { value.end } else { 0 }));
                spans.push(value);
            }
        }
        if masked == word.end
            && let Some(value) = value::of_element(view, word)
        {
            masked = value.end;
            spans.push(value);
        }
        if masked > word.end && view.before(word.start) != Some(b'<') {
            return (masked, None);
        }
        let announced = self.announced(view, word, name, context);
        match value::start(view, word, name, announced) {
            Value::None => (word.end, None),
            Value::Next => (word.end, Some(Pending::for_name(name, is_option))),
            Value::At { start, opening, form } => {
                // `` `command x` ``.
                let end = opening.map_or(start, |quote| view.closing(start, quote).unwrap_or(view.len()));
                let is_command = opening.is_some_and(|quote| quote.is_backtick())
                    && view.slice(&(start..end)).iter().any(u8::is_ascii_whitespace);
                if context == Context::Shell && !name.is_header() && (is_command || is_shell_variable(view, start)) {
                    return (word.end, None);
                }
                if name == Name::Directory && view.at(start) == Some(b'/') {
                    return (word.end, None);
                }
                let span = value::span(view, word, (start, opening, form), name, context, quotes);
                let end = span.end.max(word.end);
                let value = view.slice(&span);
                let next = match name {
                    _ if span.end < view.len() => None,
                    _ if name.is_header() && value::has_placeholder(value) => Some(Pending::for_name(name, false)),
                    Name::Authorization => awaited(value).map(Pending::Authorization),
                    _ => None,
                };
                spans.push(span);
                (end, next)
            }
        }
    }

    fn announced(&self, view: &View, word: &Range<usize>, name: Name, context: Context) -> Announced {
        let bytes = view.slice(word);
        if bytes.starts_with(b"-") {
            let takes_value = !names::is_flag(bytes);
            return Announced {
                by_blank: takes_value,
                by_end: takes_value,
            };
        }
        if name == Name::Authorization {
            return Announced {
                by_blank: sets_header(view, word),
                by_end: names::is_bare_header(bytes) && view.before(word.start) != Some(b' '),
            };
        }
        let before = view.before(word.start);
        let alone = before.is_none_or(begins_word) || self.sets_values && before == Some(b':');
        let first = self.count == 0 || context == Context::Shell;
        let is_first = word.start == 0 && first || matches!(view.before(word.start), Some(b';' | b'|' | b'&' | b'('));
        let sets = self.sets_values || sets_before(view, word.start);
        // The word also occurs in prose.
        let is_whole = word.start == 0 && word.end == view.len();
        let next = view.skip(word.end, |byte| byte.is_ascii_whitespace() || byte == b'\\');
        let is_password = names::is_password_word(bytes) && (is_whole || view.quote(next).is_some());
        let is_by = bytes.eq_ignore_ascii_case(b"by");
        let is_name = names::is_compound(bytes) && !is_by || is_password || sets || is_by && view.quote(next).is_some();
        let announced = context != Context::Text && alone && !is_first && is_name && name != Name::Directory;
        Announced {
            by_blank: announced,
            by_end: announced,
        }
    }

    /// Counts down to the words that are secrets by position.
    fn count_place(&mut self, tool: &Tool, word: &[u8]) {
        if !word.starts_with(b"-") {
            self.places
                .iter_mut()
                .for_each(|(left, _)| *left = left.saturating_sub(1));
            self.places.extend(tool.places_behind(word));
        }
    }

    /// Finds options for secrets that are specific to one program, in the words of a command.
    fn options(
        &mut self,
        view: &View,
        region: Range<usize>,
        context: Context,
        depth: usize,
        spans: &mut Vec<Range<usize>>,
    ) -> Option<Pending> {
        // If the option is an argument of its own, its value may contain blanks.
        let is_argument = context == Context::Argument && depth == COMMANDS && view.at(0) == Some(b'-');
        let mut pending: Option<tools::Value> = None;
        let mut at = region.start;
        loop {
            let start = view.skip(at, |byte| byte.is_ascii_whitespace() || b";|&(){}".contains(&byte));
            if start >= region.end {
                break;
            }
            if view.slice(&(at..start)).iter().any(|byte| b";|&\n".contains(byte)) {
                (self.tool, self.has_command, pending) = (None, false, None);
                self.places.clear();
            }
            let word = if is_argument {
                start..region.end
            } else {
                start..value::word_end(view, start).clamp(start + 1, region.end)
            };
            at = word.end;
            let inner = unquoted(view, &word);
            if let Some(value) = pending.take() {
                secret_value(view, value, inner, spans);
                continue;
            }
            let bytes = view.slice(&inner);
            if !is_argument && depth > 0 && inner.len() < word.len() && bytes.iter().any(u8::is_ascii_whitespace) {
                let _value_is_next = self.options(view, inner, context, depth - 1, spans);
                continue;
            }
            self.sets_values |= names::sets_values(bytes);
            if let Some(tool) =
                tools::find(bytes).filter(|_| view.find_text(inner.start, b"://").is_none_or(|at| at >= inner.end))
            {
                (self.tool, self.has_command) = (Some(tool), false);
                self.places = tool.places_behind(b"").collect();
            } else if let Some(tool) = self.tool {
                self.has_command |= tool.is_command(bytes);
                let active = !tool.needs_command() || self.has_command;
                self.count_place(tool, bytes);
                if let Some(value) = self
                    .places
                    .iter()
                    .find_map(|(left, value)| (*left == 0).then_some(*value))
                {
                    self.places.retain(|(left, _)| *left > 0);
                    secret_value(view, value, inner, spans);
                    continue;
                }
                match tool.option(bytes).filter(|_| active) {
                    Some(Found::Joined(skipped, value)) => {
                        let joined = unquoted(view, &(inner.start + skipped..inner.end));
                        secret_value(view, value, joined, spans);
                    }
                    Some(Found::Next(value)) => pending = Some(value),
                    None => {}
                }
            }
        }
        pending.map(Pending::for_value)
    }
}

impl Announced {
    const NEVER: Self = Self {
        by_blank: false,
        by_end: false,
    };
}

/// Masks an option's value.
fn secret_value(view: &View, value: tools::Value, range: Range<usize>, spans: &mut Vec<Range<usize>>) {
    match value {
        tools::Value::Secret => spans.push(range),
        tools::Value::Proxy => {
            let start = view
                .find_text(range.start, b"://")
                .filter(|at| *at < range.end)
                .map_or(range.start, |at| at + 3);
            let sign = view.rfind(start..range.end, b'@');
            if let Some((colon, sign)) = sign.and_then(|sign| Some((view.find(start..sign, b':')?, sign))) {
                spans.push(colon + 1..sign);
            }
        }
        tools::Value::UserInfo(separator) => {
            if let Some(at) = view.find(range.clone(), separator) {
                spans.push(at + 1..range.end);
            }
        }
    }
}

/// Removes enclosing quotation marks.
fn unquoted(view: &View, word: &Range<usize>) -> Range<usize> {
    let start = view.skip(word.start, |byte| byte == b'\\');
    let Some(quote) = view.quote(start).filter(|_| start < word.end) else {
        return word.clone();
    };
    let inner = start + 1;
    match word.end.checked_sub(1).and_then(|last| view.quote(last)) {
        Some(last) if last == quote && word.end >= inner + quote.len() => inner..word.end - quote.len(),
        _ => inner.min(word.end)..word.end,
    }
}

/// `IDENTIFIED BY 'x'`.
fn is_identified_by(view: &View, word: &Range<usize>) -> bool {
    let end = view.skip_back(word.start, |byte| byte.is_ascii_whitespace());
    let begin = view.skip_back(end, is_word);
    view.slice(&(begin..end)).eq_ignore_ascii_case(b"identified")
}

/// The part of an `Authorization` value that must follow in the next argument.
pub(super) fn awaited(value: &[u8]) -> Option<Awaited> {
    let value = value.trim_ascii();
    if names::is_auth_scheme(value) {
        return Some(Awaited::Credentials);
    }
    let more = names::is_like_scheme(value) || value.ends_with(b",");
    more.then_some(Awaited::Perhaps)
}

/// Masks a run of base64url characters at the end, which may be a truncated token. Percent-encoded characters count.
pub(super) fn mask_tail(text: &str) -> String {
    let rest = text.trim_end_matches(|char: char| char.is_ascii_alphanumeric() || "_-=%".contains(char));
    if text.len() - rest.len() < CUT_TOKEN {
        text.to_owned()
    } else {
        format!("{rest}{MASK}")
    }
}

pub(super) fn is_url(text: &str) -> bool {
    let scheme = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    scheme.starts_with("http://") || scheme == "https://"
}

/// True if blanks alone separate the name from its value: after a directive of a configuration (`proxy_set_header
/// Authorization x`), before a capital letter, which is rare there in prose, and before a known scheme.
fn sets_header(view: &View, word: &Range<usize>) -> bool {
    let blank = |byte: u8| byte.is_ascii_whitespace() || b"\"'`\\".contains(&byte);
    let name = view.slice(word);
    let next = view.skip(word.end, blank);
    let scheme = view.next_run(next, is_word).filter(|scheme| scheme.start == next);
    if name.iter().any(u8::is_ascii_uppercase)
        || scheme.is_some_and(|scheme| names::is_auth_scheme(view.slice(&scheme)))
    {
        return true;
    }
    let line = view
        .slice(&(word.start.saturating_sub(48)..word.start))
        .to_ascii_lowercase();
    let has = |text: &[u8]| line.windows(text.len()).any(|part| part == text);
    has(b"header") || has(b"param")
}

/// True if a subcommand that sets values precedes, in the same text.
fn sets_before(view: &View, start: usize) -> bool {
    let blank = |byte: u8| byte.is_ascii_whitespace();
    let end = view.skip_back(start, blank);
    let begin = view.skip_back(end, |byte| !blank(byte));
    names::sets_values(view.slice(&(begin..end)))
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'`;|&(".contains(&byte)
}

/// True for `$(command)`, `${NAME}`, `$NAME` and `` `command` ``, which are not secrets yet.
fn is_shell_variable(view: &View, start: usize) -> bool {
    match (view.at(start), view.at(start + 1)) {
        (Some(b'$'), Some(next)) => matches!(next, b'(' | b'{' | b'_') || next.is_ascii_uppercase(),
        _ => false,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// True for characters that end an unquoted value.
fn ends_value(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'`&;|<>".contains(&byte)
}
