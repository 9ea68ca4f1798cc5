//! nginx: a certificate, its key and a password file.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::sleep;

use crate::https::{Https, Trust};
use crate::load::Counts;
use crate::nginx::{Login, Nginx, SITE, USERS};
use crate::program::Place;
use crate::rig::{Rig, begin_request, can_run, load, runs, shown_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_serves_each_new_certificate_and_drops_no_request() {
    let program = std::env::var("ONEIRIC_NGINX_BIN").unwrap_or("nginx".to_owned());
    if !can_run("recipe nginx", runs(&program, "-v").and_then(|()| runs("openssl", "version"))) {
        return;
    }
    let place = Place::new().unwrap();
    let nginx = Nginx::install(&place).unwrap();
    let (first, second) = (Login::new("first").await.unwrap(), Login::new("second").await.unwrap());
    let adapter = nginx.adapter().unwrap();
    let mut rig = Rig::start(place, &adapter, SITE, &[(USERS, &first.line)]).await;
    let users = nginx.path("/etc/nginx/secrets/users");
    rig.rendered(&users).await;
    let server = nginx.start().await.unwrap();
    rig.taken_over().await;

    for (file, mode) in [("site.crt", 0o644), ("site.key", 0o600), ("users", 0o640)] {
        let facts = fs::metadata(users.with_file_name(file)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o7777, mode, "{file}");
    }
    assert_ne!(fs::metadata(&users).unwrap().gid(), 0, "the workers' group");

    let address = nginx.address;
    let running = load(|number, counts| {
        client(
            counts,
            Https::new(rig.trust.clone(), address),
            first.header.clone(),
            number % 2 == 1,
        )
    });
    rig.rotate(&running, |trust| shown_at(trust, address)).await;
    let request = begin_request(&rig.trust, address).await;
    rig.waits(&running, || drop(request)).await;

    // A second login beside the first, and then the second alone.
    let mut somebody = Https::new(rig.trust.clone(), address);
    assert_eq!(somebody.get_once(Some(&second.header)).await, Ok(401));
    assert_eq!(somebody.get_once(None).await, Ok(401));
    rig.operator.store(USERS, &format!("{}{}", first.line, second.line)).unwrap();
    rig.operator.rotate(USERS).await.unwrap();
    assert_eq!(somebody.get_once(Some(&second.header)).await, Ok(200));
    for bad in ["third:in the clear\n", "third:{PLAIN}word\n", "third\n"] {
        rig.operator.store(USERS, &format!("{}{bad}", first.line)).unwrap();
        let attempt = rig.operator.attempt(USERS, None).await.unwrap();
        assert_eq!(attempt.exit_code, Some(3), "{bad:?}: {}", attempt.said);
        assert_eq!(somebody.get_once(Some(&second.header)).await, Ok(200));
    }
    let trust = rig.trust.clone();
    only_then_the_first_is_refused(rig, running, trust, &nginx, &first, &second).await;
    server.stop().await.unwrap();
}

/// The clients of the first login have ended before it is taken away.
async fn only_then_the_first_is_refused(
    mut rig: Rig,
    running: crate::load::Load,
    trust: Trust,
    nginx: &Nginx,
    first: &Login,
    second: &Login,
) {
    let (requests, failed, failures) = running.stop().await.unwrap();
    assert_eq!(failed, 0, "of {requests}: {failures:?}");
    rig.operator.store(USERS, &second.line).unwrap();
    rig.operator.rotate(USERS).await.unwrap();
    let mut somebody = Https::new(trust, nginx.address);
    assert_eq!(somebody.get_once(Some(&first.header)).await, Ok(401));
    assert_eq!(somebody.get_once(Some(&second.header)).await, Ok(200));
    rig.finish(crate::load::Load::start(0, |_| async {})).await;
}

/// One that connects for each request, or one that keeps its connection.
async fn client(counts: Arc<Counts>, mut client: Https, login: HeaderValue, keeps: bool) {
    while counts.goes_on() {
        let answer = match keeps {
            true => client.get(Some(&login)).await,
            false => client.get_once(Some(&login)).await,
        };
        counts.count(match answer {
            Ok(200) => Ok(()),
            Ok(status) => Err(format!("the answer was {status}")),
            Err(error) => Err(error),
        });
        sleep(Duration::from_millis(2)).await;
    }
}
