//! A server whose tokens are in files, so that child processes can try them, and the services that
//! run as child processes.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use oneiric_testkit::ServerFault;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::sleep;

pub(crate) struct Server {
    dir: TempDir,
    state: Mutex<State>,
    fault: watch::Sender<Option<ServerFault>>,
    services: AtomicU64,
    users: AtomicU64,
    /// Whether children are replaced, and not signalled.
    overlap: bool,
}

#[derive(Default)]
struct State {
    numbers: HashMap<String, u64>,
    accepted: Vec<(u64, String)>,
    /// How often each was used by a service, and which uses there are.
    shown: HashMap<u64, u64>,
    uses: Vec<Use>,
}

struct Use {
    id: u64,
    number: u64,
    /// The process whose session it is: it ends with that.
    pid: String,
}

impl Server {
    pub(crate) fn new(overlap: bool) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("server/holders")).unwrap();
        let server = Self {
            dir,
            state: Mutex::default(),
            fault: watch::Sender::new(None),
            services: AtomicU64::new(0),
            users: AtomicU64::new(0),
            overlap,
        };
        server.write("accepted", "");
        server.write("shown", "");
        server.play(None);
        Arc::new(server)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("server").join(name)
    }

    /// Writes a file that commands may be reading.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("next"), text).unwrap();
        fs::rename(self.path("next"), self.path(name)).unwrap();
    }

    fn publish(&self, state: &State) {
        let tokens: String = state.accepted.iter().map(|(_, token)| format!("{token}\n")).collect();
        self.write("accepted", &tokens);
    }

    /// Numbers a token, and accepts it from now on or does not.
    pub(crate) fn learn(&self, token: &str, accepts: bool) -> u64 {
        let mut state = self.state();
        let number = state.numbers.len() as u64 + 1;
        state.numbers.insert(token.to_owned(), number);
        if accepts {
            state.accepted.push((number, token.to_owned()));
            self.publish(&state);
        }
        number
    }

    pub(crate) fn revoke(&self, number: u64) {
        let mut state = self.state();
        state.accepted.retain(|(of, _)| *of != number);
        self.publish(&state);
    }

    /// The uses by users, and by every process that has it.
    pub(crate) fn uses(&self, number: u64) -> usize {
        let state = self.state();
        let used = state
            .uses
            .iter()
            .filter(|of| of.number == number && is_running(of.pid.as_ref()))
            .count();
        let holders = fs::read_dir(self.path("holders")).unwrap().filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            let token = fs::read_to_string(&path).unwrap_or_default();
            let running = path.file_name().is_some_and(is_running);
            running && state.numbers.get(token.trim_end()) == Some(&number)
        });
        used + holders.count()
    }

    pub(crate) fn shown(&self, number: u64) -> u64 {
        let proofs = fs::read_to_string(self.path("shown")).unwrap();
        let state = self.state();
        let proofs = proofs.lines().filter(|token| state.numbers.get(*token) == Some(&number));
        proofs.count() as u64 + state.shown.get(&number).copied().unwrap_or_default()
    }

    pub(crate) fn play(&self, fault: Option<ServerFault>) {
        if fault == Some(ServerFault::Down) {
            self.state().uses.clear();
        }
        self.write(
            "fault",
            &match fault {
                None => String::new(),
                Some(ServerFault::Down) => "down".to_owned(),
                // A proof is one exchange.
                Some(ServerFault::Hanging | ServerFault::Stalled { after: 0 }) => "hang".to_owned(),
                Some(ServerFault::Stalled { .. }) => String::new(),
                Some(ServerFault::Slow(time)) => format!("slow {}", time.as_secs_f64()),
                Some(ServerFault::CutOff { after }) => format!("cut {after}"),
                Some(ServerFault::Busy) => "busy".to_owned(),
                Some(other) => panic!("{other:?} cannot be played"),
            },
        );
        self.fault.send_replace(fault);
    }

    /// A service that uses it, with a folder of its own.
    pub(crate) fn service(self: &Arc<Self>) -> Arc<Service> {
        let number = self.services.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.path().join(number.to_string());
        fs::create_dir_all(dir.join("doors")).unwrap();
        Arc::new(Service { dir, server: Arc::clone(self) })
    }

    /// What a service meets that asks for something.
    async fn answer(&self) -> Result<(), String> {
        let mut fault = self.fault.subscribe();
        let now = *fault.borrow_and_update();
        match now {
            Some(ServerFault::Hanging | ServerFault::Stalled { after: 0 }) => {
                fault.changed().await.map_err(|_| "the server is gone".to_owned())
            }
            Some(ServerFault::Slow(time)) => {
                sleep(time).await;
                Ok(())
            }
            Some(ServerFault::Down | ServerFault::Busy | ServerFault::CutOff { after: 0 }) => {
                Err("the server does not answer".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// A process that nobody has reaped yet is gone too.
fn is_running(pid: &std::ffi::OsStr) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A service, in one child process or, for a while, in two.
pub(crate) struct Service {
    pub(crate) dir: PathBuf,
    server: Arc<Server>,
}

impl Service {
    pub(crate) fn overlaps(&self) -> bool {
        self.server.overlap
    }

    /// Comes to the service as its load balancer would let him in: to the child that has been there
    /// longest and takes anybody.
    pub(crate) async fn user(&self) -> Result<User, String> {
        let give_up = Instant::now() + Duration::from_secs(20);
        while Instant::now() < give_up {
            for door in self.doors() {
                let Ok(mut connection) = UnixStream::connect(&door).await else { continue };
                let mut said = String::new();
                let mut hello = BufReader::new(&mut connection);
                // One that ends has let nobody in.
                if hello.read_line(&mut said).await.is_ok_and(|length| length > 0) {
                    let (pid, token) = said.trim_end().split_once(' ').unwrap();
                    return Ok(self.admitted(pid, token, connection));
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err("no child lets anybody in".to_owned())
    }

    fn doors(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.join("doors")).unwrap();
        let mut doors: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        let number = |door: &PathBuf| -> Option<u64> { door.file_name()?.to_str()?.parse().ok() };
        doors.retain(|door| number(door).is_some());
        doors.sort_by_key(number);
        doors
    }

    fn admitted(&self, pid: &str, token: &str, connection: UnixStream) -> User {
        let id = self.server.users.fetch_add(1, Ordering::Relaxed);
        let mut state = self.server.state();
        let number = state.numbers[token];
        *state.shown.entry(number).or_default() += 1;
        state.uses.push(Use { id, number, pid: pid.to_owned() });
        drop(state);
        User { server: Arc::clone(&self.server), id, number, connection }
    }
}

/// A use of one token, through a child.
pub(crate) struct User {
    server: Arc<Server>,
    id: u64,
    number: u64,
    connection: UnixStream,
}

impl User {
    /// Asks the server for something with it.
    pub(crate) async fn ask(&self) -> Result<u64, String> {
        self.server.answer().await?;
        let state = self.server.state();
        let is_cut = !matches!(
            self.connection.try_read(&mut [0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock
        );
        if is_cut || !state.uses.iter().any(|of| of.id == self.id) {
            return Err("it was cut off".to_owned());
        }
        match state.accepted.iter().any(|(number, _)| *number == self.number) {
            true => Ok(self.number),
            false => Err("the token is refused".to_owned()),
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.server.state().uses.retain(|of| of.id != self.id);
    }
}
