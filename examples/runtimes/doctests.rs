//! The code of the documentation that needs tokio or async-std.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../../src/guide/embedding.md")]
mod embedding {}
