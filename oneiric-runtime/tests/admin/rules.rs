//! Who is answered: forged requests, rights, and what the refused learn.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use oneiric_core::ErrorKind;
use oneiric_runtime::admin::AdminOptions;
use oneiric_testkit::scan_for_canary;

use crate::support::{
    ADMIN_TOKEN, Ask, READ_TOKEN, Rig, WRONG_TOKEN, bind, logs, options_in, token_file,
};

const NOT_FOUND: &str = r#"{"error":"not found"}"#;

#[tokio::test]
async fn a_request_that_could_be_forged_is_refused_on_both_transports() {
    let rig = Rig::start();
    let good = Ask::get("/v1/status").bearing(ADMIN_TOKEN);
    for endpoint in [&rig.unix, &rig.tcp] {
        assert_eq!(good.send(endpoint).await.status, 200);
        for host in ["127.0.0.1:7676", "[::1]", "LocalHost:1"] {
            let ask = good.clone().without("host").with("host", host);
            assert_eq!(ask.send(endpoint).await.status, 200, "{host}");
        }
        for (ask, why) in [
            (good.clone().without("x-oneiric-request"), "`x-oneiric-request: 1` is missing"),
            (
                good.clone().without("x-oneiric-request").with("x-oneiric-request", "true"),
                "`x-oneiric-request: 1` is missing",
            ),
            (good.clone().with("x-forwarded-for", "127.0.0.1"), "through a proxy"),
            (good.clone().with("Forwarded", "for=127.0.0.1"), "through a proxy"),
            (good.clone().with("VIA", "1.1 proxy"), "through a proxy"),
            (good.clone().without("host").with("host", "evil.example"), "host is not allowed"),
            (good.clone().without("host").with("host", "localhost.evil.example"), "not allowed"),
            (good.clone().with("host", "localhost"), "host is not allowed"),
            (good.clone().without("host"), "host is not allowed"),
            (Ask::get("http://localhost/v1/status").bearing(ADMIN_TOKEN), "meant for a proxy"),
        ] {
            let answer = ask.send(endpoint).await;
            assert_eq!(answer.status, 403, "{}", ask.text());
            assert!(answer.body.contains(why), "{}", answer.body);
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn over_tcp_the_token_decides() {
    let rig = Rig::start();
    rig.store.put("db", "first");
    let rotate = Ask::rotate(r#"{"all":true}"#);
    for (ask, token, status) in [
        (&Ask::get("/v1/status"), ADMIN_TOKEN, 200),
        (&Ask::get("/v1/status"), READ_TOKEN, 200),
        (&Ask::get("/v1/status"), WRONG_TOKEN, 404),
        (&Ask::get("/v1/health/live"), READ_TOKEN, 200),
        (&Ask::get("/v1/health/live"), WRONG_TOKEN, 404),
        (&Ask::get("/v1/events"), WRONG_TOKEN, 404),
        (&rotate, ADMIN_TOKEN, 200),
        (&rotate, READ_TOKEN, 404),
        (&rotate, WRONG_TOKEN, 404),
    ] {
        let answer = ask.clone().bearing(token).send(&rig.tcp).await;
        assert_eq!(answer.status, status, "{token}: {}", ask.text());
    }
    rig.stop().await;
}

#[tokio::test]
async fn the_refused_learn_nothing() {
    let rig = Rig::start();
    let expected = Ask::get("/v1/status").send(&rig.tcp).await;
    assert_eq!((expected.status, expected.body.as_str()), (404, NOT_FOUND));
    let authorised = Ask::get("/no/such/route").bearing(ADMIN_TOKEN);
    for ask in [
        Ask::get("/no/such/route"),
        Ask::get("/v1/status").bearing(WRONG_TOKEN),
        Ask::get("/v1/status").with("authorization", &format!("Basic {ADMIN_TOKEN}")),
        Ask::get("/v1/status").bearing(ADMIN_TOKEN).bearing(ADMIN_TOKEN),
        Ask::new("DELETE", "/v1/status"),
        Ask::new("DELETE", "/v1/status").bearing(READ_TOKEN),
        Ask::get("/v1/rotate").bearing(READ_TOKEN),
        Ask::rotate(r#"{"provider":"mem","keys":["db"]}"#).bearing(READ_TOKEN),
        Ask::rotate(r#"{"provider":"mem","keys":["no-such"]}"#).bearing(READ_TOKEN),
        Ask::rotate("not even JSON").bearing(READ_TOKEN),
        Ask::rotate("not even JSON"),
        authorised,
    ] {
        assert_eq!(ask.send(&rig.tcp).await, expected, "{}", ask.text());
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_token_that_is_replaced_counts_from_the_next_request() {
    let rig = Rig::start();
    let status = |token: &'static str| {
        let ask = Ask::get("/v1/status").bearing(token);
        let endpoint = rig.tcp.clone();
        async move { ask.send(&endpoint).await.status }
    };
    assert_eq!((status(ADMIN_TOKEN).await, status(WRONG_TOKEN).await), (200, 404));
    let path = token_file(rig.home.path(), "admin.token", WRONG_TOKEN);
    assert_eq!((status(ADMIN_TOKEN).await, status(WRONG_TOKEN).await), (404, 200));
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert_eq!((status(WRONG_TOKEN).await, status(READ_TOKEN).await), (404, 200));
    fs::remove_file(&path).unwrap();
    assert_eq!((status(WRONG_TOKEN).await, status(READ_TOKEN).await), (404, 200));
    rig.stop().await;
}

#[tokio::test]
async fn tcp_is_bound_on_a_loopback_address_with_a_token_of_ones_own_only() {
    let home = tempfile::tempdir().unwrap();
    let refused = |adapt: &dyn Fn(&mut AdminOptions)| {
        let mut options = options_in(home.path());
        adapt(&mut options);
        let error = bind(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.chain()
    };
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        let error = refused(&|options| options.listen = Some(address.parse().unwrap()));
        assert!(error.contains(address) && error.contains("loopback"), "{error}");
    }
    let error = refused(&|options| options.token_file = None);
    assert!(error.contains("without a token file"), "{error}");
    let short = token_file(home.path(), "short.token", "0123456789abcde");
    let error = refused(&|options| options.token_file = Some(short.clone()));
    assert!(error.contains("short.token") && error.contains("less than 16"), "{error}");
    let open = token_file(home.path(), "open.token", READ_TOKEN);
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let error = refused(&|options| options.read_token_file = Some(open.clone()));
    assert!(error.contains("open.token") && error.contains("mode 0644"), "{error}");
    bind(options_in(home.path())).unwrap();
}

#[tokio::test]
async fn the_log_tells_who_asked_and_shows_neither_token_nor_secret() {
    const SECRET: &str = "c4nary-s3cret-b7e41d09aa";
    logs();
    let rig = Rig::start();
    let (_pool, gate) = rig.gated().await;
    rig.store.put("db", SECRET);
    gate.send_replace(true);
    let rotate = Ask::rotate(r#"{"provider":"mem","keys":["db"]}"#);
    let answer = rotate.clone().bearing(ADMIN_TOKEN).send(&rig.tcp).await;
    assert!(answer.body.contains(r#""outcome":"done""#), "{}", answer.body);
    for ask in [
        rotate.clone().bearing(WRONG_TOKEN),
        rotate.clone().bearing(READ_TOKEN),
        rotate.clone().bearing(ADMIN_TOKEN).with("via", SECRET),
        rotate.clone().bearing(ADMIN_TOKEN).without("host").with("host", SECRET),
    ] {
        assert_ne!(ask.send(&rig.tcp).await.status, 200);
    }
    let answer = Ask::get("/v1/status").send(&rig.unix).await;
    assert!(scan_for_canary(&answer.body, SECRET).is_none(), "{}", answer.body);
    rig.stop().await;
    let logs = logs();
    let text = String::from_utf8_lossy(&logs);
    for part in ["a rotation is asked for", "peer=tcp", "[db]", "the token is wrong"] {
        assert!(text.contains(part), "{part}");
    }
    for canary in [ADMIN_TOKEN, READ_TOKEN, WRONG_TOKEN, SECRET] {
        assert_eq!(scan_for_canary(&logs, canary), None);
    }
}
