//! The state that handles, listeners and the coordinator share.

use std::{
    sync::{
        Arc, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_executor::Executor;
use event_listener::Event as Notify;
use futures_lite::future;

use super::{histogram::Histograms, limits::Limits};
use crate::{Clock, Stats, clock, lock::Lock};

/// Tasks that are worth a second thread. To wake one, and to have two cores share what they touch,
/// costs as much as a few tasks; with less to do, more threads are slower than one.
const TASKS_PER_WORKER: usize = 64;

pub(crate) struct ServerState {
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) executor: Weak<Executor<'static>>,
    status: Lock<Status>,
    /// Counted here, because listeners fail without the coordinator.
    accept_errors: AtomicU64,
    /// Notified when `phase` becomes `Closed`, and when `stop_by` changes.
    changed: Notify,
    /// Wakes workers.
    worker_wakeups: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) phase: Phase,
    /// When the run began, while it lasts.
    started: Option<Instant>,
    /// When the grace time of a requested shutdown is over.
    pub(crate) stop_by: Option<Instant>,
    /// What the coordinator last published.
    stats: Stats,
    histograms: Histograms,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Ready,
    Running,
    Closed,
}

impl ServerState {
    pub(crate) fn new(
        limits: Limits,
        clock: Arc<dyn Clock>,
        executor: Weak<Executor<'static>>,
    ) -> Self {
        Self {
            limits,
            clock,
            executor,
            status: Lock::default(),
            accept_errors: AtomicU64::new(0),
            changed: Notify::new(),
            worker_wakeups: Notify::new(),
        }
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock()
    }

    /// Stores the coordinator's counters for handles, and fills in `accept_errors`, which the
    /// coordinator does not count.
    pub(crate) fn publish(&self, stats: &mut Stats) {
        stats.accept_errors = self.accept_errors();
        self.status().stats = *stats;
    }

    /// The same at the end of a round, of which `observe` adds what is sampled.
    pub(crate) fn publish_round(&self, stats: &mut Stats, observe: impl FnOnce(&mut Histograms)) {
        stats.accept_errors = self.accept_errors();
        let mut state = self.status();
        state.stats = *stats;
        observe(&mut state.histograms);
    }

    pub(crate) fn histograms(&self) -> Histograms {
        self.status().histograms
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.status();
        let mut stats = state.stats;
        stats.accept_errors = self.accept_errors();
        if let Some(started) = state.started {
            stats.uptime = self.clock.now() - started;
        }
        stats
    }

    pub(crate) fn request_stop(&self, grace: Duration) {
        let now = self.clock.now();
        let stop_by = clock::later(now, grace);
        let mut state = self.status();
        if state.stop_by.is_none_or(|earlier| stop_by < earlier) {
            state.stop_by = Some(stop_by);
            drop(state);
            self.changed.notify(usize::MAX);
        }
    }

    pub(crate) fn mark_running(&self) {
        let mut state = self.status();
        state.phase = Phase::Running;
        state.started = Some(self.clock.now());
    }

    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// The server has ended. `refused` connections had not reached the coordinator.
    pub(crate) fn mark_closed(&self, refused: u64) {
        let mut state = self.status();
        state.phase = Phase::Closed;
        state.stats.refused += refused;
        state.stats.dropped += std::mem::take(&mut state.stats.active);
        state.stats.watching = 0;
        if let Some(started) = state.started.take() {
            state.stats.uptime = self.clock.now() - started;
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Wakes a worker for every [`TASKS_PER_WORKER`] tasks that have just become runnable.
    pub(crate) fn wake_workers(&self, tasks: usize) {
        self.worker_wakeups.notify(tasks / TASKS_PER_WORKER);
    }

    /// Runs the server's tasks whenever there are many to run.
    pub(crate) async fn run_worker(&self, executor: &Executor<'static>) {
        loop {
            let wakeup = self.worker_wakeups.listen();
            let mut tasks = 0;
            while executor.try_tick() {
                tasks += 1;
                if tasks % TASKS_PER_WORKER == 0 {
                    future::yield_now().await;
                }
            }
            wakeup.await;
        }
    }

    pub(crate) async fn stop_requested(&self) {
        self.wait_until(|state| state.stop_by.map(|_| ())).await;
    }

    /// Waits until the grace time of a requested shutdown is over.
    pub(crate) async fn deadline_passed(&self) {
        loop {
            let stop_by = self.wait_until(|state| state.stop_by).await;
            let shorter = self.wait_until(|state| state.stop_by.filter(|&new| new < stop_by));
            let over = async {
                self.clock.sleep(stop_by).await;
                None
            };
            if future::or(over, async { Some(shorter.await) })
                .await
                .is_none()
            {
                return;
            }
        }
    }

    pub(crate) async fn wait_until<T>(&self, mut condition: impl FnMut(&Status) -> Option<T>) -> T {
        loop {
            if let Some(found) = condition(&self.status()) {
                return found;
            }
            let changed = self.changed.listen();
            // It may have changed before the listener was there.
            if let Some(found) = condition(&self.status()) {
                return found;
            }
            changed.await;
        }
    }
}
