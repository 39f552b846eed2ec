//! The example server in trouble, and what the trouble costs it, seen from outside.

use super::{Client, allow_files, server_process::ServerProcess, wait_until};

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// What a client costs by itself, and its share of the tables that grow by doubling. It is twice
/// what one that has been active does cost, in debug and in release builds.
pub const CLIENT: usize = 4 * KIB;

/// What any work costs: code that is paged in, a read buffer, a round's replies, buffers to spare,
/// and what the allocator does not give back.
pub const WORK: usize = 2 * MIB;

/// A server in trouble, and the one client that behaves.
pub struct StressedServer {
    pub server: ServerProcess,
    pub steady: Client,
    /// How the server stood before the trouble.
    descriptors: usize,
    threads: usize,
    pub resident: usize,
}

impl StressedServer {
    pub fn start(files: usize, arguments: &[&str]) -> Self {
        allow_files(files as u64);
        let server = ServerProcess::with_files(files, arguments);
        let mut steady = server.connect();
        steady.sync();
        Self {
            descriptors: server.descriptors(),
            threads: server.threads(),
            resident: server.resident(),
            server,
            steady,
        }
    }

    /// Someone else's work: answered rightly, whatever goes on.
    pub fn work(&mut self) {
        self.steady
            .send("Put:steady:1\nGet:steady\nDelete:steady\n");
        assert_eq!(self.steady.sync(), (vec![b"steady:1".to_vec()], 0));
    }

    /// The trouble is over, and so many clients are gone: nothing has stayed.
    pub fn over(mut self, gone: u64) -> Self {
        self.work();
        wait_until("the clients are counted as gone", || {
            let stats = self.steady.stats();
            (stats.active, stats.dropped) == (1, gone)
        });
        wait_until("descriptors and threads are what they were", || {
            let now = (self.server.descriptors(), self.server.threads());
            now == (self.descriptors, self.threads)
        });
        self.work();
        self
    }

    /// Never has it taken more memory than this, over what it had before.
    #[track_caller]
    pub fn cost(&self, trouble: &str, bound: usize) {
        let peak = self.server.peak() - self.resident;
        let stays = self.server.resident().saturating_sub(self.resident);
        println!(
            "{trouble}: {} KiB at the most, {} KiB after it, {} KiB allowed",
            peak / KIB,
            stays / KIB,
            bound / KIB
        );
        assert!(peak < bound, "{trouble} took {peak} bytes of {bound}");
    }
}
