//! Cancelling a future at a chosen await.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Polls a future so many times and then drops it, unless it is done before: with 1, 2, 3, …
/// polls it is cancelled at each of its awaits in turn.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let twice = || async {
///     tokio::task::yield_now().await;
///     7
/// };
/// assert_eq!(oneiric_testkit::poll_at_most(1, twice()).await, None);
/// assert_eq!(oneiric_testkit::poll_at_most(2, twice()).await, Some(7));
/// # });
/// ```
pub async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
