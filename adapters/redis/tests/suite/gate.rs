//! A gate in front of the server, which everything passes that adapters and the server say to each
//! other, and which can be put out of order.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use oneiric_testkit::ServerFault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// As the server says it before it hangs up.
const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

pub(crate) struct Gate {
    pub(crate) port: u16,
    server: u16,
    fault: watch::Sender<Option<ServerFault>>,
    /// How often it went down, which ends every connection.
    downs: watch::Sender<u64>,
    /// How often each user has asked to be let in.
    shown: Mutex<HashMap<String, u64>>,
}

impl Gate {
    /// Opens it on a port of its own; it ends with the test's runtime.
    pub(crate) async fn open(server: u16) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            server,
            fault: watch::Sender::new(None),
            downs: watch::Sender::new(0),
            shown: Mutex::default(),
        });
        let accepting = Arc::clone(&gate);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let gate = Arc::clone(&accepting);
                tokio::spawn(async move { gate.pass(stream).await });
            }
        });
        gate
    }

    pub(crate) fn play(&self, fault: Option<ServerFault>) {
        self.fault.send_replace(fault);
        if fault == Some(ServerFault::Down) {
            self.downs.send_modify(|downs| *downs += 1);
        }
    }

    pub(crate) fn shown(&self, user: &str) -> u64 {
        self.shown.lock().unwrap().get(user).copied().unwrap_or_default()
    }

    async fn pass(&self, client: TcpStream) {
        let mut downs = self.downs.subscribe();
        if *self.fault.borrow() == Some(ServerFault::Down) {
            return;
        }
        // Whatever happens to it, a connection ends here.
        tokio::select! {
            _ = downs.changed() => {}
            _ = self.converse(client) => {}
        }
    }

    async fn converse(&self, mut client: TcpStream) -> io::Result<()> {
        if *self.fault.borrow() == Some(ServerFault::Busy) {
            return client.write_all(TOO_MANY_CLIENTS).await;
        }
        let server = TcpStream::connect(("127.0.0.1", self.server)).await?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let ((from_client, to_client), (from_server, to_server)) =
            (client.into_split(), server.into_split());
        // Where one side hangs up, so do we.
        tokio::select! {
            ended = self.forth(from_client, to_server) => ended,
            ended = self.back(from_server, to_client) => ended,
        }
    }

    /// Carries what is asked, and notes who says who he is.
    async fn forth(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let length = from.read(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            for user in users(&bytes[..length]) {
                *self.shown.lock().unwrap().entry(user).or_default() += 1;
            }
            to.write_all(&bytes[..length]).await?;
        }
    }

    /// Carries what the server answers, as out of order as is played.
    async fn back(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        let mut exchanges = 0;
        loop {
            let mut fault = self.fault.subscribe();
            let now = *fault.borrow_and_update();
            if matches!(now, Some(ServerFault::CutOff { after }) if exchanges >= after) {
                return Ok(());
            }
            // What comes while it is put out of order is concerned by that.
            let length = tokio::select! {
                length = from.read(&mut bytes) => length?,
                _ = fault.changed() => continue,
            };
            if length == 0 {
                return Ok(());
            }
            match now {
                Some(ServerFault::Slow(time)) => sleep(time).await,
                Some(ServerFault::Stalled { after }) if exchanges < after => {}
                Some(ServerFault::Hanging | ServerFault::Stalled { .. }) => {
                    let _ = fault.changed().await;
                }
                _ => {}
            }
            to.write_all(&bytes[..length]).await?;
            exchanges += 1;
        }
    }
}

/// The users that are named behind an `AUTH`, in a message that is small enough to come at once.
fn users(message: &[u8]) -> impl Iterator<Item = String> {
    let words: Vec<_> = message.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).collect();
    let named: Vec<_> = words
        .windows(3)
        // The line between is the length of the name.
        .filter(|three| three[0] == b"AUTH")
        .map(|three| String::from_utf8_lossy(three[2]).into_owned())
        .collect();
    named.into_iter()
}
