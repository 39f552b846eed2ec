//! What the types promise to a program, whatever it does with them.

use std::{error::Error as StdError, fmt::Debug};

use keywire::{
    Builder, Client, Error, Event, Handle, Outcome, Overflow, Pipeline, Secret, Server, Snapshot,
    Squarer, Stats, Walk, Watcher, protocol, squarer, store,
};

/// The rest of this file does not compile if a type is missing one of these.
fn shared<T: Send + Sync + Debug>() {}
fn sent<T: Send + Debug>() {}
fn error<T: StdError + Send + Sync + 'static>() {}

#[test]
fn threads_share_the_types_and_programs_print_them() {
    shared::<Client>();
    shared::<Pipeline<'_>>();
    shared::<(Event, Outcome, Snapshot, Stats, Secret, Overflow)>();
    shared::<Handle>();
    shared::<(Squarer, store::Memory, store::StoreSize)>();
    shared::<(
        protocol::Command<'_>,
        protocol::Reply<'_>,
        protocol::Topic<'_>,
    )>();
    shared::<(protocol::LineDecoder, protocol::LineBlock)>();
    // One task at a time has these.
    sent::<Watcher>();
    sent::<Walk<Vec<Vec<u8>>>>();
    sent::<Server>();
    sent::<Builder>();
    sent::<squarer::Stage>();
    sent::<(store::Batch, store::KeyPage, store::Change)>();
    #[cfg(feature = "disk")]
    sent::<(store::Disk, store::disk::DiskBuilder)>();
    #[cfg(feature = "cluster")]
    sent::<(store::ClusterBuilder, store::Cluster)>();
    #[cfg(feature = "tls")]
    shared::<(keywire::tls::Pem, keywire::tls::TlsListener<()>)>();
}

#[test]
fn errors_are_errors() {
    error::<Error>();
    error::<protocol::ParseError>();
    error::<protocol::ReplyError>();
    error::<protocol::LineTooLong>();
}

/// Values are data of the program's users, and logs are read by others.
#[test]
fn an_outcome_does_not_print_its_values() {
    let outcome = Outcome::Values(vec![b"secret".to_vec(), b"another".to_vec()]);
    assert_eq!(format!("{outcome:?}"), "Values(2)");
    assert_eq!(format!("{:?}", Outcome::Done), "Done");
}
