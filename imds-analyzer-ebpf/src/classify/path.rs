//! stub
use super::PathClass;
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Target {
    x: u32,
}
impl Target {
    pub(super) const fn new() -> Self {
        Self { x: 0 }
    }
    pub(super) fn push(&mut self, _b: u8) {}
    pub(super) fn class(&self) -> (PathClass, bool) {
        (PathClass::Root, false)
    }
}
