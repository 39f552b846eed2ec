//! Metrics, as Prometheus reads them, and the health of the example server, which has to have been built with
//! the features `disk` and `metrics`.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod dashboard;
mod health;
mod http;
mod request;
mod secrecy;
mod text;
