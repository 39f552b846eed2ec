//! What handles and the server share.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_channel::Sender;
use async_executor::Executor;
use event_listener::Event as Notice;
use futures_lite::future;

#[cfg(target_os = "linux")]
use super::poller::Poller;
use super::{Limits, Stats, admission::Newcomer, session::Transport};
use crate::{Clock, Error, clock};

/// Tasks that are worth a second thread. To wake one, and to have two cores share what they touch,
/// costs as much as a few tasks; with less to do, more threads are slower than one.
const CROWD: usize = 64;

pub(super) struct Control {
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    joins: Sender<Newcomer>,
    #[cfg(target_os = "linux")]
    pub(super) poller: Arc<Poller>,
    pub(super) executor: Weak<Executor<'static>>,
    state: Mutex<State>,
    /// Counted here, because doors fail without the coordinator.
    accept_errors: AtomicU64,
    /// Notified when `phase` or `stop_by` changes.
    changed: Notice,
    /// Calls workers.
    crowd: Notice,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// When the run began, while it lasts.
    started: Option<Instant>,
    /// When the grace time of a requested shutdown is over.
    pub(super) stop_by: Option<Instant>,
    /// What the coordinator last published.
    stats: Stats,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Ready,
    Running,
    Closed,
}

impl Control {
    pub(super) fn new(
        limits: Limits,
        clock: Arc<dyn Clock>,
        joins: Sender<Newcomer>,
        executor: Weak<Executor<'static>>,
    ) -> Self {
        Self {
            limits,
            clock,
            joins,
            #[cfg(target_os = "linux")]
            poller: Arc::new(Poller::new()),
            executor,
            state: Mutex::default(),
            accept_errors: AtomicU64::new(0),
            changed: Notice::new(),
            crowd: Notice::new(),
        }
    }

    /// Hands a client to the coordinator.
    pub(super) async fn take_in<T: Transport + 'static>(
        &self,
        transport: T,
        address: Option<IpAddr>,
    ) -> Result<(), Error> {
        #[cfg(target_os = "linux")]
        let peer = self.poller.peers.adopt(&transport);
        #[cfg(not(target_os = "linux"))]
        let peer = None;
        #[cfg(target_os = "linux")]
        let transport = self.poller.adopt(transport);
        #[cfg(not(target_os = "linux"))]
        let transport = Box::new(transport);
        let join = self.joins.send(Newcomer {
            transport,
            address,
            peer,
        });
        join.await.map_err(|_| Error::Closed)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the coordinator's counters to handles, and gives it those that it does not keep.
    pub(super) fn publish(&self, stats: &mut Stats) {
        stats.accept_errors = self.accept_errors();
        self.state().stats = *stats;
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state();
        let mut stats = state.stats;
        stats.accept_errors = self.accept_errors();
        if let Some(started) = state.started {
            stats.uptime = self.clock.now() - started;
        }
        stats
    }

    pub(super) fn request_stop(&self, grace: Duration) {
        let now = self.clock.now();
        let stop_by = clock::later(now, grace);
        let mut state = self.state();
        if state.stop_by.is_none_or(|earlier| stop_by < earlier) {
            state.stop_by = Some(stop_by);
            drop(state);
            self.changed.notify(usize::MAX);
        }
    }

    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.phase = Phase::Running;
        state.started = Some(self.clock.now());
    }

    pub(super) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// The server is gone, whichever way it went. So many had come and were not let in.
    pub(super) fn finish(&self, refused: u64) {
        let mut state = self.state();
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

    /// So many tasks have just been given something to do.
    pub(super) fn call_workers(&self, tasks: usize) {
        self.crowd.notify(tasks / CROWD);
    }

    /// Runs the server's tasks whenever there are many to run.
    pub(super) async fn work(&self, executor: &Executor<'static>) {
        loop {
            let call = self.crowd.listen();
            let mut tasks = 0;
            while executor.try_tick() {
                tasks += 1;
                if tasks % CROWD == 0 {
                    future::yield_now().await;
                }
            }
            call.await;
        }
    }

    pub(super) async fn stop_requested(&self) {
        self.wait_for(|state| state.stop_by.map(|_| ())).await;
    }

    /// Waits until the grace time of a requested shutdown is over.
    pub(super) async fn out_of_time(&self) {
        loop {
            let stop_by = self.wait_for(|state| state.stop_by).await;
            let shorter = self.wait_for(|state| state.stop_by.filter(|&new| new < stop_by));
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

    pub(super) async fn wait_for<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&self.state()) {
                return found;
            }
            let changed = self.changed.listen();
            // It may have changed before the listener was there.
            if let Some(found) = look(&self.state()) {
                return found;
            }
            changed.await;
        }
    }
}
