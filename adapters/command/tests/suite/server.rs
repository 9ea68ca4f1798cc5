//! A server whose tokens are in files, so that the commands of an adapter can try them, and the
//! service that the commands move from one token to the next.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use oneiric_testkit::ServerFault;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::sleep;

/// Tries a token at the server. What it says is repeated, so it should not say the token; it does.
pub(crate) const PROVE: &str = r#"
token=$(sed 's/.*"token":"\([^"]*\)".*/\1/')
server=../server
fault() { cat "$server/fault"; }
case $(fault) in
    down | busy | 'cut 0') echo 'the server cannot be asked' >&2; exit 75 ;;
    hang) while [ "$(fault)" = hang ]; do sleep 0.02; done ;;
    slow*) sleep "$(fault | cut -d' ' -f2)" ;;
esac
echo "$token" > "$server/probes/.$$" && mv "$server/probes/.$$" "$server/probes/$$"
echo "$token" >> "$server/shown"
grep -qxF -- "$token" "$server/accepted" || { echo "$token is refused" >&2; exit 1; }
"#;

/// Gives a token to the service, at one moment.
pub(crate) const APPLY: &str = r#"
{ echo "$ONEIRIC_GENERATION"; cat; } > next && mv next current
"#;

/// Says whether the service has users of older tokens.
pub(crate) const DRAIN: &str = r#"
for user in users/*-*; do
    generation=${user#users/}
    [ "${generation%%-*}" != '*' ] || continue
    [ "${generation%%-*}" -ge "$ONEIRIC_GENERATION" ] || exit 1
done
"#;

pub(crate) struct Server {
    dir: TempDir,
    state: Mutex<State>,
    fault: watch::Sender<Option<ServerFault>>,
    services: AtomicU64,
    users: AtomicU64,
}

#[derive(Default)]
struct State {
    numbers: HashMap<String, u64>,
    accepted: Vec<(u64, String)>,
    /// How often each was used by a service, and which uses there are.
    shown: HashMap<u64, u64>,
    uses: Vec<(u64, u64)>,
}

impl Server {
    pub(crate) fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("server/probes")).unwrap();
        let server = Self {
            dir,
            state: Mutex::default(),
            fault: watch::Sender::new(None),
            services: AtomicU64::new(0),
            users: AtomicU64::new(0),
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

    /// The uses by services, and those by proofs that are running.
    pub(crate) fn uses(&self, number: u64) -> usize {
        let state = self.state();
        let used = state.uses.iter().filter(|(_, of)| *of == number).count();
        let probes = fs::read_dir(self.path("probes")).unwrap().filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            let token = fs::read_to_string(&path).unwrap_or_default();
            let running = path.file_name().is_some_and(is_running);
            running && state.numbers.get(token.trim_end()) == Some(&number)
        });
        used + probes.count()
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
        fs::create_dir_all(dir.join("users")).unwrap();
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

/// Reads its token from a file that the commands replace.
pub(crate) struct Service {
    pub(crate) dir: PathBuf,
    server: Arc<Server>,
}

impl Service {
    /// Begins to use the token that the service has, which counts from here on.
    pub(crate) fn user(&self) -> User {
        loop {
            let (generation, token) = self.current();
            let id = self.server.users.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join("users").join(format!("{generation}-{id}"));
            fs::write(&path, "").unwrap();
            let mut user = User { server: Arc::clone(&self.server), id, number: 0, path };
            // A token that was replaced in between may be out of use already.
            if self.current().0 == generation {
                let mut state = self.server.state();
                user.number = state.numbers[&token];
                let number = user.number;
                *state.shown.entry(number).or_default() += 1;
                state.uses.push((id, number));
                drop(state);
                return user;
            }
        }
    }

    fn current(&self) -> (String, String) {
        let text = fs::read_to_string(self.dir.join("current")).unwrap();
        let (generation, secrets) = text.split_once('\n').unwrap();
        let secrets: HashMap<String, String> = serde_json::from_str(secrets).unwrap();
        (generation.to_owned(), secrets["token"].clone())
    }
}

/// A use of one token.
pub(crate) struct User {
    server: Arc<Server>,
    id: u64,
    number: u64,
    path: PathBuf,
}

impl User {
    /// Asks the server for something with it.
    pub(crate) async fn ask(&self) -> Result<u64, String> {
        self.server.answer().await?;
        let state = self.server.state();
        if !state.uses.iter().any(|(id, _)| *id == self.id) {
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
        self.server.state().uses.retain(|(id, _)| *id != self.id);
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            // The folder of the whole server may be gone.
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    }
}
