//! How a server counts.

use std::io::Write as _;

use crate::{
    Stats,
    protocol::{Command, Operation, Write},
};

/// Makes the part of the counters that a turn counts by itself.
macro_rules! turn_counters {
    ($($name:ident,)*) => {
        /// What one turn adds to the counters.
        #[derive(Default)]
        pub(crate) struct TurnStats {
            $(pub(crate) $name: u64,)*
        }

        impl Stats {
            /// Adds what a turn has counted since the last time.
            pub(crate) fn add(&mut self, turn: &mut TurnStats) {
                let turn = std::mem::take(turn);
                $(self.$name += turn.$name;)*
            }
        }
    };
}

turn_counters! {
    commands,
    gets,
    puts,
    updates,
    deletes,
    sets,
    removes,
    walks,
    syncs,
    stats,
    watches,
    unwatches,
    auths,
    unauthorized,
    errors,
    long_lines,
    long_replies,
    long_prefixes,
    full_watches,
    full_store,
    full_values,
    unconfirmed,
    lines_queued,
    lines_dropped,
}

impl TurnStats {
    pub(crate) fn count(&mut self, command: &Command<'_>) {
        self.commands += 1;
        *match command {
            Command::Operation(Operation::Get { .. }) => &mut self.gets,
            Command::Operation(Operation::Write(Write::Put { .. })) => &mut self.puts,
            Command::Operation(Operation::Write(Write::Update { .. })) => &mut self.updates,
            Command::Operation(Operation::Write(Write::Delete { .. })) => &mut self.deletes,
            Command::Operation(Operation::Write(Write::Set { .. })) => &mut self.sets,
            Command::Operation(Operation::Write(Write::Remove { .. })) => &mut self.removes,
            Command::GetPrefix { .. } | Command::Keys { .. } => &mut self.walks,
            Command::Sync { .. } => &mut self.syncs,
            Command::Stats => &mut self.stats,
            Command::Watch(_) => &mut self.watches,
            Command::Unwatch(_) => &mut self.unwatches,
            Command::Auth { .. } => &mut self.auths,
        } += 1;
    }
}

impl Stats {
    /// Appends the whole control line.
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b":stats:");
        for (name, number) in self.counters() {
            // Writing to a `Vec` does not fail.
            let _ = write!(out, "{name}={number} ");
        }
        // Spaces stand between, not behind.
        out.pop();
        out.push(b'\n');
    }
}
