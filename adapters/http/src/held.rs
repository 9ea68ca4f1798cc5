//! The body of an answer, as long as which a generation is in use.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use oneiric_core::ManagedGuard;
use pin_project_lite::pin_project;

type BoxError = Box<dyn StdError + Send + Sync>;

pin_project! {
    /// A body that holds a guard until it was read to its end, has failed, or is dropped: the old
    /// credential is not revoked while an answer is being read.
    ///
    /// # At the drain deadline
    /// A reader that waits for more gets an error, and so does one that comes for more after it: the
    /// body is closed, and its generation not in use any more. One that does not read holds on.
    pub struct HeldBody<B> {
        // Gone when it was cut off.
        #[pin]
        body: Option<B>,
        in_use: Option<InUse>,
    }
}

struct InUse {
    _guard: Box<dyn Any + Send + Sync>,
    // Locked by nobody: it makes a body shareable, as clients ask of theirs.
    cut_off: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl InUse {
    fn new<T: Send + Sync + 'static>(guard: ManagedGuard<T>) -> Self {
        Self { cut_off: Mutex::new(guard.cut_off()), _guard: Box::new(guard) }
    }

    fn poll_cut_off(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let cut_off = self.cut_off.get_mut().unwrap_or_else(PoisonError::into_inner);
        cut_off.as_mut().poll(context)
    }
}

impl<B: Body> HeldBody<B> {
    /// Of an empty body it lets go at once, since nobody reads one.
    pub fn new<T: Send + Sync + 'static>(body: B, in_use: ManagedGuard<T>) -> Self {
        let goes_on = !body.is_end_stream();
        Self { body: Some(body), in_use: goes_on.then(|| InUse::new(in_use)) }
    }
}

impl<B: Body> Body for HeldBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    /// Of the body itself, or that it was cut off.
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        if let Some(in_use) = this.in_use
            && in_use.poll_cut_off(context).is_ready()
        {
            this.body.set(None);
            *this.in_use = None;
            let error = "it was not read to its end when the time of its credential was over";
            return Poll::Ready(Some(Err(error.into())));
        }
        let frame = ready!(body.as_mut().poll_frame(context));
        if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
            *this.in_use = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
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
