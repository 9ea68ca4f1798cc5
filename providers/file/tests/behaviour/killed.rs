//! A writer that is killed with no warning leaves the old secret or the new one.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oneiric_core::{ErrorKind, SecretKey, SecretProvider, SecretValue, VersionState};
use oneiric_provider_file::{Config, FileProvider};

use crate::ask;
use crate::trees::Plain;

/// Set for the process that writes until it is killed: where to.
const WRITE_TO: &str = "ONEIRIC_TEST_WRITE_TO";

const KILLS: u64 = 12;

/// How long a writer may take until it has written. Generous: a slow machine is no defect.
const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough for a write to be cut in the middle.
fn value(number: u64) -> SecretValue {
    SecretValue::from(format!("{number:08}").repeat(4096))
}

fn is_whole(value: &SecretValue) -> bool {
    let bytes = value.expose();
    bytes.len() == 8 * 4096 && bytes.chunks(8).all(|chunk| chunk == &bytes[..8])
}

fn provider(root: &std::path::Path) -> FileProvider {
    let mut config = Config::new(root);
    config.write = true;
    config.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_killed_leaves_old_or_new() {
    let key: SecretKey = "db/password".parse().unwrap();
    if let Some(root) = std::env::var_os(WRITE_TO) {
        return write(&provider(root.as_ref()), &key).await;
    }
    let tree = Plain::new();
    let provider = provider(&tree.root());
    let mut promoted = 0;
    for round in 0..KILLS {
        let writer = Writer::start(&tree);
        let started = std::time::Instant::now();
        // Each time at another moment, but not before something was written.
        let mut now = promoted;
        while started.elapsed() < Duration::from_millis(100 + 7 * round) || now == promoted {
            assert!(started.elapsed() < PATIENCE, "nothing is written");
            now = look(&provider, &key).await;
        }
        drop(writer);
        let now = look(&provider, &key).await;
        assert!(now >= promoted, "it went back from {promoted} to {now}");
        promoted = now;
        for info in provider.lister().unwrap().versions(&key).await.unwrap_or_default() {
            if info.state != VersionState::Enabled {
                continue;
            }
            let request = ask(key.as_str()).at_version(info.version.id());
            let fetched = provider.fetch(&request).await.unwrap();
            assert!(is_whole(&fetched.value), "the version {} is cut", info.version);
        }
    }
    assert!(promoted >= KILLS, "{promoted} were promoted");
}

/// A process that writes until it is killed, which dropping it does.
struct Writer(Child);

impl Writer {
    fn start(tree: &Plain) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "killed::a_writer_that_is_killed_leaves_old_or_new"])
            .env(WRITE_TO, tree.root())
            .stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The number of the current version, which must be whole; 0 if there is none yet.
async fn look(provider: &FileProvider, key: &SecretKey) -> u64 {
    match provider.fetch(&ask(key.as_str())).await {
        Ok(fetched) => {
            assert!(is_whole(&fetched.value), "the version {} is cut", fetched.version);
            fetched.version.id().parse().unwrap()
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
            0
        }
    }
}

/// Writes until it is killed, or for so long that nobody will do so any more.
async fn write(provider: &FileProvider, key: &SecretKey) {
    let writer = provider.writer().unwrap();
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        let versions = match provider.lister().unwrap().versions(key).await {
            Ok(versions) => versions,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{}", error.chain()),
        };
        let current = versions.iter().find(|info| info.current);
        let current = current.map(|info| info.version.to_string());
        let number =
            versions.first().map_or(1, |info| info.version.id().parse::<u64>().unwrap() + 1);
        let token = format!("write-{number}");
        let version = writer.create_version(key, &value(number), &token).await.unwrap();
        writer.promote(key, &version.id(), current.as_deref()).await.unwrap();
        // Old ones go, so that there is not more and more to look at.
        for old in versions.iter().skip(4).filter(|info| info.state == VersionState::Enabled) {
            writer.destroy(key, &old.version.id()).await.unwrap();
        }
    }
}
