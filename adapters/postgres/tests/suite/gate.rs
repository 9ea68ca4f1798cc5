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

/// `FATAL`, SQLSTATE 53300, as the server says it before it hangs up.
const TOO_MANY_CONNECTIONS: &[u8] = b"E\0\0\0\x2cSFATAL\0VFATAL\0C53300\0Mtoo many clients\0\0";

pub(crate) struct Gate {
    pub(crate) port: u16,
    server: u16,
    fault: watch::Sender<Option<ServerFault>>,
    /// How often it went down, which ends every connection.
    downs: watch::Sender<u64>,
    /// How often each role has asked to be let in.
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

    pub(crate) fn shown(&self, role: &str) -> u64 {
        self.shown.lock().unwrap().get(role).copied().unwrap_or_default()
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
        let first = first_message(&mut client).await?;
        if let Some(role) = role(&first) {
            *self.shown.lock().unwrap().entry(role).or_default() += 1;
        }
        if *self.fault.borrow() == Some(ServerFault::Busy) {
            return client.write_all(TOO_MANY_CONNECTIONS).await;
        }
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).await?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        server.write_all(&first).await?;
        let ((from_client, to_client), (from_server, to_server)) =
            (client.into_split(), server.into_split());
        // Where one side hangs up, so do we.
        tokio::select! {
            ended = forth(from_client, to_server) => ended,
            ended = self.back(from_server, to_client) => ended,
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

async fn forth(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await.map(drop)
}

/// The message that a connection begins with: its length, and what it asks for.
async fn first_message(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = client.read_u32().await?;
    assert!((8..4096).contains(&length), "a first message of these tests is small");
    let mut message = length.to_be_bytes().to_vec();
    message.resize(length as usize, 0);
    client.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// The role that asks to be let in, if that is what is asked.
fn role(message: &[u8]) -> Option<String> {
    let mut parts = message.get(8..)?.split(|byte| *byte == 0);
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        if name == b"user" {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
    None
}
