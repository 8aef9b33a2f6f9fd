//! Finds the secrets in one piece of text and writes it without them.

mod shapes;
mod view;

use std::ops::Range;

use self::view::View;
use super::names::{self, Name, Program};

/// What stands in place of a secret.
pub(super) const MASK: &str = "***";

/// A run of base64 characters, padding included, is of token shape from this length (an IMDS token has 56).
pub(super) const TOKEN_SHAPE: usize = 40;
/// At the end of text that was cut, from this length.
const CUT_TOKEN: usize = 16;
/// Which values may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    AllButTokens,
    NoSecrets,
}

/// The value is not in this argument, but will be the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Header,
    Authorization,
    Secret,
    /// `user:password`.
    UserInfo,
}

impl Pending {
    fn for_name(name: Name) -> Self {
        match name {
            Name::TokenHeader => Self::Header,
            Name::Authorization => Self::Authorization,
            Name::Secret | Name::Key => Self::Secret,
        }
    }
}

/// Masks pieces of text that belong together: it remembers which program was named before its options.
#[derive(Debug)]
pub(super) struct Scanner {
    shown: Shown,
    program: Option<Program>,
}

/// Where a value ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    /// An argument holds one value: `--password=two words`.
    Argument,
    /// A command line, as for [`Context::Text`]; what the shell has yet to fill in is no secret.
    Shell,
    /// At the next blank, quote or separator.
    Text,
}

impl Scanner {
    pub(super) fn new(shown: Shown) -> Self {
        Self { shown, program: None }
    }

    /// Masks text that is no argument.
    pub(super) fn text(&mut self, text: &str) -> String {
        self.mask(text, Context::Text).0
    }

    /// Masks one argument, and says whether the next one is a value.
    pub(super) fn argument(&mut self, arg: &str, shell_text: bool) -> (String, Option<Pending>) {
        self.mask(arg, if shell_text { Context::Shell } else { Context::Argument })
    }

    fn mask(&mut self, text: &str, context: Context) -> (String, Option<Pending>) {
        let view = View::new(text);
        let mut spans = Vec::new();
        shapes::tokens(&view, &mut spans);
        if self.shown == Shown::NoSecrets {
            shapes::url_passwords(&view, &mut spans);
        }
        let mut pending = None;
        let mut at = 0;
        while let Some(word) = view.next_run(at, is_word) {
            at = word.end;
            let scheme = names::is_auth_scheme(view.slice(&word));
            pending = self
                .word(&view, word, context, &mut spans)
                .or(pending.filter(|_| scheme));
        }
        (view.without(text, spans), pending)
    }

    /// Looks at one word and what follows it. Only what the last word says can be pending.
    fn word(
        &mut self,
        view: &View,
        word: Range<usize>,
        context: Context,
        spans: &mut Vec<Range<usize>>,
    ) -> Option<Pending> {
        let bytes = view.slice(&word);
        let mut name = names::classify(bytes);
        if self.shown == Shown::NoSecrets {
            if let Some(program) = names::program(bytes) {
                self.program = Some(program);
            }
            shapes::access_key_ids(view, &word, spans);
            match self.program_option(view, &word, context, spans) {
                Some(pending) if view.len() == word.end => return Some(pending),
                Some(Pending::Secret) => name = Some(Name::Secret),
                _ => {}
            }
        } else if matches!(name, Some(Name::Secret | Name::Key)) {
            return None;
        }
        let name = name?;
        let is_option = bytes.starts_with(b"-");
        if name == Name::Key && !is_option && !matches!(view.before(word.start), Some(b'?' | b'&')) {
            return None;
        }
        match value_start(view, &word, name, is_option) {
            Value::None => None,
            Value::Next => Some(Pending::for_name(name)),
            Value::At { start, quote } => {
                let header = matches!(name, Name::TokenHeader | Name::Authorization);
                if context == Context::Shell && !header && is_shell_variable(view, start) {
                    return None;
                }
                let end = value_end(view, &word, start, quote, name, context);
                let scheme_only = name == Name::Authorization
                    && end == view.len()
                    && names::is_auth_scheme(view.slice(&(start..end)).trim_ascii_end());
                spans.push(start..end);
                scheme_only.then_some(Pending::Authorization)
            }
        }
    }

    /// Options that only one program uses for a password.
    fn program_option(
        &self,
        view: &View,
        word: &Range<usize>,
        context: Context,
        spans: &mut Vec<Range<usize>>,
    ) -> Option<Pending> {
        let bytes = view.slice(word);
        match self.program? {
            Program::Curl if names::is_user_option(bytes) => {
                let start = view.skip(word.end, |byte| matches!(byte, b' ' | b'=' | b'"' | b'\''));
                let end = view.until(start, ends_value);
                if let Some(colon) = view.find(start..end, b':') {
                    spans.push(colon + 1..end);
                }
                Some(Pending::UserInfo)
            }
            Program::Sshpass if bytes == b"-p" => Some(Pending::Secret),
            Program::Mysql | Program::Sshpass if bytes.starts_with(b"-p") && bytes.len() > 2 => {
                let end = match context {
                    Context::Argument => view.len(),
                    Context::Shell | Context::Text => view.until(word.end, ends_value),
                };
                spans.push(word.start + 2..end);
                None
            }
            _ => None,
        }
    }
}

/// Masks a run of base64url characters at the end, where a token may have been cut; percent-encoded ones count.
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

enum Value {
    None,
    /// The argument ends before it.
    Next,
    At {
        start: usize,
        /// The quote that opens it, and whether that is escaped.
        quote: Option<(u8, bool)>,
    },
}

/// Walks over what may stand between a name and its value: `: `, `=`, `": "`, `', '`, `:\"`.
fn value_start(view: &View, word: &Range<usize>, name: Name, is_option: bool) -> Value {
    let (mut blank, mut separator) = (false, false);
    let mut quote = None;
    let mut at = word.end;
    while let Some(byte) = view.at(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => blank = true,
            b':' | b'=' => separator = true,
            b'"' | b'\'' | b'`' => quote = Some((at, byte)),
            b'\\' => {}
            b',' | b'(' | b'[' | b'{' if quote.is_some() => {}
            b'>' if separator => {}
            _ => break,
        }
        at += 1;
    }
    let announced = match name {
        Name::TokenHeader => at > word.end || at == view.len(),
        Name::Authorization => separator || quote.is_some() || at == view.len(),
        Name::Secret | Name::Key => separator || (is_option && (blank || at == view.len())),
    };
    if !announced {
        return Value::None;
    }
    if at == view.len() {
        return Value::Next;
    }
    // An empty header before a URL, and `token://`.
    if view.has_scheme(at) || view.slice(&(at..at + 2)) == b"//" {
        return Value::None;
    }
    let opening = quote.filter(|(position, _)| position + 1 == at);
    Value::At {
        start: at,
        quote: opening.map(|(position, byte)| (byte, view.before(position) == Some(b'\\'))),
    }
}

fn value_end(
    view: &View,
    word: &Range<usize>,
    start: usize,
    quote: Option<(u8, bool)>,
    name: Name,
    context: Context,
) -> usize {
    if let Some((quote, escaped)) = quote {
        return view.closing_quote(start, quote, escaped);
    }
    // `"Name: value with blanks"`: the quote that opens the header closes the value.
    if let Some(quote @ (b'"' | b'\'')) = view.before(word.start) {
        let escaped = word.start > 1 && view.before(word.start - 1) == Some(b'\\');
        return view.closing_quote(start, quote, escaped);
    }
    if context == Context::Argument && is_plain_prefix(view, word.start) {
        return view.len();
    }
    match name {
        // A scheme, a blank, the secret.
        Name::Authorization => view.until(start, |byte| matches!(byte, b'"' | b'\'' | b'\n')),
        _ => view.until(start, ends_value),
    }
}

/// Nothing before `end` says that the argument holds more than one name and its value.
fn is_plain_prefix(view: &View, end: usize) -> bool {
    !view
        .slice(&(0..end))
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || b"\"'`?&{".contains(byte))
}

/// `$(command)`, `${NAME}`, `$NAME` and `` `command` `` are no secret yet.
fn is_shell_variable(view: &View, start: usize) -> bool {
    match (view.at(start), view.at(start + 1)) {
        (Some(b'$'), Some(next)) => matches!(next, b'(' | b'{' | b'_') || next.is_ascii_uppercase(),
        _ => false,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// Characters that end a value that is not quoted.
fn ends_value(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"'`&;|<>".contains(&byte)
}
