//! The stage between two channels.

use std::{future::Future, pin::Pin, thread};

use async_channel::{Receiver, TryRecvError, bounded, unbounded};
use futures_lite::{StreamExt as _, future};
use keywire::squarer::{Squarer, Stage};

use crate::{
    common::wait_until,
    executor::{Executor, Runtime},
};

/// Polls the worker to its end, on an executor of this kind, in a thread of its own.
fn run(executor: Executor, worker: Stage) -> thread::JoinHandle<()> {
    thread::spawn(move || match executor {
        Executor(Runtime::Smol, 1) => smol::block_on(worker),
        Executor(Runtime::Smol, _) => smol::block_on(smol::spawn(worker)),
        Executor(Runtime::AsyncStd, _) => async_std::task::block_on(worker),
        Executor(Runtime::Tokio, threads) => {
            let tokio = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads)
                .build()
                .unwrap();
            tokio.block_on(tokio.spawn(worker)).unwrap();
        }
        Executor(Runtime::BlockOn, _) => future::block_on(worker),
    })
}

fn collect(output: Receiver<i128>) -> Vec<i128> {
    future::block_on(output.collect())
}

on_every_executor! {
    fn squares_come_out_in_order_and_the_stage_ends_with_its_input(executor: Executor) {
        let (numbers, input) = bounded(3);
        let (_squarer, worker, output) = Squarer::new(input);
        let worker = run(executor, worker);
        let feed = thread::spawn(move || {
            for n in -500..500 {
                numbers.send_blocking(n).unwrap();
            }
        });
        let expected: Vec<_> = (-500..500).map(|n: i128| n * n).collect();
        assert_eq!(collect(output), expected);
        feed.join().unwrap();
        worker.join().unwrap();
    }

    fn close_ends_a_stage_that_waits_for_input(executor: Executor) {
        let (numbers, input) = unbounded();
        let (squarer, worker, output) = Squarer::new(input);
        let worker = run(executor, worker);
        numbers.try_send(3).unwrap();
        assert_eq!(output.recv_blocking(), Ok(9));
        future::block_on(squarer.close());
        assert!(numbers.is_closed(), "the worker still holds its input");
        assert!(output.recv_blocking().is_err());
        worker.join().unwrap();
        future::block_on(squarer.close());
    }

    fn close_ends_a_stage_whose_output_nobody_reads(executor: Executor) {
        let (numbers, input) = bounded(10);
        let (squarer, worker, output) = Squarer::new(input.clone());
        for n in 0..10 {
            numbers.try_send(n).unwrap();
        }
        let worker = run(executor, worker);
        // One square in the output, one in the stage's hands, and not one more taken.
        wait_until("the stage is stuck", || numbers.len() == 8);
        future::block_on(squarer.close());
        worker.join().unwrap();
        assert_eq!(numbers.len(), 8);
        assert_eq!(output.try_recv(), Ok(0));
        assert_eq!(output.try_recv(), Err(TryRecvError::Closed));
        // What was not taken is still there for someone else.
        assert_eq!(input.try_recv(), Ok(2));
    }

    fn the_stage_ends_when_nobody_holds_the_output(executor: Executor) {
        let (numbers, input) = bounded(1);
        let (_squarer, worker, output) = Squarer::new(input);
        let worker = run(executor, worker);
        drop(output);
        worker.join().unwrap();
        assert!(numbers.is_closed());
    }

    fn many_may_close_at_once(executor: Executor) {
        for _ in 0..50 {
            let (numbers, input) = unbounded();
            let (squarer, worker, _output) = Squarer::new(input);
            let worker = run(executor, worker);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        future::block_on(squarer.close());
                        assert!(numbers.is_closed());
                    });
                }
            });
            worker.join().unwrap();
        }
    }
}

#[test]
fn it_is_made_without_a_wait_and_does_nothing_until_polled() {
    let (numbers, input) = bounded(1);
    let (_squarer, _worker, output) = Squarer::new(input);
    numbers.try_send(2).unwrap();
    assert_eq!(numbers.len(), 1);
    assert_eq!(output.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn close_ends_a_stage_that_was_never_polled() {
    let (numbers, input) = bounded(1);
    let (squarer, worker, output) = Squarer::new(input.clone());
    numbers.try_send(2).unwrap();
    future::block_on(squarer.close());
    future::block_on(squarer.close());
    assert_eq!(output.try_recv(), Err(TryRecvError::Closed));
    // Polled now, the worker is ready, and takes nothing.
    future::block_on(worker);
    assert_eq!(input.try_recv(), Ok(2));
}

#[test]
fn close_ends_a_stage_that_nobody_polls_any_more() {
    let (numbers, input) = bounded(1);
    let (squarer, mut worker, output) = Squarer::new(input);
    assert!(future::block_on(future::poll_once(&mut worker)).is_none());
    future::block_on(squarer.close());
    assert!(numbers.is_closed());
    assert!(output.is_closed());
}

#[test]
fn a_worker_is_woken_by_close() {
    let (_numbers, input) = bounded(1);
    let (squarer, worker, _output) = Squarer::new(input);
    let mut both = Box::pin(future::zip(worker, async {
        future::yield_now().await;
        squarer.close().await;
    }));
    assert_eq!(future::block_on(both.as_mut()), ((), ()));
}

#[test]
fn a_close_that_is_dropped_half_way_still_closes() {
    let (numbers, input) = bounded(1);
    let (squarer, worker, _output) = Squarer::new(input);
    let mut close: Pin<Box<dyn Future<Output = ()>>> = Box::pin(squarer.close());
    let _ = future::block_on(future::poll_once(&mut close));
    drop(close);
    future::block_on(worker);
    assert!(numbers.is_closed());
}

#[test]
fn dropping_the_worker_ends_the_stage() {
    let (numbers, input) = bounded(1);
    let (squarer, worker, output) = Squarer::new(input);
    drop(worker);
    assert!(numbers.is_closed());
    assert!(output.is_closed());
    future::block_on(squarer.close());
}

#[test]
fn dropping_the_handle_leaves_the_stage_at_work() {
    let (numbers, input) = bounded(1);
    let (squarer, worker, output) = Squarer::new(input);
    drop(squarer);
    let worker = run(Executor::PLAIN, worker);
    numbers.send_blocking(5).unwrap();
    drop(numbers);
    assert_eq!(collect(output), [25]);
    worker.join().unwrap();
}
