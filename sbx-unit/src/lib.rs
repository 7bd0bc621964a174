//! The parser of sbx-unit, for the program and for what tests it.

pub mod parse;
