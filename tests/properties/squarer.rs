//! The squares of any numbers.

use async_channel::unbounded;
use futures_lite::{StreamExt as _, future};
use keywire::squarer::Squarer;
use proptest::prelude::*;

proptest! {
    #[test]
    fn squares_are_exact_and_in_order(numbers: Vec<i64>) {
        let (sender, input) = unbounded();
        let (_squarer, worker, output) = Squarer::new(input);
        let extremes = [i64::MIN, i64::MAX, 0, -1];
        for &n in numbers.iter().chain(&extremes) {
            sender.try_send(n).unwrap();
        }
        drop(sender);
        let (squares, ()) = future::block_on(future::zip(output.collect::<Vec<_>>(), worker));
        let expected: Vec<i128> = numbers.iter().chain(&extremes).map(|&n| i128::from(n).pow(2)).collect();
        prop_assert_eq!(squares, expected);
    }
}
