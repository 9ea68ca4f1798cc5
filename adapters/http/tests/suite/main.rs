//! The suite for adapters, on a server that knows tokens.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oneiric_adapter_http::HttpCredential;
use oneiric_core::{
    HookError, LifecycleHook, ManagedGuard, ManagedHook, SecretRef, SecretSet, SecretValue, Version,
};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
    adapter_conformance,
};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use server::Server;

type Http = Client<HttpConnector, Empty<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Sends one request, and answers with its status and the number that the server saw.
async fn ask(
    http: &Http,
    server: &Server,
    path: &str,
    credential: &HttpCredential,
) -> Result<(StatusCode, u64), String> {
    let url = format!("http://{}{path}", server.address);
    let mut request = Request::get(url).body(Empty::new()).unwrap();
    credential.add_to(request.headers_mut());
    let response = http.request(request).await.map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    let number = std::str::from_utf8(&body.to_bytes()).unwrap().parse().unwrap();
    Ok((status, number))
}

fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

struct HttpRig {
    server: Arc<Server>,
    count: Arc<AtomicU64>,
}

#[async_trait]
impl AdapterRig for HttpRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let server = Arc::clone(&self.server);
        let hook = HttpCredential::bearer("api".parse().unwrap(), token());
        let hook = hook.prove(move |credential| {
            let server = Arc::clone(&server);
            async move {
                match ask(&client(), &server, "/", &credential).await {
                    Ok((StatusCode::OK, _)) => Ok(()),
                    Ok((StatusCode::UNAUTHORIZED, _)) => {
                        Err(HookError::refused("the server does not accept the token"))
                    }
                    Ok((status, _)) => Err(HookError::failed(format!("it says {status}"))),
                    Err(error) => Err(HookError::failed("it could not be asked").caused_by(error)),
                }
            }
        });
        let (server, count) = (Arc::clone(&self.server), Arc::clone(&self.count));
        Box::new(InUse { hook: Arc::new(hook), server, http: client(), count })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let middle = if kind == Credential::Malformed { "\r\n" } else { "." };
        let value = format!("{count}{middle}{canary}");
        let number = self.server.learn(&value, kind == Credential::Accepted);
        let part = (token(), SecretValue::from(value), Version::numbered(number));
        Ok(Minted::new(number, SecretSet::new([part])))
    }

    async fn revoke(&self, number: u64) -> Ability {
        self.server.revoke(number);
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        Ok(self.server.uses(number))
    }

    async fn shown(&self, number: u64) -> Result<u64, String> {
        Ok(self.server.shown(number))
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        self.server.play(Some(fault));
        Ability::Done
    }

    async fn mend(&self) {
        self.server.play(None);
    }

    fn has(&self, _habit: Habit) -> Ability {
        Ability::Done
    }
}

struct InUse {
    hook: Arc<ManagedHook<HttpCredential>>,
    server: Arc<Server>,
    http: Http,
    /// No two requests of a rig that last have the same path.
    count: Arc<AtomicU64>,
}

impl InUse {
    fn load(&self) -> ManagedGuard<HttpCredential> {
        self.hook.managed().expect("the suite works with what was committed").load()
    }
}

#[async_trait]
impl AdapterInUse for InUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        let credential = self.load();
        match ask(&self.http, &self.server, "/", &credential).await? {
            (StatusCode::OK, number) => Ok(number),
            (status, _) => {
                if status == StatusCode::UNAUTHORIZED {
                    credential.report_refused();
                }
                Err(status.to_string())
            }
        }
    }

    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        let path = format!("/long/{}", self.count.fetch_add(1, Ordering::Relaxed));
        let (credential, http, server) = (self.load(), self.http.clone(), self.server.clone());
        let asked = path.clone();
        let work = tokio::spawn(async move {
            let cut_off = async {
                match manner {
                    Manner::Yielding => credential.cut_off().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = ask(&http, &server, &asked, &credential) => answer.map(|(_, number)| number),
                () = cut_off => Err("it was cut off".to_owned()),
            }
        });
        while !self.server.is_under_way(&path) {
            assert!(!work.is_finished(), "a request of a user came to nothing");
            sleep(Duration::from_millis(1)).await;
        }
        Ok(Box::new(Long { work, path, server: Arc::clone(&self.server) }))
    }
}

struct Long {
    work: JoinHandle<Result<u64, String>>,
    path: String,
    server: Arc<Server>,
}

#[async_trait]
impl LongWork for Long {
    async fn finish(mut self: Box<Self>) -> Result<u64, String> {
        self.server.release(&self.path);
        (&mut self.work).await.expect("a user does not panic")
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.work.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_with_nothing_left_out() {
    let rig = HttpRig { server: Server::start().await, count: Arc::default() };
    let report = adapter_conformance(&rig).await;
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0]);
}
