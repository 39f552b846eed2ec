//! What other programs had of our cores while a turn was measured. Linux tells it in /proc.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{compare::cores, cpu::Process};

/// The CPU time that all programs had until a moment, and that of server and load.
pub(crate) struct Watch<'a> {
    server: &'a Process,
    start: Instant,
    before: Option<(Duration, Duration)>,
}

impl<'a> Watch<'a> {
    pub(crate) fn start(server: &'a Process) -> Watch<'a> {
        Watch {
            server,
            start: Instant::now(),
            before: used(server),
        }
    }

    /// How many cores the others had since then, on average.
    pub(crate) fn others(&self) -> Option<f64> {
        let (all_before, ours_before) = self.before?;
        let (all, ours) = used(self.server)?;
        let all = all.checked_sub(all_before)?;
        let ours = ours.checked_sub(ours_before)?;
        Some(all.saturating_sub(ours).as_secs_f64() / self.start.elapsed().as_secs_f64())
    }
}

/// Of all programs on our cores, and of server and load.
fn used(server: &Process) -> Option<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks = cores::BOTH.iter().map(|&core| busy_ticks(&stat, core));
    let ticks: u64 = ticks.sum::<Option<u64>>()?;
    let a_second = rustix::param::clock_ticks_per_second();
    let all = Duration::from_secs_f64(ticks as f64 / a_second as f64);
    Some((all, server.time()? + Process::this().time()?))
}

/// What programs used of a core: user, nice and system, and what the hypervisor stole. Interrupts
/// are left out, as they are in the time of a process.
fn busy_ticks(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core} ");
    let fields = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let fields: Vec<u64> = fields
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let (programs, steal) = (fields.get(..3)?, fields.get(7).unwrap_or(&0));
    Some(programs.iter().sum::<u64>() + steal)
}

#[cfg(test)]
mod tests {
    use super::busy_ticks;

    #[test]
    fn the_time_of_programs_is_read() {
        let stat = "cpu  9 9 9 9\ncpu0 1 2 4 100 50 7 7 8 0 0\ncpu1 3 0 0 1\nintr 5\n";
        assert_eq!(busy_ticks(stat, 0), Some(15));
        assert_eq!(busy_ticks(stat, 1), Some(3));
        assert_eq!(busy_ticks(stat, 2), None);
    }
}
