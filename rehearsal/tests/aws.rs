//! A secret of AWS that is rotated under load by Amazon's own clients, boto3 and the command line,
//! from the new version in the store to a service that uses it: noticed by push and by the sweep,
//! with no failed request, also while the store is gone and the queue with it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_provider_aws::{Config, Push};
use oneiric_testkit::live::{Aws, AwsKind, require};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

mod service;

use service::Service;

const SWEEP: Duration = Duration::from_millis(300);
const NEVER: Duration = Duration::from_secs(3600);

/// A program of boto3 that rotates whenever it is given a number, and then puts the event on the
/// queue that AWS would send: the server sends none.
const ROTATOR: &str = r#"
import boto3, datetime, json, sys
endpoint, queue = sys.argv[1:]
secrets = boto3.client("secretsmanager", endpoint_url=endpoint)
events = boto3.client("sqs", endpoint_url=endpoint)
for line in sys.stdin:
    number = line.strip()
    value = json.dumps({"user": f"user-{number}", "password": f"password-{number}"})
    version = secrets.put_secret_value(SecretId="app/db", SecretString=value)["VersionId"]
    if queue:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        detail = {"name": "app/db", "labelUpdated": "AWSCURRENT", "versionId": version}
        event = {"detail-type": "Secret Label Updated", "source": "aws.secretsmanager",
                 "time": now, "detail": detail}
        events.send_message(QueueUrl=queue, MessageBody=json.dumps(event))
    print(version, flush=True)
"#;

/// boto3, waiting for numbers.
struct Rotator {
    child: Child,
    lines: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Rotator {
    fn start(aws: &Aws, queue: &str) -> Self {
        let mut command = aws.python();
        command.args(["-c", ROTATOR, &aws.address(), queue]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = (child.stdin.take().unwrap(), child.stdout.take().map(BufReader::new).unwrap());
        Self { child, lines: Mutex::new(lines) }
    }

    /// Answers with the version that was made.
    fn rotate(&self, number: u64) -> String {
        let (input, output) = &mut *self.lines.lock().unwrap();
        writeln!(input, "{number}").unwrap();
        let mut version = String::new();
        output.read_line(&mut version).unwrap();
        assert!(!version.is_empty(), "boto3 has failed");
        version.trim().to_owned()
    }
}

impl Drop for Rotator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A door before the store, which can be closed: then there is no store.
struct Door {
    port: u16,
    open: watch::Sender<bool>,
    /// How many lists have been asked for.
    lists: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Door {
    async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, watched) = watch::channel(true);
        let lists = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lists);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut open, lists) = (watched.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    if !*open.borrow() {
                        return;
                    }
                    let store = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    tokio::select! {
                        () = through(client, store, &lists) => {}
                        _ = open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { port, open, lists, task }
    }
}

/// Carries everything to and fro until one of them ends, and counts the lists.
async fn through(client: TcpStream, store: TcpStream, lists: &AtomicU64) {
    const LIST: &[u8] = b"secretsmanager.ListSecrets";
    let ((mut asks, mut hears), (mut answers, mut takes)) =
        (client.into_split(), store.into_split());
    let there = async {
        let mut bytes = vec![0; 65_536];
        // The head of a request is written at once.
        while let Ok(count @ 1..) = asks.read(&mut bytes).await {
            let is_list = bytes[..count].windows(LIST.len()).any(|window| window == LIST);
            lists.fetch_add(u64::from(is_list), Ordering::Relaxed);
            if takes.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut answers, &mut hears) => {}
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A service that is under load from the start.
struct Stand {
    aws: Arc<Aws>,
    rotator: Arc<Rotator>,
    door: Door,
    service: Service,
    number: u64,
}

impl Stand {
    async fn start(aws: Aws, with_push: bool, watch_interval: Duration) -> Self {
        let door = Door::before(aws.port()).await;
        let address = format!("http://127.0.0.1:{}", door.port);
        // One secret by itself is looked at; for two, the list is what finds a change.
        let create = "client.create_secret(Name='app/db', \
                      SecretString='{\"user\": \"user-1\", \"password\": \"password-1\"}')\n\
                      client.create_secret(Name='app/other', SecretString='other')";
        aws.boto3("secretsmanager", create).unwrap();
        let mut config = Config::default();
        config.region = Some(aws.region().into());
        config.credentials_file = Some(aws.credentials_file());
        config.endpoint = Some(address.clone());
        let mut queue = String::new();
        if with_push {
            let create = "print(client.create_queue(QueueName='changes', \
                          Attributes={'VisibilityTimeout': '2'})['QueueUrl'])";
            queue = aws.boto3("sqs", create).unwrap();
            let mut push = Push::new(&queue);
            push.endpoint = Some(address);
            config.push = Some(push);
        }
        let rotator = Arc::new(Rotator::start(&aws, &queue));
        let provider = Arc::new(config.build().unwrap());
        let credential = ["aws:app/db#user", "aws:app/db#password"];
        let others = ["aws:app/other"];
        let service = Service::over(provider, watch_interval, &credential, &others).await;
        Self { aws: Arc::new(aws), rotator, door, service, number: 1 }
    }

    /// A new credential by boto3; answers with how long the service took to use it.
    async fn rotate(&mut self) -> Duration {
        self.number += 1;
        self.service.take(self.number);
        let (rotator, number) = (Arc::clone(&self.rotator), self.number);
        tokio::task::spawn_blocking(move || rotator.rotate(number)).await.unwrap();
        self.service.uses(self.number).await
    }

    async fn rotations(&mut self, count: usize) -> Vec<Duration> {
        let mut took = Vec::new();
        for _ in 0..count {
            took.push(self.rotate().await);
        }
        took
    }

    /// The same by the command line of AWS.
    async fn rotate_by_command_line(&mut self) -> Duration {
        self.number += 1;
        self.service.take(self.number);
        let (aws, number) = (Arc::clone(&self.aws), self.number);
        let put = move || {
            let value = format!(r#"{{"user":"user-{number}","password":"password-{number}"}}"#);
            let put = ["secretsmanager", "put-secret-value", "--secret-id", "app/db"];
            aws.cli(&[&put[..], &["--secret-string", &value]].concat()).unwrap()
        };
        tokio::task::spawn_blocking(put).await.unwrap();
        self.service.uses(self.number).await
    }

    /// There is no store for a while, and the credential is rotated meanwhile.
    async fn outage(&mut self) -> Duration {
        self.door.open.send_replace(false);
        sleep(Duration::from_millis(700)).await;
        self.number += 1;
        self.service.take(self.number);
        let (rotator, number) = (Arc::clone(&self.rotator), self.number);
        tokio::task::spawn_blocking(move || rotator.rotate(number)).await.unwrap();
        sleep(Duration::from_millis(700)).await;
        self.door.open.send_replace(true);
        self.service.uses(self.number).await
    }
}

fn server(kind: AwsKind) -> Option<Aws> {
    match Aws::start(kind) {
        Ok(aws) => Some(aws),
        Err(why) => {
            require(&format!("rehearsal-aws-{}", kind.name()), &why);
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_by_boto3_and_the_command_line_are_found_by_the_sweep() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some(aws) = server(kind) else { continue };
        let mut stand = Stand::start(aws, false, SWEEP).await;
        let mut took = stand.rotations(20).await;
        for _ in 0..3 {
            took.push(stand.rotate_by_command_line().await);
        }
        took.push(stand.outage().await);
        took.extend(stand.rotations(5).await);
        let lists = stand.door.lists.load(Ordering::Relaxed);
        assert!(lists >= stand.number - 1, "{lists} lists have found {} changes", stand.number - 1);
        stand.service.end(&format!("aws on {}, sweep every 300 ms", kind.name()), took).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_by_boto3_are_told_by_push() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some(aws) = server(kind) else { continue };
        let mut stand = Stand::start(aws, true, NEVER).await;
        let mut took = stand.rotations(20).await;
        // Later than all that is known by more than clocks can be apart: read by its id at once.
        sleep(Duration::from_secs(7)).await;
        took.push(stand.rotate().await);
        took.push(stand.outage().await);
        took.extend(stand.rotations(5).await);
        stand.service.end(&format!("aws on {}, push", kind.name()), took).await;
    }
}
