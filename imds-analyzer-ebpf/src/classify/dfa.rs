//! stub
pub(super) const START: u8 = 0;
pub(super) const FIRST_HEADER_STATE: u8 = 1;
pub(super) const SCAN_LINE: u8 = 2;
pub(super) const SCAN_DEAD: u8 = 3;
pub(super) struct Table;
pub(super) const HEAD: Table = Table;
impl Table {
    pub(super) fn next(&self, s: u8, b: u8) -> u8 {
        s.wrapping_add(b)
    }
    pub(super) fn action(&self, s: u8) -> u8 {
        s
    }
}
pub(super) struct Action;
impl Action {
    pub(super) const NONE: u8 = 0;
    pub(super) const TARGET: u8 = 1;
    pub(super) const IDLE: u8 = 2;
    pub(super) const METHOD_GET: u8 = 3;
    pub(super) const METHOD_HEAD: u8 = 4;
    pub(super) const METHOD_PUT: u8 = 5;
    pub(super) const METHOD_OTHER: u8 = 6;
    pub(super) const NOT_HTTP: u8 = 7;
    pub(super) const SIMPLE_END: u8 = 8;
    pub(super) const VERSION_1_0: u8 = 9;
    pub(super) const VERSION_OTHER: u8 = 10;
    pub(super) const LINE: u8 = 11;
    pub(super) const END: u8 = 12;
    pub(super) const MALFORMED: u8 = 13;
    pub(super) const DROP: u8 = 14;
    pub(super) const TOKEN: u8 = 15;
    pub(super) const TOKEN_VALUE: u8 = 16;
    pub(super) const TTL: u8 = 17;
    pub(super) const FORWARDED: u8 = 18;
    pub(super) const FOREIGN: u8 = 19;
    pub(super) const LENGTH: u8 = 20;
    pub(super) const LENGTH_DIGIT: u8 = 21;
    pub(super) const LENGTH_INVALID: u8 = 22;
    pub(super) const ENCODING: u8 = 23;
    pub(super) const CHUNKED: u8 = 24;
    pub(super) const ENCODING_OTHER: u8 = 25;
    pub(super) const SCAN: u8 = 30;
    pub(super) const SCAN_DEAD: u8 = 31;
    pub(super) const SCAN_FOUND: u8 = 32;
    pub(super) const SCAN_BLANK: u8 = 33;
}
