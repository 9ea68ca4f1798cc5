//! An HTTP server that knows tokens, counts the requests that are under way with each, and can be
//! put out of order.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use oneiric_testkit::ServerFault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// No request of these tests is larger.
const LARGEST: usize = 4096;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Mutex<State>,
    fault: watch::Sender<Option<ServerFault>>,
    /// How often it went down, which ends every connection.
    downs: watch::Sender<u64>,
    /// The long requests that may be answered.
    released: watch::Sender<HashSet<String>>,
}

#[derive(Default)]
struct State {
    numbers: HashMap<String, u64>,
    accepted: HashSet<u64>,
    shown: HashMap<u64, u64>,
    /// The path and the token's number of each request that is under way.
    under_way: Vec<(String, u64)>,
}

/// A request that is under way.
struct UnderWay<'a>(&'a Server, String, u64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let same = |(path, number): &(String, u64)| *path == self.1 && *number == self.2;
        if let Some(at) = state.under_way.iter().position(same) {
            state.under_way.swap_remove(at);
        }
    }
}

impl Server {
    /// Starts it on a port of its own; it ends with the test's runtime.
    pub(crate) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            state: Mutex::default(),
            fault: watch::Sender::new(None),
            downs: watch::Sender::new(0),
            released: watch::Sender::default(),
        });
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&accepting);
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Numbers a token, and accepts it from now on or does not.
    pub(crate) fn learn(&self, token: &str, accepts: bool) -> u64 {
        let mut state = self.state();
        let number = state.numbers.len() as u64 + 1;
        state.numbers.insert(format!("Bearer {token}"), number);
        if accepts {
            state.accepted.insert(number);
        }
        number
    }

    pub(crate) fn revoke(&self, number: u64) {
        self.state().accepted.remove(&number);
    }

    pub(crate) fn uses(&self, number: u64) -> usize {
        self.state().under_way.iter().filter(|(_, of)| *of == number).count()
    }

    pub(crate) fn is_under_way(&self, path: &str) -> bool {
        self.state().under_way.iter().any(|(of, _)| of == path)
    }

    pub(crate) fn shown(&self, number: u64) -> u64 {
        self.state().shown.get(&number).copied().unwrap_or_default()
    }

    pub(crate) fn play(&self, fault: Option<ServerFault>) {
        self.fault.send_replace(fault);
        if fault == Some(ServerFault::Down) {
            self.downs.send_modify(|downs| *downs += 1);
        }
    }

    /// Lets a long request be answered.
    pub(crate) fn release(&self, path: &str) {
        self.released.send_modify(|released| {
            released.insert(path.to_owned());
        });
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut downs = self.downs.subscribe();
        if *self.fault.borrow() == Some(ServerFault::Down) {
            return;
        }
        // Whatever happens to it, a connection ends here.
        tokio::select! {
            _ = downs.changed() => {}
            _ = self.converse(&mut stream) => {}
        }
    }

    async fn converse(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut exchanges = 0;
        while let Some(request) = read(stream).await? {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, number) = self.authorize(&request);
            let _under_way = number.map(|number| {
                self.state().under_way.push((path.clone(), number));
                UnderWay(self, path.clone(), number)
            });
            let patience = async {
                self.out_of_order(exchanges).await?;
                if path.starts_with("/long") {
                    let mut released = self.released.subscribe();
                    released.wait_for(|released| released.contains(&path)).await.ok()?;
                }
                Some(())
            };
            // Whoever asked may hang up meanwhile; it sends nothing more before the answer.
            let mut nothing = [0];
            let answered = tokio::select! {
                answered = patience => answered,
                _ = stream.peek(&mut nothing) => None,
            };
            if answered.is_none() {
                return Ok(());
            }
            let busy = *self.fault.borrow() == Some(ServerFault::Busy);
            let status = if busy { "503 Service Unavailable" } else { status };
            let body = number.unwrap_or_default().to_string();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
            exchanges += 1;
        }
        Ok(())
    }

    /// Says what becomes of a request, and with which token it came, if it is one of ours.
    fn authorize(&self, request: &str) -> (&'static str, Option<u64>) {
        let mut headers = request.lines().filter_map(|line| line.split_once(": "));
        let given = headers.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let mut state = self.state();
        let number = given.and_then(|(_, value)| state.numbers.get(value).copied());
        if let Some(number) = number {
            *state.shown.entry(number).or_default() += 1;
        }
        match number.is_some_and(|number| state.accepted.contains(&number)) {
            true => ("200 OK", number),
            false => ("401 Unauthorized", number),
        }
    }

    /// Does to an exchange what is played, or cuts it off.
    async fn out_of_order(&self, exchanges: usize) -> Option<()> {
        let mut fault = self.fault.subscribe();
        let now = *fault.borrow_and_update();
        match now {
            Some(ServerFault::Stalled { after }) if exchanges < after => Some(()),
            Some(ServerFault::Hanging | ServerFault::Stalled { .. }) => fault.changed().await.ok(),
            Some(ServerFault::Slow(time)) => {
                sleep(time).await;
                Some(())
            }
            Some(ServerFault::CutOff { after }) if exchanges >= after => None,
            _ => Some(()),
        }
    }
}

/// The head of the next request, which is all that there is of it.
async fn read(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        assert!(bytes.len() < LARGEST, "a request of these tests is small");
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8(bytes).expect("a request of these tests is text")))
}
