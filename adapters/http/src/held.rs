//! The body of an answer, as long as which a generation is in use.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use oneiric_core::ManagedGuard;
use pin_project_lite::pin_project;

pin_project! {
    /// A body that holds a guard until it was read to its end, has failed, or is dropped: the old
    /// credential is not revoked while an answer is being read.
    pub struct HeldBody<B> {
        #[pin]
        body: B,
        in_use: Option<Box<dyn Any + Send + Sync>>,
    }
}

impl<B: Body> HeldBody<B> {
    /// Of an empty body it lets go at once, since nobody reads one.
    pub fn new<T: Send + Sync + 'static>(body: B, in_use: ManagedGuard<T>) -> Self {
        let goes_on = !body.is_end_stream();
        Self { body, in_use: goes_on.then(|| Box::new(in_use) as _) }
    }
}

impl<B: Body> Body for HeldBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(context));
        if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
            *this.in_use = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: fmt::Debug> fmt::Debug for HeldBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldBody")
            .field("body", &self.body)
            .field("in_use", &self.in_use.is_some())
            .finish()
    }
}
