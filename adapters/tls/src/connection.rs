//! A connection together with the generation that it was made under.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use oneiric_core::ManagedGuard;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An open TLS connection. It holds the generation under which it was made: an old generation is
/// drained when its last connection was dropped.
///
/// A connection that may last, such as one that is kept alive between requests, listens to its
/// guard: at [`retired`](ManagedGuard::retired) it finishes what it is doing and ends, and at
/// [`cut_off`](ManagedGuard::cut_off) it ends at once.
pub struct Connection<S, T> {
    stream: S,
    guard: ManagedGuard<T>,
}

impl<S, T> Connection<S, T> {
    /// Makes the handshake under this generation, unless that is cut off before it is over.
    pub(crate) async fn make(
        guard: ManagedGuard<T>,
        handshake: impl Future<Output = io::Result<S>>,
    ) -> io::Result<Self> {
        tokio::select! {
            biased;
            stream = handshake => Ok(Self { stream: stream?, guard }),
            () = guard.cut_off() => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the handshake was not over when the time of its certificate was",
            )),
        }
    }

    /// The generation.
    pub fn guard(&self) -> &ManagedGuard<T> {
        &self.guard
    }

    /// The stream of tokio-rustls, for what the handshake has found out.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin, T> AsyncRead for Connection<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, T> AsyncWrite for Connection<S, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S, T> fmt::Debug for Connection<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("generation", &self.guard.generation()).finish()
    }
}
