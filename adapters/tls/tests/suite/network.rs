//! What lies between the two ends of a connection, and can be out of order.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use oneiric_testkit::ServerFault;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::io::{duplex, split};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// More than any flight of a handshake of these tests.
const ROOM: usize = 64 * 1024;

/// A fatal `internal_error`, as some servers answer a hello that they have no room for.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// An exchange on it is what one end says until the other does, and the answer.
#[derive(Debug, Default)]
pub(crate) struct Network {
    fault: watch::Sender<Option<ServerFault>>,
    /// How often it went down, which ends every connection.
    downs: watch::Sender<u64>,
}

impl Network {
    pub(crate) fn play(&self, fault: Option<ServerFault>) {
        self.fault.send_replace(fault);
        if fault == Some(ServerFault::Down) {
            self.downs.send_modify(|downs| *downs += 1);
        }
    }

    /// Serves whoever connects over it, until the handle is aborted. Those who are connected then
    /// go on.
    pub(crate) fn serve<F>(
        self: &Arc<Self>,
        listener: TcpListener,
        serve: impl Fn(DuplexStream) -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let network = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let network = Arc::clone(&network);
                let (middle, far) = duplex(ROOM);
                let serving = serve(far);
                tokio::spawn(async move {
                    tokio::join!(network.carry(stream, middle), serving);
                });
            }
        })
    }

    /// The same for one connection that both ends are in this process of: what comes of the
    /// client's part.
    pub(crate) async fn between<T, C, S>(
        &self,
        client: impl FnOnce(DuplexStream) -> C,
        server: impl FnOnce(DuplexStream) -> S,
    ) -> T
    where
        C: Future<Output = T>,
        S: Future<Output = ()>,
    {
        let ((near, here), (there, far)) = (duplex(ROOM), duplex(ROOM));
        let rest = async {
            tokio::join!(self.carry(here, there), server(far));
            pending::<Infallible>().await
        };
        tokio::select! {
            outcome = client(near) => outcome,
            never = rest => match never {},
        }
    }

    /// Carries what both say until both have ended or it is cut off.
    async fn carry(
        &self,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        server: impl AsyncRead + AsyncWrite + Unpin,
    ) {
        let mut downs = self.downs.subscribe();
        let fault = *self.fault.borrow();
        let carried = async {
            match fault {
                Some(ServerFault::Down) => Ok(()),
                Some(ServerFault::Busy) => turn_away(&mut client).await,
                _ => self.converse(client, server).await,
            }
        };
        tokio::select! {
            _ = downs.changed() => {}
            // However it ended, it has.
            _ = carried => {}
        }
    }

    async fn converse(
        &self,
        client: impl AsyncRead + AsyncWrite,
        server: impl AsyncRead + AsyncWrite,
    ) -> io::Result<()> {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (split(client), split(server));
        let (exchanges, asked) = (AtomicUsize::new(0), AtomicBool::new(false));
        let ask = async {
            let mut said = vec![0; ROOM];
            loop {
                let length = from_client.read(&mut said).await?;
                if length == 0 {
                    // A server that has hung up hears nothing more.
                    let _ = to_server.shutdown().await;
                    return Ok(());
                }
                if !asked.load(Relaxed) && !self.passes(exchanges.load(Relaxed)).await {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                asked.store(true, Relaxed);
                let _ = to_server.write_all(&said[..length]).await;
            }
        };
        let answer = async {
            let mut said = vec![0; ROOM];
            loop {
                let length = from_server.read(&mut said).await?;
                if asked.swap(false, Relaxed) {
                    exchanges.fetch_add(1, Relaxed);
                }
                self.hangs().await;
                if length == 0 {
                    return to_client.shutdown().await;
                }
                to_client.write_all(&said[..length]).await?;
            }
        };
        tokio::try_join!(ask, answer).map(drop)
    }

    /// Does to an exchange what is played; false if there is to be none.
    async fn passes(&self, exchanges: usize) -> bool {
        let mut fault = self.fault.subscribe();
        let now = *fault.borrow_and_update();
        match now {
            Some(ServerFault::Stalled { after }) if exchanges >= after => {
                fault.changed().await.is_ok()
            }
            Some(ServerFault::CutOff { after }) => exchanges < after,
            Some(ServerFault::Slow(time)) => {
                sleep(time).await;
                true
            }
            _ => {
                self.hangs().await;
                true
            }
        }
    }

    async fn hangs(&self) {
        let mut fault = self.fault.subscribe();
        // The network is there for as long as it carries something.
        let _ = fault.wait_for(|fault| *fault != Some(ServerFault::Hanging)).await;
    }
}

/// Answers a hello without a look at it.
async fn turn_away(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut hello = vec![0; ROOM];
    let _length = client.read(&mut hello).await?;
    client.write_all(&INTERNAL_ERROR).await?;
    client.shutdown().await
}
