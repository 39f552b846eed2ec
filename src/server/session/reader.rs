//! Bytes → lines → the coordinator.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::{AsyncRead, future};

use super::{Reader, Session, foreign::Opening};
use crate::{
    protocol::{LineBlock, LineDecoder},
    server::{
        event::{End, Message},
        pace::{LineTimer, Pace},
    },
};

/// The most that one read takes. It bounds what a client can have applied in one batch.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Bytes that are read once the server closes, if the system can't say how many there are.
const CLOSING_BYTES: usize = 1 << 20;

thread_local! {
    /// One a thread is enough: a buffer is in use only while a read is tried, so a client that
    /// waits holds none.
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Tries a read, with a buffer that is held only until it returns.
pub(super) fn poll_read(
    reader: &mut Reader,
    cx: &mut Context<'_>,
    most: usize,
    taken: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    let mut buffer = READ_BUFFER
        .take()
        .unwrap_or_else(|| vec![0; READ_BYTES].into());
    let result = Pin::new(reader).poll_read(cx, &mut buffer[..most]);
    if let Poll::Ready(Ok(n)) = result {
        taken(&buffer[..n]);
    }
    READ_BUFFER.set(Some(buffer));
    result
}

/// What came of a read. It holds no lines by value, since an idle client would hold room for them.
pub(super) enum Input {
    /// No whole line.
    None,
    /// Lines; the coordinator has them.
    Told,
    /// Lines that have to keep to a pace, or to be looked at first.
    Throttled(Box<LineBlock>),
    End(End),
}

impl Session {
    /// Reads until the input ends, one way or another, and tells the coordinator which.
    pub(super) async fn receive(&self, mut reader: Reader, admitted: bool) -> io::Result<()> {
        if !admitted {
            return Box::pin(self.show_out(&mut reader)).await;
        }
        let end = match self.surroundings.limits.idle_timeout {
            Duration::MAX => self.read(&mut reader).await?,
            limit => {
                let idle = async {
                    self.idle(limit).await;
                    Ok(End::Idle)
                };
                Box::pin(future::or(self.read(&mut reader), idle)).await?
            }
        };
        self.tell(Message::End(end));
        match end {
            End::Eof | End::Partial => match self.surroundings.limits.idle_timeout {
                Duration::MAX => Ok(()),
                limit => Box::pin(self.outlast(limit)).await,
            },
            End::Closing => Box::pin(self.discard(&mut reader)).await,
            _ => Box::pin(self.show_out(&mut reader)).await,
        }
    }

    /// Bytes → lines → the coordinator, until the client or the server ends the input.
    async fn read(&self, reader: &mut Reader) -> io::Result<End> {
        let mut lines = LineDecoder::new(self.surroundings.limits.max_line);
        // What few need is boxed: an idle client would have to hold room for it.
        let mut line: Option<Box<LineTimer>> = None;
        let mut pace = self.surroundings.pace();
        let mut opening = Some(Opening::default());
        let mut closing = false;
        if let Some(secret) = &self.surroundings.limits.secret {
            let let_in = async {
                let rest = match self.let_in_time(reader, secret).await? {
                    Ok(rest) => rest,
                    Err(end) => return Ok(Err(end)),
                };
                let block = lines.push(&rest);
                let closing = match self.take(block, pace.is_some()) {
                    Input::None => false,
                    input => self.hand_over(input, &mut pace).await?,
                };
                io::Result::Ok(Ok(closing))
            };
            match Box::pin(let_in).await? {
                Ok(closes) => closing = closes,
                Err(end) => return Ok(end),
            }
            // The secret was a valid command.
            opening = None;
            self.time_line(&mut line, &lines, true);
        }
        // Once the server closes, what stands in the socket by then is refused, line by line, and
        // not just cut off. This is how much of it is left.
        let mut unread = None;
        loop {
            let holds = pace.is_some() || opening.is_some();
            let input = self.next_input(reader, &mut lines, &mut line, holds, &mut unread);
            let input = input.await?;
            let new_line = !matches!(input, Input::None);
            match input {
                Input::Throttled(block) if opening.is_some() => {
                    let first = self.hand_over_first(*block, &mut opening, &mut pace);
                    match Box::pin(first).await? {
                        Ok(closes) => closing = closes,
                        Err(end) => return Ok(end),
                    }
                }
                Input::None => {
                    if let Some(foreign) = opening
                        .as_mut()
                        .and_then(|it| it.first_bytes(lines.partial()))
                    {
                        return Ok(End::Foreign { foreign, line: 1 });
                    }
                    // Where there is always more to read, nobody waits for the alarm.
                    if line.as_ref().is_some_and(|line| self.is_late(line)) {
                        return Ok(End::SlowLine);
                    }
                    // A long line comes in many reads; others get their turn between them.
                    future::yield_now().await;
                }
                Input::End(end) => return Ok(end),
                input => closing = self.hand_over(input, &mut pace).await?,
            }
            if unread == Some(0) {
                return Ok(End::Closing);
            } else if closing && unread.is_none() {
                let all = self.peer.as_ref().and_then(|peer| peer.unread());
                unread = Some(all.unwrap_or(CLOSING_BYTES));
            }
            self.time_line(&mut line, &lines, new_line);
        }
    }

    /// After what has been read or handed over: a line that is half there has its time, from now
    /// on where it is new.
    fn time_line(&self, line: &mut Option<Box<LineTimer>>, lines: &LineDecoder, new: bool) {
        if lines.is_partial() {
            let line = line.get_or_insert_default();
            line.run(new, &*self.surroundings.clock);
        } else if let Some(line) = line {
            line.stop();
        }
    }

    fn is_late(&self, line: &LineTimer) -> bool {
        line.is_late(
            self.surroundings.limits.line_timeout,
            &*self.surroundings.clock,
        )
    }

    fn next_input(
        &self,
        reader: &mut Reader,
        lines: &mut LineDecoder,
        line: &mut Option<Box<LineTimer>>,
        holds: bool,
        unread: &mut Option<usize>,
    ) -> impl Future<Output = io::Result<Input>> {
        poll_fn(move |cx| {
            let mut input = Input::None;
            let read = poll_read(reader, cx, READ_BYTES, |bytes| {
                input = self.take(lines.push(bytes), holds);
            });
            match (read, &mut *line) {
                (Poll::Ready(Ok(0)), _) if lines.is_partial() => {
                    Poll::Ready(Ok(Input::End(End::Partial)))
                }
                (Poll::Ready(Ok(0)), _) => Poll::Ready(Ok(Input::End(End::Eof))),
                (Poll::Ready(Ok(bytes)), _) => {
                    if let Some(unread) = unread {
                        *unread = unread.saturating_sub(bytes);
                    }
                    self.note_read();
                    Poll::Ready(Ok(input))
                }
                (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
                _ if self.outbox.poll_closing(cx).is_ready() => {
                    Poll::Ready(Ok(Input::End(End::Closing)))
                }
                (_, Some(line)) => {
                    let limit = self.surroundings.limits.line_timeout;
                    line.poll(cx, limit, &*self.surroundings.clock)
                        .map(|()| Ok(Input::End(End::SlowLine)))
                }
                _ => Poll::Pending,
            }
        })
    }

    /// Lines → the coordinator, at once, unless they have to be held.
    pub(super) fn take(&self, block: LineBlock, holds: bool) -> Input {
        if block.is_empty() {
            return Input::None;
        } else if holds {
            return Input::Throttled(Box::new(block));
        }
        self.waits.store(true, Ordering::Relaxed);
        let throttled = false;
        self.tell(Message::Lines { block, throttled });
        Input::Told
    }

    /// Waits until the coordinator is through with the lines. Says whether the server is closing.
    pub(super) async fn hand_over(
        &self,
        input: Input,
        pace: &mut Option<Box<Pace>>,
    ) -> io::Result<bool> {
        let closing = match (input, pace) {
            (Input::Throttled(block), Some(pace)) => {
                Box::pin(self.hand_over_slowly(*block, pace)).await?
            }
            _ => poll_fn(|cx| self.outbox.poll_next_batch(cx)).await?,
        };
        self.waits.store(false, Ordering::Relaxed);
        self.note_move();
        Ok(closing)
    }

    /// As fast as the client's rate allows; or all of them, to be refused, once the server closes.
    async fn hand_over_slowly(&self, mut block: LineBlock, pace: &mut Pace) -> io::Result<bool> {
        let clock = &*self.surroundings.clock;
        let mut closing = false;
        let mut throttled = false;
        self.waits.store(true, Ordering::Relaxed);
        loop {
            let allowed = match pace.allows(clock.now()) {
                _ if closing => usize::MAX,
                Ok(lines) => lines,
                Err(until) => {
                    throttled = true;
                    let closes = poll_fn(|cx| self.outbox.poll_closing(cx).map(|()| true));
                    let on_time = async {
                        clock.sleep(until).await;
                        false
                    };
                    closing = future::or(closes, on_time).await;
                    continue;
                }
            };
            let (block_now, lines) = block.split_to(allowed);
            pace.spend(lines);
            let throttled = std::mem::take(&mut throttled);
            self.tell(Message::Lines {
                block: block_now,
                throttled,
            });
            closing |= poll_fn(|cx| self.outbox.poll_next_batch(cx)).await?;
            if block.is_empty() {
                return Ok(closing);
            }
        }
    }
}
