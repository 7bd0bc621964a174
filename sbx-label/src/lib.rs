//! The parser of sbx-label, for the program and for what tests it.

pub mod level;
