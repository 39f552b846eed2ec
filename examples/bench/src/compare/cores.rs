//! Which cores a process has. A child starts with those of the thread that starts it, so that no
//! program is needed to pin a server.

use rustix::thread::{CpuSet, sched_setaffinity};

/// A core for the server, and one for the load, or both for both.
pub(crate) const SERVER: &[usize] = &[0];
pub(crate) const LOAD: &[usize] = &[1];
pub(crate) const BOTH: &[usize] = &[0, 1];

/// Moves the calling thread, and what it will start, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set).map_err(|error| {
        let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
        format!("can't pin to core {}: {error}", cores.join(" and "))
    })
}
