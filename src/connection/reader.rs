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

use super::{
    Reader, Session,
    message::{InputEnd, Message},
    other_protocol::Opening,
    rate_limiter::{LineDeadline, RateLimiter},
};
use crate::protocol::{LineBlock, LineDecoder};

/// The most that one read takes. It bounds what a client can have applied in one batch.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Bytes that are read once the server closes, if the system can't say how many there are.
const CLOSING_BYTES: usize = 1 << 20;

thread_local! {
    /// One a thread is enough: a buffer is in use only while a read is tried, so a client that
    /// waits holds none.
    static READ_BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Tries a read, with a buffer that is held only until it returns.
pub(crate) fn poll_read(
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
pub(crate) enum Input {
    /// No whole line.
    Incomplete,
    /// Lines; the coordinator has them.
    Delivered,
    /// Lines that have to keep to a limiter, or to be looked at first.
    Throttled(Box<LineBlock>),
    InputEnd(InputEnd),
}

impl Session {
    /// Reads until the input ends, one way or another, and tells the coordinator which.
    pub(crate) async fn run_reader(&self, mut reader: Reader, admitted: bool) -> io::Result<()> {
        if !admitted {
            return Box::pin(self.linger_rejected(&mut reader)).await;
        }
        let end = match self.context.limits.idle_timeout {
            Duration::MAX => self.read_lines(&mut reader).await?,
            limit => {
                let idle = async {
                    self.wait_until_idle(limit).await;
                    Ok(InputEnd::IdleTimeout)
                };
                Box::pin(future::or(self.read_lines(&mut reader), idle)).await?
            }
        };
        self.send_message(Message::InputEnd(end));
        match end {
            InputEnd::Eof | InputEnd::IncompleteLine => match self.context.limits.idle_timeout {
                Duration::MAX => Ok(()),
                limit => Box::pin(self.await_delivery(limit)).await,
            },
            InputEnd::ShuttingDown => Box::pin(self.drain_input(&mut reader)).await,
            _ => Box::pin(self.linger_rejected(&mut reader)).await,
        }
    }

    /// Bytes → lines → the coordinator, until the client or the server ends the input.
    async fn read_lines(&self, reader: &mut Reader) -> io::Result<InputEnd> {
        let mut lines = LineDecoder::new(self.context.limits.max_line);
        // What few need is boxed: an idle client would have to hold room for it.
        let mut line: Option<Box<LineDeadline>> = None;
        let mut limiter = self.context.rate_limiter();
        let mut opening = Some(Opening::default());
        let mut closing = false;
        if let Some(secret) = &self.context.limits.secret {
            let authenticate = async {
                let rest = match self.authenticate_within(reader, secret).await? {
                    Ok(rest) => rest,
                    Err(end) => return Ok(Err(end)),
                };
                let block = lines.push(&rest);
                let closing = match self.deliver(block, limiter.is_some()) {
                    Input::Incomplete => false,
                    input => self.await_processed(input, &mut limiter).await?,
                };
                io::Result::Ok(Ok(closing))
            };
            match Box::pin(authenticate).await? {
                Ok(closes) => closing = closes,
                Err(end) => return Ok(end),
            }
            // The secret was a valid command.
            opening = None;
            self.update_deadline(&mut line, &lines, true);
        }
        // Once the server closes, what stands in the socket by then is refused, line by line, and
        // not just cut off. This is how much of it is left.
        let mut unread = None;
        loop {
            let holds = limiter.is_some() || opening.is_some();
            let input = self.poll_input(reader, &mut lines, &mut line, holds, &mut unread);
            let input = input.await?;
            let new_line = !matches!(input, Input::Incomplete);
            match input {
                Input::Throttled(block) if opening.is_some() => {
                    let first = self.deliver_first(*block, &mut opening, &mut limiter);
                    match Box::pin(first).await? {
                        Ok(closes) => closing = closes,
                        Err(end) => return Ok(end),
                    }
                }
                Input::Incomplete => {
                    if let Some(protocol) = opening
                        .as_mut()
                        .and_then(|it| it.first_bytes(lines.partial()))
                    {
                        return Ok(InputEnd::OtherProtocol { protocol, line: 1 });
                    }
                    // Where there is always more to read, nobody waits for the alarm.
                    if line.as_ref().is_some_and(|line| self.is_late(line)) {
                        return Ok(InputEnd::LineTimeout);
                    }
                    // A long line comes in many reads; others get their turn between them.
                    future::yield_now().await;
                }
                Input::InputEnd(end) => return Ok(end),
                input => closing = self.await_processed(input, &mut limiter).await?,
            }
            if unread == Some(0) {
                return Ok(InputEnd::ShuttingDown);
            } else if closing && unread.is_none() {
                let all = self.peer.as_ref().and_then(|peer| peer.unread());
                unread = Some(all.unwrap_or(CLOSING_BYTES));
            }
            self.update_deadline(&mut line, &lines, new_line);
        }
    }

    /// After what has been read or handed over: a line that is half there has its time, from now
    /// on where it is new.
    fn update_deadline(
        &self,
        line: &mut Option<Box<LineDeadline>>,
        lines: &LineDecoder,
        new: bool,
    ) {
        if lines.is_partial() {
            let line = line.get_or_insert_default();
            line.start(new, &*self.context.clock);
        } else if let Some(line) = line {
            line.clear();
        }
    }

    fn is_late(&self, line: &LineDeadline) -> bool {
        line.is_past(self.context.limits.line_timeout, &*self.context.clock)
    }

    fn poll_input(
        &self,
        reader: &mut Reader,
        lines: &mut LineDecoder,
        line: &mut Option<Box<LineDeadline>>,
        holds: bool,
        unread: &mut Option<usize>,
    ) -> impl Future<Output = io::Result<Input>> {
        poll_fn(move |cx| {
            let mut input = Input::Incomplete;
            let read = poll_read(reader, cx, READ_BYTES, |bytes| {
                input = self.deliver(lines.push(bytes), holds);
            });
            match (read, &mut *line) {
                (Poll::Ready(Ok(0)), _) if lines.is_partial() => {
                    Poll::Ready(Ok(Input::InputEnd(InputEnd::IncompleteLine)))
                }
                (Poll::Ready(Ok(0)), _) => Poll::Ready(Ok(Input::InputEnd(InputEnd::Eof))),
                (Poll::Ready(Ok(bytes)), _) => {
                    if let Some(unread) = unread {
                        *unread = unread.saturating_sub(bytes);
                    }
                    self.on_read();
                    Poll::Ready(Ok(input))
                }
                (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
                _ if self.outbox.poll_closing(cx).is_ready() => {
                    Poll::Ready(Ok(Input::InputEnd(InputEnd::ShuttingDown)))
                }
                (_, Some(line)) => {
                    let limit = self.context.limits.line_timeout;
                    line.poll(cx, limit, &*self.context.clock)
                        .map(|()| Ok(Input::InputEnd(InputEnd::LineTimeout)))
                }
                _ => Poll::Pending,
            }
        })
    }

    /// Lines → the coordinator, at once, unless they have to be held.
    pub(crate) fn deliver(&self, block: LineBlock, holds: bool) -> Input {
        if block.is_empty() {
            return Input::Incomplete;
        } else if holds {
            return Input::Throttled(Box::new(block));
        }
        self.awaiting_server.store(true, Ordering::Relaxed);
        let throttled = false;
        self.send_message(Message::Lines { block, throttled });
        Input::Delivered
    }

    /// Waits until the coordinator is through with the lines. Says whether the server is closing.
    pub(crate) async fn await_processed(
        &self,
        input: Input,
        limiter: &mut Option<Box<RateLimiter>>,
    ) -> io::Result<bool> {
        let closing = match (input, limiter) {
            (Input::Throttled(block), Some(limiter)) => {
                Box::pin(self.deliver_rate_limited(*block, limiter)).await?
            }
            _ => poll_fn(|cx| self.outbox.poll_read_permit(cx)).await?,
        };
        self.awaiting_server.store(false, Ordering::Relaxed);
        self.touch();
        Ok(closing)
    }

    /// As fast as the client's rate allows; or all of them, to be refused, once the server closes.
    async fn deliver_rate_limited(
        &self,
        mut block: LineBlock,
        limiter: &mut RateLimiter,
    ) -> io::Result<bool> {
        let clock = &*self.context.clock;
        let mut closing = false;
        let mut throttled = false;
        self.awaiting_server.store(true, Ordering::Relaxed);
        loop {
            let allowed = match limiter.available(clock.now()) {
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
            limiter.consume(lines);
            let throttled = std::mem::take(&mut throttled);
            self.send_message(Message::Lines {
                block: block_now,
                throttled,
            });
            closing |= poll_fn(|cx| self.outbox.poll_read_permit(cx)).await?;
            if block.is_empty() {
                return Ok(closing);
            }
        }
    }
}
