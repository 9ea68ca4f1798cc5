//! A rendered file with values that belong together, read without pause while it is replaced.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oneiric_adapter_template::{Config, FileConfig, TemplateHook};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::Plan;
use crate::load::{Counts, Load};
use crate::operator::{Operator, new_credential, put};
use crate::report::{Report, Spread, seconds};
use crate::service::Service;
use crate::trials::{Trial, Trials};

const KEY: &str = "pair.json";
const TARGET: &str = "pair.conf";

/// What is rendered. The last line says that nothing is missing.
const TEMPLATE: &str = "number={{ number }}\nuser={{ user }}\npassword={{ password }}\nend\n";
/// What a secret holds that the service cannot use.
const UNUSABLE: &str = "unusable";
/// Refuses it, before it is put in place.
const CHECK: &str = "! grep -q unusable \"$ONEIRIC_STAGED_DIR/pair.conf\"";
/// Takes notice of each new file.
const RELOAD: &str = "echo $ONEIRIC_GENERATION > noticed && mv noticed generation";

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let dir = TempDir::new().map_err(|error| format!("no temporary directory: {error}"))?;
    let service = Service::start()?;
    let mut operator = Operator::new(&service.socket(), &service.secrets())?;
    operator.store(KEY, &pair(1))?;
    let hook = adapter(dir.path())?;
    service.runtime.register(Arc::new(hook)).await.map_err(|error| error.chain())?;
    // The first files are put in place like all others, right after the adapter is taken in.
    operator.attempt(KEY, None).await?;
    let file = dir.path().join(TARGET);
    let reader = Arc::new(Reader::new(file.clone()));
    wait_for(&file).await?;
    let load = Load::start(plan.clients, |counts| read_on(counts, Arc::clone(&reader)));

    let mut serving = 1;
    for round in 1..=plan.rotations {
        serving = u64::from(round) + 1;
        operator.store(KEY, &pair(serving))?;
        operator.rotate(KEY).await?;
        // The adapter has acknowledged: what is read from here on is the new content.
        reader.acknowledged.store(serving, Ordering::SeqCst);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        reader.revoked.store(serving, Ordering::SeqCst);
    }

    let trials = trials(&operator, dir.path(), &pair(serving)).await?;
    let (requests, failed, failures) = load.stop().await?;
    service.stop().await?;
    let (after_commit, after_revoke) = reader.old_reads();
    let (swap_ms, drain_ms, command_ms) = operator.times();
    Ok(Report {
        scenario: "template",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: after_revoke,
        old_credential_uses_after_commit: after_commit,
        swap_ms,
        drain_ms,
        command_ms,
        trials,
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

/// Rotations that must not succeed, and must not be seen in the file.
async fn trials(operator: &Operator, dir: &Path, serving: &str) -> Result<Vec<Trial>, String> {
    let generation = || {
        let text = fs::read_to_string(dir.join("generation")).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    };
    let trials = Trials { operator, key: KEY, generation };
    let bad = serving.replacen("\"password\":\"", &format!("\"password\":\"{UNUSABLE}"), 1);
    let fieldless = "{\"number\":\"1\"}";
    Ok(vec![
        trials.bad_credential("a value that `check` refuses", &bad, serving).await?,
        trials.store_down().await?,
        trials.lacks_a_field("a field is missing", fieldless, serving).await?,
    ])
}

fn adapter(dir: &Path) -> Result<TemplateHook, String> {
    let secret = |name: &str| {
        let reference = format!("files:{KEY}#{name}").parse();
        (name.to_owned(), reference.expect("it is a valid reference"))
    };
    let shell = |script: &str| Some(["sh", "-c", script].map(str::to_owned).to_vec());
    let mut config = Config::new(["number", "user", "password"].map(secret));
    config.files.push(FileConfig::new(TEMPLATE, dir.join(TARGET)));
    config.check = shell(CHECK);
    config.reload = shell(RELOAD);
    config.working_dir = Some(dir.to_owned());
    let id = "pair-file".parse().expect("it is a valid adapter id");
    TemplateHook::new(id, config).map_err(|error| error.chain())
}

async fn wait_for(file: &Path) -> Result<(), String> {
    let give_up = Instant::now() + std::time::Duration::from_secs(60);
    while !file.exists() {
        if Instant::now() > give_up {
            return Err("the first file was never put in place".to_owned());
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The same load on a file that is written where it stands, as most templates are.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let dir = TempDir::new().map_err(|error| format!("no temporary directory: {error}"))?;
    let file = dir.path().join(TARGET);
    write_in_place(dir.path(), 1)?;
    let reader = Arc::new(Reader::new(file));
    let load = Load::start(plan.clients, |counts| read_on(counts, Arc::clone(&reader)));
    for round in 1..=plan.rotations {
        let path = dir.path().to_owned();
        let write = move || write_in_place(&path, u64::from(round) + 1);
        tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())??;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
    }
    let (requests, failed, failures) = load.stop().await?;
    let (after_commit, after_revoke) = reader.old_reads();
    Ok(Report {
        scenario: "template, written in place",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: after_revoke,
        old_credential_uses_after_commit: after_commit,
        swap_ms: Spread::default(),
        drain_ms: Spread::default(),
        command_ms: Spread::default(),
        trials: Vec::new(),
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

/// Truncates the file and writes it line by line, as an engine does that renders into it.
fn write_in_place(dir: &Path, number: u64) -> Result<(), String> {
    put(dir, KEY, &pair(number))?;
    let (user, password) = values(number);
    let lines = [
        format!("number={number}\n"),
        format!("user={user}\n"),
        format!("password={password}\n"),
        "end\n".to_owned(),
    ];
    let mut file = File::create(dir.join(TARGET)).map_err(|error| error.to_string())?;
    lines.iter().try_for_each(|line| {
        file.write_all(line.as_bytes()).map_err(|error| format!("cannot write: {error}"))
    })
}

/// Values that belong together, each as long as several blocks of a disk.
fn values(number: u64) -> (String, String) {
    (format!("u{number}-").repeat(800), format!("p{number}-").repeat(800))
}

/// The secret with them.
fn pair(number: u64) -> String {
    let (user, password) = values(number);
    // What nobody has to believe makes each one a new version.
    let nonce = new_credential();
    format!(
        "{{\"number\":\"{number}\",\"user\":\"{user}\",\"password\":\"{password}\",\
         \"nonce\":\"{nonce}\"}}"
    )
}

/// What reads the file, and knows which content nobody may read any more.
struct Reader {
    file: PathBuf,
    acknowledged: AtomicU64,
    revoked: AtomicU64,
    read_after_commit: AtomicU64,
    read_after_revoke: AtomicU64,
}

impl Reader {
    fn new(file: PathBuf) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            file,
            acknowledged: zero(),
            revoked: zero(),
            read_after_commit: zero(),
            read_after_revoke: zero(),
        }
    }

    fn read(&self) -> Result<(), String> {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let revoked = self.revoked.load(Ordering::SeqCst);
        let text = fs::read_to_string(&self.file)
            .map_err(|error| format!("the file cannot be read: {error}"))?;
        let number = whole(&text)?;
        if number < revoked {
            self.read_after_revoke.fetch_add(1, Ordering::SeqCst);
        }
        if number < acknowledged {
            self.read_after_commit.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn old_reads(&self) -> (u64, u64) {
        let after_revoke = self.read_after_revoke.load(Ordering::SeqCst);
        (self.read_after_commit.load(Ordering::SeqCst), after_revoke)
    }
}

/// The number of the values in the file, if it is whole and they belong together.
fn whole(text: &str) -> Result<u64, String> {
    let lines: Vec<_> = text.split('\n').collect();
    let [number, user, password, "end", ""] = lines[..] else {
        return Err(format!("torn: {} bytes, and no end", text.len()));
    };
    let value = |line: &str, name: &str| {
        let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        value.map(str::to_owned).ok_or_else(|| format!("torn: no `{name}` where it belongs"))
    };
    let number = value(number, "number")?;
    let number = number.parse().map_err(|_| "torn: the number is none".to_owned())?;
    if (value(user, "user")?, value(password, "password")?) != values(number) {
        return Err(format!("mixed: not the values of number {number}"));
    }
    Ok(number)
}

async fn read_on(counts: Arc<Counts>, reader: Arc<Reader>) {
    while counts.goes_on() {
        counts.count(reader.read());
        // The operator and the service have the same threads.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: u64, user: &str, password: &str) -> String {
        format!("number={number}\nuser={user}\npassword={password}\nend\n")
    }

    #[test]
    fn what_is_torn_or_mixed_is_seen() {
        let ((user, password), (_, other)) = (values(7), values(8));
        let good = text(7, &user, &password);
        assert_eq!(whole(&good), Ok(7));
        for end in [0, 1, 20, good.len() / 2, good.len() - 5, good.len() - 1] {
            assert!(whole(&good[..end]).unwrap_err().starts_with("torn"), "{end}");
        }
        assert!(whole(&text(7, &user, &other)).unwrap_err().starts_with("mixed"));
        assert!(whole(&text(8, &user, &password)).unwrap_err().starts_with("mixed"));
        assert!(whole(&text(7, &user, &password[1..])).unwrap_err().starts_with("mixed"));
    }
}
