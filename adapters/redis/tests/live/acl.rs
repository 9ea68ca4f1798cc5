//! One user with two passwords for a while, as the server sees it.

use std::sync::Arc;

use oneiric_adapter_redis::{AclError, AclUser, dedicated};
use oneiric_core::SecretValue;
use oneiric_testkit::live::Redis as Server;
use redis::IntoConnectionInfo as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{
    LONG, acl, admin_address, ask, connect_as, first, hook, rotate, server, until,
};

fn user(server: &Server) -> AclUser {
    AclUser::new(admin_address(server), "app")
}

async fn works(server: &Server, password: &str) -> bool {
    match connect_as(server, "app", password).await {
        Ok(_) => true,
        Err(error) if error.code() == Some("WRONGPASS") || error.kind() == AUTH => false,
        Err(error) => panic!("{error}"),
    }
}
const AUTH: redis::ErrorKind = redis::ErrorKind::AuthenticationFailed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_two_passwords_until_nobody_needs_the_old_one() {
    let Some(mut server) = server().await else { return };
    ask::<()>(&server, redis::cmd("CONFIG").arg("SET").arg(&["slowlog-log-slower-than", "0"]))
        .await;
    let user = user(&server);
    let hook = hook(&server);
    let managed = first(&hook).await;
    let waiting = dedicated(&managed).await.unwrap();

    let next = user.add().await.unwrap();
    let new = next.password().expose_str().unwrap().to_owned();
    assert!(works(&server, "one").await && works(&server, &new).await);
    assert_eq!(user.add().await.unwrap_err(), AclError::Unfinished { passwords: 2 });

    // Two of ours are known by the old one, and somebody else does not say.
    let other = connect_as(&server, "app", "one").await.unwrap();
    until(&server, "app", |clients| clients.len() == 3).await;
    let error = user.keep_only(next.password(), "2").await.unwrap_err();
    let AclError::InUse(holders) = &error else { panic!("{error}") };
    let count = [holders.moved(), holders.old(), holders.unknown()].map(<[_]>::len);
    assert_eq!(count, [0, 2, 1], "{error}");
    assert!(holders.old().iter().any(|client| client.id() == waiting.id()), "{error}");
    assert!(works(&server, "one").await);

    rotate(&hook, &new, 2, LONG).await;
    until(&server, "app", |clients| clients.len() == 3).await;
    let error = user.keep_only(next.password(), "2").await.unwrap_err();
    let AclError::InUse(holders) = &error else { panic!("{error}") };
    let count = [holders.moved(), holders.old(), holders.unknown()].map(<[_]>::len);
    assert_eq!(count, [2, 0, 1], "{error}");
    assert_eq!(holders.unknown()[0].name(), "");

    drop(other);
    until(&server, "app", |clients| clients.len() == 2).await;
    let holders = user.keep_only(next.password(), "2").await.unwrap();
    assert_eq!((holders.moved().len(), holders.is_clear()), (2, true));
    assert!(!works(&server, "one").await && works(&server, &new).await);

    // No password was in a command.
    let log: redis::Value = ask(&server, redis::cmd("SLOWLOG").arg(&["GET", "-1"])).await;
    let log = format!("{log:?}");
    assert!(log.contains("SETUSER") && !log.contains(&new), "{log}");
    assert!(!format!("{user:?} {next:?}").contains(server.admin_password()));

    // It is known after a restart if it was saved.
    user.save().await.unwrap();
    tokio::task::block_in_place(|| server.start_again()).unwrap();
    assert!(!works(&server, "one").await && works(&server, &new).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_rotated_is_said_and_left_alone() {
    let Some(server) = server().await else { return };
    let kept = |password: &str| SecretValue::from(password);
    let error = user(&server).keep_only(&kept("wrong"), "2").await.unwrap_err();
    assert_eq!(error, AclError::NotAccepted { user: "app".into() });
    assert!(works(&server, "one").await, "everybody would have been locked out");
    assert_eq!(
        user(&server).check(&kept("wrong")).await,
        Err(AclError::NotAccepted { user: "app".into() })
    );
    user(&server).check(&kept("one")).await.unwrap();

    let nobody = AclUser::new(admin_address(&server), "nobody");
    assert_eq!(nobody.add().await.unwrap_err(), AclError::Unknown { user: "nobody".into() });

    // A first password would lock out all who come without.
    acl(&server, &["open", "on", "nopass", "~*", "+@all"]).await;
    let open = AclUser::new(admin_address(&server), "open");
    assert_eq!(open.add().await.unwrap_err(), AclError::AnyPassword { user: "open".into() });
    let address = format!("redis://open:any@127.0.0.1:{}", server.port());
    crate::server::connect(address.into_connection_info().unwrap()).await.unwrap();

    // Where the user is turned off, the new password is taken back.
    acl(&server, &["app", "off"]).await;
    let error = user(&server).add().await.unwrap_err();
    assert_eq!(error, AclError::NotAccepted { user: "app".into() });
    acl(&server, &["app", "on"]).await;
    assert!(user(&server).add().await.is_ok());

    acl(&server, &["few", "on", ">few", "~*", "+get"]).await;
    let address = format!("redis://few:few@127.0.0.1:{}", server.port());
    let few = AclUser::new(address.into_connection_info().unwrap(), "app");
    let error = few.add().await.unwrap_err();
    assert_eq!(error, AclError::Server("it answered with NOPERM".into()));
}

/// A way to the server on which somebody else comes in before a password is removed.
async fn with_a_latecomer(server: &Server) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), server.port());
    let late = Arc::new(tokio::sync::Mutex::new(None::<TcpStream>));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let late = Arc::clone(&late);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let (mut from_server, mut to_server) = server.split();
                let (mut from_client, mut to_client) = client.split();
                let forth = async {
                    let mut bytes = vec![0; 4096];
                    loop {
                        let length = from_client.read(&mut bytes).await.unwrap_or(0);
                        let removes = bytes[..length].windows(3).any(|three| three == b"\r\n!");
                        let mut late = late.lock().await;
                        if removes && late.is_none() {
                            let mut other = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                            other.write_all(b"AUTH app one\r\n").await.unwrap();
                            let mut answer = [0; 5];
                            other.read_exact(&mut answer).await.unwrap();
                            assert_eq!(&answer, b"+OK\r\n");
                            *late = Some(other);
                        }
                        if length == 0 || to_server.write_all(&bytes[..length]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = forth => {}
                    _ = copy(&mut from_server, &mut to_client) => {}
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_comes_in_between_keeps_its_password() {
    let Some(server) = server().await else { return };
    let next = user(&server).add().await.unwrap();
    let port = with_a_latecomer(&server).await;
    let address = format!("redis://admin:{}@127.0.0.1:{port}", server.admin_password());
    let through = AclUser::new(address.into_connection_info().unwrap(), "app");
    let error = through.keep_only(next.password(), "2").await.unwrap_err();
    let AclError::InUse(holders) = &error else { panic!("{error}") };
    assert_eq!(holders.unknown().len(), 1, "{error}");
    assert!(works(&server, "one").await, "it could not connect anew");
}
