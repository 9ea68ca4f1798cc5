//! The real binary in a folder of its own, and a search for secrets in all that it prints.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oneiric_testkit::scan_for_canary;
use serde_json::Value;

/// How long anything may take on a busy machine before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a settings file, a tree of secrets and a runtime directory. Whatever a program
/// prints here is searched for every secret that was ever put here.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    canaries: RefCell<Vec<String>>,
    environment: Vec<(&'static str, String)>,
    logs: Cell<usize>,
}

/// How a program ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    /// A folder with a provider `files` over `secrets/`, and these settings besides.
    pub(crate) fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["secrets", "run"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(dir.path().join(name), private).unwrap();
        }
        let sandbox =
            Self { dir, canaries: RefCell::default(), environment: Vec::new(), logs: Cell::new(0) };
        let text = format!(
            "[agent]\nruntime_dir = {:?}\ninstance = \"web-1\"\n\
             [providers.files]\nkind = \"file\"\npath = {:?}\n{settings}",
            sandbox.path("run"),
            sandbox.path("secrets"),
        );
        fs::write(sandbox.path("oneiric.toml"), text).unwrap();
        sandbox
    }

    /// The same with a variable for every program.
    pub(crate) fn with_env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new random value, which nothing may print from now on.
    pub(crate) fn canary(&self) -> String {
        let mut random = [0; 16];
        File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let canary: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.canaries.borrow_mut().push(canary.clone());
        canary
    }

    /// Puts a new random value with this ending under a key, by a rename, and returns it.
    pub(crate) fn put_ending(&self, key: &str, ending: &str) -> String {
        let value = format!("{}{ending}", self.canary());
        let unfinished = self.path("unfinished");
        fs::write(&unfinished, &value).unwrap();
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(unfinished, self.path("secrets").join(key)).unwrap();
        value
    }

    /// The same without an ending.
    pub(crate) fn put(&self, key: &str) -> String {
        self.put_ending(key, "")
    }

    /// The binary in this folder, with nothing of the environment that concerns it.
    pub(crate) fn oneiric(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneiric"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["ONEIRIC_", "OTEL_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_remove("COLUMNS").env_remove("RUST_BACKTRACE");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, with every log record there is.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.finish(self.oneiric(args).args(["--set", "telemetry.log_filter=trace"]))
    }

    /// The same with this on its standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Ran {
        let path = self.path("input");
        fs::write(&path, input).unwrap();
        let mut command = self.oneiric(args);
        command.args(["--set", "telemetry.log_filter=trace"]);
        self.finish(command.stdin(File::open(path).unwrap()))
    }

    /// Runs a command to its end.
    pub(crate) fn finish(&self, command: &mut Command) -> Ran {
        let ran = Ran::from(command.output().unwrap());
        self.search(&ran.stdout);
        self.search(&ran.stderr);
        ran
    }

    /// Runs it as it is, and returns what it prints without a search: for `get`.
    pub(crate) fn run_unsearched(&self, args: &[&str]) -> Ran {
        let ran = Ran::from(self.oneiric(args).output().unwrap());
        self.search(&ran.stderr);
        ran
    }

    /// Starts it beside us.
    pub(crate) fn start(&self, args: &[&str]) -> Started<'_> {
        self.start_command(self.oneiric(args).args(["--set", "telemetry.log_filter=trace"]))
    }

    /// Starts a command beside us.
    pub(crate) fn start_command(&self, command: &mut Command) -> Started<'_> {
        let number = self.logs.replace(self.logs.get() + 1);
        let (stdout, stderr) = (format!("out-{number}"), format!("err-{number}"));
        let create = |name: &str| File::create(self.path(name)).unwrap();
        let child = command.stdout(create(&stdout)).stderr(create(&stderr)).spawn().unwrap();
        Started { sandbox: self, child, stdout: self.path(&stdout), stderr: self.path(&stderr) }
    }

    /// An agent that serves.
    pub(crate) fn agent(&self, args: &[&str]) -> Started<'_> {
        let agent = self.start(&[&["agent", "--log-format", "json"], args].concat());
        agent.wait_for(r#""message":"ready""#);
        agent
    }

    /// Rotates, and returns how that ended with its report.
    pub(crate) fn rotate(&self, args: &[&str]) -> (Ran, Value) {
        let ran = self.run(&[&["secrets", "rotate", "--json"], args].concat());
        let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
        (ran, report)
    }

    /// What the one instance serves.
    pub(crate) fn status(&self) -> Value {
        let ran = self.run(&["status", "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap()[0].clone()
    }

    /// Fails if a secret is in a text, in any encoding.
    pub(crate) fn search(&self, text: impl AsRef<[u8]>) {
        for canary in self.canaries.borrow().iter() {
            if let Some(form) = scan_for_canary(text.as_ref(), canary) {
                panic!("a secret was printed ({form})");
            }
        }
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A program that is running; killed and searched at the end.
pub(crate) struct Started<'a> {
    sandbox: &'a Sandbox,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Started<'_> {
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until it says this on stderr.
    pub(crate) fn wait_for(&self, text: &str) {
        let started = Instant::now();
        while !self.stderr().contains(text) {
            assert!(started.elapsed() < PATIENCE, "no {text} in:\n{}", self.stderr());
            sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end: its code, or the signal that ended it as shells count.
    pub(crate) fn wait(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            }
            assert!(started.elapsed() < PATIENCE, "it does not end:\n{}", self.stderr());
            sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            self.sandbox.search(self.stdout());
            self.sandbox.search(self.stderr());
        }
    }
}

/// Waits for something that another process does.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited for {what} in vain");
        sleep(Duration::from_millis(10));
    }
}

/// Compares with a file of `tests/snapshots`, or writes it where `UPDATE_SNAPSHOTS=1`.
pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{name} is not as it was; look at the difference, and with UPDATE_SNAPSHOTS=1 it is \
         written anew\n--- expected\n{expected}\n--- is\n{text}"
    );
}
