//! The suite on the examples of the manual: a folder of files, and files that SOPS encrypts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{ErrorKind, FetchRequest, Result, SecretKey, SecretProvider, SecretValue};
use oneiric_provider_exec::{Capability, Config};
use oneiric_testkit::{Ability, Fault, Rig, conformance, live};

use crate::skipped;

/// The Python of the live suites, or why there is none.
fn python() -> std::result::Result<PathBuf, String> {
    let python = std::env::var_os("ONEIRIC_PYTHON").ok_or("ONEIRIC_PYTHON is not set")?;
    Ok(python.into())
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).display().to_string()
}

/// Makes the content of a file from a value.
type Seal = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A folder whose files are replaced by a rename, and a program over it.
struct FolderRig {
    dir: tempfile::TempDir,
    config: Config,
    seal: Seal,
    count: AtomicUsize,
    fault: Mutex<Option<Fault>>,
}

impl FolderRig {
    fn new(
        command: impl FnOnce(&str) -> Vec<String>,
        capabilities: &[Capability],
        seal: Seal,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let mut config = Config::new(command(&dir.path().join("folder").display().to_string()));
        config.capabilities = capabilities.to_vec();
        Self { dir, config, seal, count: AtomicUsize::new(0), fault: Mutex::default() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("folder")
    }

    fn away(&self) -> PathBuf {
        self.dir.path().join("away")
    }

    fn replace(&self, key: &SecretKey, content: &[u8]) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let beside = self.dir.path().join(format!("unfinished-{number}"));
        fs::write(&beside, content).unwrap();
        fs::rename(beside, self.root().join(key.as_str())).unwrap();
    }
}

#[async_trait]
impl Rig for FolderRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(self.config.clone().build().unwrap())
    }

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        for (key, value) in secrets {
            let content = (self.seal)(value.expose());
            let fault = self.fault.lock().unwrap().clone();
            match fault {
                // It does not change the folder.
                Some(Fault::PushLost) => {
                    fs::write(self.root().join(key.as_str()), content).unwrap();
                }
                Some(Fault::PushDoubled) => {
                    self.replace(key, &content);
                    // Longer than the program takes to look again.
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    self.replace(key, &content);
                }
                _ => self.replace(key, &content),
            }
        }
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        // Not all that the suite cleans up are there.
        let _ = fs::remove_file(self.root().join(key.as_str()));
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Unreachable => fs::rename(self.root(), self.away()).unwrap(),
            // Its events name no secret, so that no order of them is a wrong one.
            Fault::PushLost | Fault::PushDoubled | Fault::PushReordered => {}
            Fault::Denied => return Ability::cannot("root may read everything"),
            Fault::Disabled(_) => return Ability::cannot("a folder has no versions"),
            _ => return Ability::cannot("a folder cannot be told to do that"),
        }
        *self.fault.lock().unwrap() = Some(fault);
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        if let Some(Fault::Unreachable) = self.fault.lock().unwrap().take() {
            fs::rename(self.away(), self.root()).unwrap();
        }
        Ok(())
    }
}

/// What no folder can be told to do.
const NOT_OF_FOLDERS: [&str; 9] = [
    "a_disabled_current_version_is_said_so",
    "an_older_value_never_bears_a_newer_version",
    "a_denial_is_said_so_and_passes",
    "an_unknown_identity_is_said_so_and_passes",
    "a_throttle_is_said_with_the_time_to_wait",
    "a_throttle_without_a_time_is_said_so",
    "a_slow_answer_ends_at_the_deadline",
    "a_hanging_store_ends_at_the_deadline",
    "a_slow_read_may_be_dropped_at_any_await",
];

/// All of the suite's cases that are about writing.
const WRITES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folder_of_the_manual_holds_the_contract() {
    let python = match python() {
        Ok(python) => python.display().to_string(),
        Err(why) => return live::require("exec-folder", &why),
    };
    let command = |folder: &str| vec![python, example("folder.py"), folder.to_owned()];
    let capabilities = [Capability::Stamps, Capability::Push, Capability::Binary, Capability::List];
    let rig = FolderRig::new(command, &capabilities, Box::new(<[u8]>::to_vec));
    let report = conformance(&rig).await;
    report.assert_passed();
    let mut expected = NOT_OF_FOLDERS.to_vec();
    expected.insert(2, "a_set_is_of_one_moment");
    assert_eq!(skipped(&report)[..expected.len()], expected);
    assert_eq!(skipped(&report).len(), expected.len() + WRITES);
}

/// SOPS with a key of its own.
struct Sops {
    keys: tempfile::TempDir,
    bin: String,
    recipient: String,
}

impl Sops {
    fn find(python: &Path) -> std::result::Result<Self, String> {
        let script = "import pyrage\n\
                      key = pyrage.x25519.Identity.generate()\n\
                      print(key.to_public())\n\
                      print(key)";
        let output = Command::new(python).args(["-c", script]).output();
        let output = output.map_err(|error| format!("{}: {error}", python.display()))?;
        let text = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
        let bin = python.parent().filter(|bin| bin.join("sops").is_file());
        let (Some(bin), [recipient, identity]) = (bin, &text.lines().collect::<Vec<_>>()[..])
        else {
            return Err("there is no sops or no pyrage; `cargo xtask setup` gets them".into());
        };
        let (bin, recipient) = (bin.display().to_string(), (*recipient).to_owned());
        let keys = tempfile::tempdir().unwrap();
        fs::write(keys.path().join("key"), identity).unwrap();
        Ok(Self { keys, bin, recipient })
    }

    /// Where its key is. The program inherits it as it would from the settings' `env`.
    fn environment(&self) -> [String; 3] {
        let key = self.keys.path().join("key");
        [
            "env".to_owned(),
            format!("SOPS_AGE_KEY_FILE={}", key.display()),
            format!("PATH={}:/usr/bin:/bin", self.bin),
        ]
    }

    fn command(&self, python: &Path, folder: &str) -> Vec<String> {
        let mut command = self.environment().to_vec();
        command.extend([python.display().to_string(), example("sops.py"), folder.to_owned()]);
        command
    }

    /// The content of a file of this name, encrypted by the real program.
    fn encrypt(&self, name: &str, value: &[u8]) -> Vec<u8> {
        encrypt(&self.bin, &self.recipient, name, value)
    }
}

fn encrypt(bin: &str, recipient: &str, name: &str, value: &[u8]) -> Vec<u8> {
    let mut child = Command::new(Path::new(bin).join("sops"))
        .args(["encrypt", "--age", recipient, "--filename-override", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    output.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_sops_hold_the_contract() {
    let ready = python().and_then(|python| Sops::find(&python).map(|sops| (python, sops)));
    let (python, sops) = match ready {
        Ok(ready) => ready,
        Err(why) => return live::require("exec-sops", &why),
    };
    let (bin, recipient) = (sops.bin.clone(), sops.recipient.clone());
    let seal = move |value: &[u8]| encrypt(&bin, &recipient, "secret", value);
    let capabilities = [Capability::Stamps, Capability::Binary, Capability::List];
    let rig = FolderRig::new(|folder| sops.command(&python, folder), &capabilities, Box::new(seal));
    let report = conformance(&rig).await;
    report.assert_passed();
    assert_eq!(skipped(&report).len(), NOT_OF_FOLDERS.len() + 1 + 4 + WRITES, "{report}");

    // What the suite does not try: a structured file, and a key that is not there.
    let key: SecretKey = "db.yaml".parse().unwrap();
    rig.replace(&key, &sops.encrypt("db.yaml", b"user: app\npassword: \"007\"\n"));
    let provider = rig.provider();
    let fetched = provider.fetch(&FetchRequest::new(key.clone())).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(fetched.value.expose()).unwrap();
    assert_eq!(json, serde_json::json!({"user": "app", "password": "007"}));
    fs::remove_file(sops.keys.path().join("key")).unwrap();
    let error = provider.fetch(&FetchRequest::new(key)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.chain());
}
