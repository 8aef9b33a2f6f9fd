//! Finds the beginning and the end of the value of a name.
//!
//! The text may be shell, source code, JSON, XML, configuration or none of these, and nothing tells which. A quoted
//! value ends at its closing quotation mark, an unquoted one where every reader would end it. In doubt it ends later
//! rather than sooner.

use std::ops::{ControlFlow, Range};

use super::{
    Context, ends_value, is_word,
    view::{Quote, View},
};
use crate::secrets::names::{self, Name};

/// Maximum distance of a name and its value in one object or tag, in bytes.
const OBJECT: usize = 2048;

/// The quotation marks that are open at a position of the text.
#[derive(Debug, Default)]
pub(super) struct Quotes {
    open: Vec<Quote>,
    at: usize,
}

impl Quotes {
    /// Advances to `to`.
    pub(super) fn advance(&mut self, view: &View, to: usize) {
        for at in self.at..to {
            let Some(quote) = view.quote(at) else { continue };
            match self.open.iter().rposition(|open| *open == quote) {
                Some(depth) => self.open.truncate(depth),
                None => self.open.push(quote),
            }
        }
        self.at = self.at.max(to);
    }

    fn contains(&self, quote: Quote) -> bool {
        self.open.contains(&quote)
    }
}

#[derive(Debug)]
pub(super) enum Value {
    None,
    /// The text ends before the value, so the value is the next argument.
    Next,
    At {
        start: usize,
        /// The opening quotation mark.
        opening: Option<Quote>,
        form: Form,
    },
}

/// The syntax that connects a value with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `name: value`, `name=value`, `name value`.
    Plain,
    /// `"name: value"`, with this quotation mark open before the name.
    Inside(Quote),
    /// `"name": value`, `["name"] = value`, `("name", value)`.
    Quoted {
        /// A comma separates them.
        listed: bool,
        /// An opening bracket or a comma precedes the name, as in source code, where adjacent texts are one.
        in_program: bool,
    },
    /// `<name>value</name>`.
    Tag,
}

/// What can replace the separator between a name and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    /// A blank.
    pub(super) by_blank: bool,
    /// The end of the text: the value is the next argument.
    pub(super) by_end: bool,
}

/// Skips the separator between a name and its value: `: `, `=`, `": "`, `', '`, `:\"`, `"] = `.
pub(super) fn start(view: &View, word: &Range<usize>, name: Name, announced: Announced) -> Value {
    let direct = view.quote_before(word.start);
    if view.before(word.start) == Some(b'<')
        && let Some(start) = tag_end(view, word.end)
    {
        return Value::At {
            start,
            opening: None,
            form: Form::Tag,
        };
    }
    let (mut blank, mut separator, mut listed, mut bracket, mut quoted) = (false, false, false, false, false);
    let mut last_quote = None;
    let mut at = word.end;
    while let Some(byte) = view.at(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => blank = true,
            b':' | b'=' => separator = true,
            b'"' | b'\'' | b'`' => {
                let quote = view.quote(at);
                quoted |= quote.is_some() && quote == direct;
                last_quote = quote.map(|quote| (at, quote, quoted));
            }
            b'\\' => {}
            // The header of a token in a list, or in its own grammar.
            b';' | b',' | b'/' | b'|' if name == Name::TokenHeader && at == word.end => separator = true,
            // `PASSWORD('x')`.
            b'(' if at == word.end && view.quote(view.skip(at + 1, |byte| byte == b'\\')).is_some() => separator = true,
            b',' if last_quote.is_some() => listed = true,
            // `h["name"] += x`.
            b'+' | b'.' | b'?' | b'~' | b'|'
                if (1..3).any(|next| view.at(at + next) == Some(b'=')) && (bracket || quoted) => {}
            // `h["name"].append(x)`.
            b'.' if bracket && method_end(view, at + 1).is_some() => {
                separator = true;
                at = method_end(view, at + 1).unwrap_or(at);
                continue;
            }
            b']' | b')' | b'}' if last_quote.is_some() && !separator => bracket = true,
            b'>' if separator || listed => {}
            b'-' if view.at(at + 1) == Some(b'>') => separator = true,
            _ => break,
        }
        at += 1;
    }
    let certain = separator || listed;
    let is_announced = match name {
        _ if bracket && !certain => false,
        Name::TokenHeader => at > word.end || at == view.len(),
        Name::Authorization => {
            certain || last_quote.is_some() || (blank && announced.by_blank) || (announced.by_end && at == view.len())
        }
        Name::Secret | Name::Key | Name::Directory => {
            certain || (blank && announced.by_blank) || (announced.by_end && at == view.len())
        }
    };
    if !is_announced {
        return Value::None;
    }
    if at >= view.len() {
        return Value::Next;
    }
    // Excludes an empty header before a URL, and `token://`.
    if view.has_scheme(at) || view.has(at, b"//") {
        return Value::None;
    }
    let adjacent = last_quote.filter(|(position, quote, _)| {
        position + 1 == at && !(quoted && Some(*quote) == direct && closes_name(view, word, *position))
    });
    let form = match direct {
        _ if quoted => Form::Quoted {
            listed,
            in_program: follows_bracket(view, word.start),
        },
        Some(quote) if adjacent.is_none_or(|(_, opening, _)| opening != quote) => Form::Inside(quote),
        _ => Form::Plain,
    };
    Value::At {
        start: at,
        opening: adjacent.map(|(_, quote, _)| quote),
        form,
    }
}

/// The position after `name(`.
fn method_end(view: &View, at: usize) -> Option<usize> {
    let end = view.skip(at, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (end > at && view.at(end) == Some(b'(')).then_some(end + 1)
}

/// True if a bracket or a comma precedes the quoted name.
fn follows_bracket(view: &View, start: usize) -> bool {
    let marks = |byte: u8| b"\"'`\\".contains(&byte) || byte.is_ascii_whitespace();
    let name = view.skip_back(start, marks);
    // `b'name'`.
    let name = name - usize::from(view.before(name).is_some_and(|byte| b"bruf@".contains(&byte)));
    let before = view.before(view.skip_back(name, |byte| byte.is_ascii_whitespace()));
    before.is_some_and(|byte| b"{[(,".contains(&byte))
}

/// True if the mark at `position` closes the name itself.
fn closes_name(view: &View, word: &Range<usize>, position: usize) -> bool {
    view.skip(word.end, |byte| byte == b'\\') == position
}

/// The position after `<name>` or `<name attribute="x">`.
fn tag_end(view: &View, at: usize) -> Option<usize> {
    let end = (at..view.len().min(at + OBJECT)).find(|at| matches!(view.at(*at), Some(b'<' | b'>')))?;
    let is_name = matches!(view.at(at), Some(b'>' | b' ' | b'\t' | b'\n' | b'\r'));
    (is_name && view.at(end) == Some(b'>') && view.before(end) != Some(b'/')).then_some(end + 1)
}

/// The position before the next tag.
fn tag_value_end(view: &View, start: usize) -> usize {
    let data = view.skip(start, |byte| byte.is_ascii_whitespace());
    if view.has(data, b"<![CDATA[") {
        return view.find_text(data, b"]]>").unwrap_or(view.len());
    }
    view.find(start..view.len(), b'<').unwrap_or(view.len())
}

/// The range of the value that begins at `start`.
pub(super) fn span(
    view: &View,
    word: &Range<usize>,
    (start, opening, form): (usize, Option<Quote>, Form),
    name: Name,
    context: Context,
    quotes: &Quotes,
) -> Range<usize> {
    // The mark before a quoted name is closed again.
    let outer = |quote: Quote| match form {
        Form::Quoted { .. } => quotes.contains(quote) && Some(quote) != view.quote_before(word.start),
        _ => quotes.contains(quote),
    };
    let in_program = matches!(form, Form::Quoted { in_program: true, .. });
    let adds = match form {
        _ if in_program => Adds::Program,
        Form::Quoted { .. } => Adds::Operators,
        _ if name.is_header() => Adds::Operators,
        _ => Adds::Joined,
    };
    let (span, mark) = match (opening, form) {
        (_, Form::Tag) => return start..tag_value_end(view, start),
        (Some(opening), _) => (string(view, start, opening, adds, &outer), Some(opening)),
        (None, Form::Quoted { .. }) => (start..expression(view, start, false, &outer), None),
        (None, Form::Inside(quote)) => (start..inside(view, start, quote, &outer), Some(quote)),
        (None, Form::Plain) if context == Context::Argument && is_plain_prefix(view, word.start) => {
            (start..view.len(), None)
        }
        (None, Form::Plain) if name == Name::Authorization => {
            (start..line(view, word, start, &outer), quotes.open.last().copied())
        }
        (None, Form::Plain) => {
            let mark = quotes.open.last().copied();
            let end = match name {
                Name::TokenHeader => shell_word(view, start, &outer),
                // A backslash, or a quotation mark inside the value, protects blanks.
                _ => shell_word(view, start, &outer).max(view.until(start, ends_value)),
            };
            (start..end, mark)
        }
    };
    if !name.is_header() {
        return span;
    }
    // The arguments of a format string follow it.
    if has_placeholder(view.slice(&span)) {
        let closed = view.skip(span.end, |byte| byte == b'\\');
        let next = match mark {
            Some(mark) if view.quote(closed) == Some(mark) => closed + 1,
            _ => span.end,
        };
        let others = |quote: Quote| Some(quote) != mark && outer(quote);
        return span.start..expression(view, next, true, &others).max(span.end);
    }
    let listed = matches!(form, Form::Quoted { listed: true, .. });
    match name {
        Name::Authorization if span.end < view.len() => behind_scheme(view, span, listed, &outer),
        _ => span,
    }
}

/// The text that can continue a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adds {
    /// Adjacent text.
    Joined,
    /// Also text added by an operator.
    Operators,
    /// Also the next text.
    Program,
}

/// Finds the end of a quoted text and its continuations.
fn string(view: &View, start: usize, opening: Quote, adds: Adds, outer: &impl Fn(Quote) -> bool) -> Range<usize> {
    let Some((close, own)) = closing(view, start, opening, outer) else {
        return start..view.len();
    };
    if !own {
        return start..close;
    }
    let next = close + opening.len();
    match continued(view, next, adds, outer) {
        Some(end) => start - opening.len()..end,
        None => start..close,
    }
}

/// Finds the end of the rest of a quoted text and its continuations.
fn inside(view: &View, start: usize, quote: Quote, outer: &impl Fn(Quote) -> bool) -> usize {
    let others = |other: Quote| other != quote && outer(other);
    match closing(view, start, quote, &others) {
        Some((close, true)) => continued(view, close + quote.len(), Adds::Operators, &others).unwrap_or(close),
        Some((close, false)) => close,
        // The text is encoded, inside one that is not.
        None if quote.is_encoded() => view.until(start, ends_value),
        None => view.len(),
    }
}

/// The position where `quote` or an enclosing quotation mark is closed, including its backslashes, and true if that
/// mark is `quote`.
fn closing(view: &View, start: usize, quote: Quote, outer: &impl Fn(Quote) -> bool) -> Option<(usize, bool)> {
    (start..view.len()).find_map(|at| {
        let found = view.quote(at)?;
        let own = found == quote;
        (own || outer(found)).then(|| ((at + 1 - found.len()).max(start), own))
    })
}

/// If there is a quotation mark at `at`: continues after the text that it opens, or breaks at the end of the value from
/// `start` on, if the mark closes an enclosing one or is itself never closed.
fn past_quoted(
    view: &View,
    start: usize,
    at: usize,
    outer: &impl Fn(Quote) -> bool,
) -> Option<ControlFlow<usize, usize>> {
    let quote = view.quote(at)?;
    if outer(quote) {
        return Some(ControlFlow::Break((at + 1 - quote.len()).max(start)));
    }
    Some(match closing(view, at + 1, quote, outer) {
        Some((close, true)) => ControlFlow::Continue(close + quote.len()),
        Some((close, false)) => ControlFlow::Break(close),
        None => ControlFlow::Break(view.len()),
    })
}

/// The end of the text that continues a text closed before `at`: `"a"b`, `"a" + b`, `"a".format(b)`.
fn continued(view: &View, at: usize, adds: Adds, outer: &impl Fn(Quote) -> bool) -> Option<usize> {
    let quote_follows = view
        .quote(view.skip(at, |byte| byte == b'\\'))
        .is_some_and(|quote| !outer(quote));
    match view.at(at)? {
        byte if is_word(byte) && byte != b'.' || byte == b'$' => Some(shell_word(view, at, outer)),
        _ if quote_follows => Some(shell_word(view, at, outer)),
        b'.' if view.at(at + 1).is_some_and(|byte| byte.is_ascii_alphabetic()) => {
            Some(expression(view, at, false, outer))
        }
        _ if adds == Adds::Joined => None,
        _ => {
            let next = view.skip(at, |byte| byte.is_ascii_whitespace());
            let behind = view.at(next + 1);
            let blank_behind = behind.is_none_or(|byte| byte.is_ascii_whitespace() || b"\"'`$(".contains(&byte));
            let adds = match view.at(next)? {
                _ if adds == Adds::Program && view.quote(view.skip(next, |byte| byte == b'\\')).is_some() => next > at,
                b'+' | b'~' => true,
                b'.' => (next > at && blank_behind) || behind == Some(b'.'),
                b'%' | b'*' | b'?' => true,
                b'|' => behind == Some(b'|'),
                b'<' => behind == Some(b'<'),
                b'&' => next > at && behind.is_some_and(|byte| b"\"' ".contains(&byte)) && behind != Some(b'&'),
                _ => [b"if ".as_slice(), b"or ", b"and ", b"else "]
                    .iter()
                    .any(|word| next > at && view.has(next, word)),
            };
            adds.then(|| expression(view, next, false, outer))
        }
    }
}

/// The end of an expression in source code: a comma (unless `whole`) or semicolon, the closing bracket of an enclosing
/// pair, or the end of a line without a continuation.
fn expression(view: &View, start: usize, whole: bool, outer: &impl Fn(Quote) -> bool) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while let Some(byte) = view.at(at) {
        match past_quoted(view, start, at, outer) {
            Some(ControlFlow::Continue(next)) => {
                at = next;
                continue;
            }
            Some(ControlFlow::Break(end)) => return end,
            None => {}
        }
        if !view.is_encoded(at) {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' if depth == 0 => return at,
                b')' | b']' | b'}' => depth -= 1,
                b',' if depth == 0 && !whole => return at,
                b';' if depth == 0 => return at,
                b'<' if depth == 0 && view.at(at + 1) == Some(b'/') => return at,
                b'|' | b'&' if depth == 0 && whole => return at,
                b'\n' if depth == 0 && !goes_on(view, start, at) => return at,
                _ => {}
            }
        }
        at += 1;
    }
    view.len()
}

/// True if the expression continues on the next line.
fn goes_on(view: &View, start: usize, newline: usize) -> bool {
    let is_operator = |byte: Option<u8>| byte.is_some_and(|byte| b"+.,%~|?:&([{=\\".contains(&byte));
    let last = view.skip_back(newline, |byte| byte.is_ascii_whitespace());
    let next = view.skip(newline, |byte| byte.is_ascii_whitespace());
    last <= start || is_operator(view.before(last)) || is_operator(view.at(next)) || view.quote(next).is_some()
}

/// The end of a shell word: a blank or operator that is neither escaped nor quoted.
fn shell_word(view: &View, start: usize, outer: &impl Fn(Quote) -> bool) -> usize {
    let mut at = start;
    while let Some(byte) = view.at(at) {
        if view.is_encoded(at) {
            at += 1;
            continue;
        }
        match past_quoted(view, start, at, outer) {
            Some(ControlFlow::Continue(next)) => {
                at = next;
                continue;
            }
            Some(ControlFlow::Break(end)) => return end,
            None => {}
        }
        match byte {
            b'\\' if view.quote(at + 1).is_some() => at += 1,
            b'\\' => at += 2,
            // `$(command)`, `${name:-x}`.
            b'$' if matches!(view.at(at + 1), Some(b'(' | b'{')) => {
                at = view.len().min(expression(view, at + 2, true, outer) + 1);
            }
            _ if ends_value(byte) || matches!(byte, b')' | b'}' | b']' | b',') => return at,
            _ => at += 1,
        }
    }
    view.len()
}

/// The end of the value of `Authorization` in a line of text: a scheme, blanks, and anything after them.
fn line(view: &View, word: &Range<usize>, start: usize, outer: &impl Fn(Quote) -> bool) -> usize {
    // `Authorization:\ Basic\ x u`: blanks inside the value are escaped.
    let escapes = (word.end..start).any(|at| view.at(at) == Some(b'\\') && view.at(at + 1) == Some(b' '))
        || view.find_text(start, b"\\ ").is_some_and(|blank| {
            view.slice(&(start..blank))
                .iter()
                .all(|byte| !byte.is_ascii_whitespace())
        });
    let in_query = matches!(view.before(word.start), Some(b'?' | b'&'));
    let mut at = start;
    while let Some(byte) = view.at(at) {
        if view.is_encoded(at) {
            at += 1;
            continue;
        }
        match past_quoted(view, start, at, outer) {
            Some(ControlFlow::Continue(next)) => {
                at = next;
                continue;
            }
            Some(ControlFlow::Break(end)) => return end,
            None => {}
        }
        let blank = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_whitespace());
        let alone = blank(view.before(at)) || blank(view.at(at + 1));
        match byte {
            b'\\' if view.quote(at + 1).is_some() => at += 1,
            b'\\' => at += 2,
            b'\n' => return at,
            b' ' | b'\t' if escapes || in_query => return at,
            b'&' | b'#' if in_query => return at,
            b';' | b'|' | b'&' if alone || escapes => return at,
            b'<' if view.at(at + 1) == Some(b'/') => return at,
            _ => at += 1,
        }
    }
    view.len()
}

/// The range of the value. If `span` is only a scheme, the range includes the word after it.
fn behind_scheme(view: &View, span: Range<usize>, listed: bool, outer: &impl Fn(Quote) -> bool) -> Range<usize> {
    let marks = |byte: u8| b"\"'`\\".contains(&byte) || byte.is_ascii_whitespace();
    let first = view.skip(span.start, marks).min(span.end);
    let found = first..view.skip_back(span.end, marks).max(first);
    let text = view.slice(&found);
    let known = names::is_auth_scheme(text);
    if !(known || names::is_like_scheme(text)) {
        return span;
    }
    let next = view.skip(span.end, marks);
    let next = match view.at(next) {
        Some(b',') if known || listed => view.skip(next + 1, marks),
        Some(byte) if (is_word(byte) || byte == b'$') && !view.has_scheme(next) && byte != b'-' => next,
        _ => return span,
    };
    let end = match view.quote_before(next) {
        Some(quote) if !outer(quote) => inside(view, next, quote, outer),
        _ => shell_word(view, next, outer),
    };
    span.start..end.max(span.end)
}

/// True for a placeholder (`%s`, `%v`, `{}`, `{0}`), whose value follows the text.
pub(super) fn has_placeholder(text: &[u8]) -> bool {
    text.windows(2).any(|pair| {
        matches!(pair, [b'%', letter] if b"svbdqx@i".contains(letter)) || matches!(pair, [b'{', b'}' | b'0'..=b'9'])
    })
}

/// The values of the object or tag that `word` names: `{"name": "Authorization", "value": "x"}`, in any order.
///
/// Returns keys and the latest end of their values.
pub(super) fn of_object(view: &View, word: &Range<usize>) -> Vec<(Range<usize>, usize)> {
    let marks = |byte: u8| b"\"'`\\".contains(&byte) || byte.is_ascii_whitespace();
    let before = view.before(view.skip_back(word.start, marks));
    if !matches!(before, Some(b':' | b'=' | b'>' | b'<')) {
        return Vec::new();
    }
    let (region, limit) = object(view, word);
    let mut found = Vec::new();
    let mut at = region.start;
    while let Some(key) = view.next_run(at, is_word).filter(|key| key.start < region.end) {
        at = key.end;
        if names::is_value_key(view.slice(&key)) {
            found.push((key, limit));
        }
    }
    found
}

/// The text that belongs to a name in a tag or in another element: `<entry key="password">x</entry>`,
/// `<key>password</key><string>x</string>`.
pub(super) fn of_element(view: &View, word: &Range<usize>) -> Option<Range<usize>> {
    let marks = |byte: u8| b"\"'\\".contains(&byte) || byte.is_ascii_whitespace();
    let begin = view.skip_back(word.start, marks);
    let end = view.skip(word.end, marks);
    let tag = match view.before(begin)? {
        b'=' if matches!(object(view, word).0, region if view.at(region.start) == Some(b'<')) => end,
        b'>' if view.has(end, b"</") => {
            let next = view.find(end..view.len(), b'>')? + 1;
            let next = view.skip(next, |byte| byte.is_ascii_whitespace());
            (view.at(next) == Some(b'<') && view.at(next + 1) != Some(b'/')).then_some(next)?
        }
        _ => return None,
    };
    let close = view.find(tag..view.len().min(tag + OBJECT), b'>')?;
    let start = close + 1;
    let value = start..tag_value_end(view, start);
    let is_text = !view.slice(&value).iter().all(u8::is_ascii_whitespace);
    (view.before(close) != Some(b'/') && is_text).then_some(value)
}

/// The range between the braces or angle brackets around `word`, or up to the next name.
fn object(view: &View, word: &Range<usize>) -> (Range<usize>, usize) {
    let mut depth = 0_usize;
    let front = word.start.saturating_sub(OBJECT)..word.start;
    let open = front.rev().find(|at| match view.at(*at) {
        Some(b'}') => {
            depth += 1;
            false
        }
        Some(b'{') => depth.checked_sub(1).map(|less| depth = less).is_none(),
        Some(b'<') => view.slice(&(*at..word.start)).iter().all(|byte| *byte != b'>'),
        _ => false,
    });
    let last = view.len().min(word.end + OBJECT);
    match open {
        Some(open) if view.at(open) == Some(b'{') => {
            let mut depth = 0_usize;
            let close = (word.end..last).find(|at| match view.at(*at) {
                Some(b'{') => {
                    depth += 1;
                    false
                }
                Some(b'}') => depth.checked_sub(1).map(|less| depth = less).is_none(),
                _ => false,
            });
            (open..close.unwrap_or(last), close.unwrap_or(view.len()))
        }
        Some(open) => {
            let close = view.find(word.end..last, b'>');
            (open..close.unwrap_or(last), close.unwrap_or(view.len()))
        }
        // `name: x` and `value: y` on lines of their own, `name=x,value=y`, `<name>x</name><value>y</value>`.
        None => {
            let tag = view.skip(word.end, marks_of_tags);
            let tag = if view.at(tag) == Some(b'/') {
                view.until(tag, |byte| byte == b'>')
            } else {
                word.end
            };
            let key = view.skip(tag, |byte| !is_word(byte) || byte == b'-');
            (word.end..view.skip(key, is_word).min(last), view.len())
        }
    }
}

fn marks_of_tags(byte: u8) -> bool {
    byte == b'<' || byte.is_ascii_whitespace()
}

/// The end of the command's word that begins at `start`.
pub(super) fn word_end(view: &View, start: usize) -> usize {
    let mut at = start;
    while let Some(byte) = view.at(at) {
        if let Some(quote) = view.quote(at).filter(|_| !view.is_encoded(at)) {
            match closing(view, at + 1, quote, &|_| false) {
                Some((close, _)) => at = close + quote.len(),
                None => return view.len(),
            }
            continue;
        }
        match byte {
            b'\\' if view.quote(at + 1).is_some() => at += 1,
            b'\\' => at += 2,
            _ if !view.is_encoded(at) && (byte.is_ascii_whitespace() || b";|&()".contains(&byte)) => return at,
            _ => at += 1,
        }
    }
    view.len()
}

/// True if the argument seems to hold only one name and its value, judging by the text before `end`.
fn is_plain_prefix(view: &View, end: usize) -> bool {
    !view
        .slice(&(0..end))
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || b"\"'`?&{<".contains(byte))
}
