//! The one timer of a connection, at either end of it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use crate::Clock;

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits for a deadline that moves. It is set anew only if the deadline comes earlier, or when it
/// fires too early: a deadline moves with every read, and seldom comes.
#[derive(Default)]
pub(crate) struct Timer {
    armed: Option<(Instant, Sleep)>,
}

impl Timer {
    /// Is ready when the deadline has come.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
        clock: &dyn Clock,
    ) -> Poll<()> {
        loop {
            if let Some((at, sleep)) = &mut self.armed {
                let is_late = deadline.is_some_and(|deadline| deadline < *at);
                if !is_late && sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.armed = None;
                if !is_late && deadline.is_some_and(|deadline| deadline <= clock.now()) {
                    return Poll::Ready(());
                }
            }
            let Some(deadline) = deadline else {
                return Poll::Pending;
            };
            self.armed = Some((deadline, clock.sleep(deadline)));
        }
    }
}
