//! One user with two passwords for a while, as the server sees it.

use std::sync::{Arc, Mutex};

use oneiric_adapter_redis::{AclError, AclUser, dedicated};
use oneiric_core::SecretValue;
use oneiric_testkit::live::Redis as Server;
use redis::IntoConnectionInfo as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{LONG, acl, admin_address, connect_as, first, hook, rotate, server, until};

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
    let way = Way::to(&server, false).await;
    let user = way.user(&server);
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
    assert!(!way.said().contains("\r\n!"), "it was gone for a moment");

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
    assert!(way.said().contains("\r\n!"));
    assert!(!works(&server, "one").await && works(&server, &new).await);

    // The new password was said to log in with, and in no other command.
    let login = format!("AUTH\r\n$3\r\napp\r\n$64\r\n{new}\r\n");
    let said = way.said();
    assert!(said.contains("SETUSER\r\n$3\r\napp\r\n$65\r\n#"), "{said}");
    assert!(said.contains(&login), "{said}");
    assert_eq!(said.matches(&new).count(), said.matches(&login).count(), "{said}");
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

/// A way to the server that remembers what is said on it, and on which somebody else may come in
/// before a password is removed.
struct Way {
    port: u16,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Way {
    async fn to(server: &Server, latecomer: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port());
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let hears = Arc::clone(&said);
        let late = Arc::new(tokio::sync::Mutex::new(None::<TcpStream>));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (late, said) = (Arc::clone(&late), Arc::clone(&hears));
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let (mut from_server, mut to_server) = server.split();
                    let (mut from_client, mut to_client) = client.split();
                    let forth = async {
                        let mut bytes = vec![0; 4096];
                        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
                            let bytes = &bytes[..length];
                            said.lock().unwrap().extend_from_slice(bytes);
                            let removes = bytes.windows(3).any(|three| three == b"\r\n!");
                            let mut late = late.lock().await;
                            if latecomer && removes && late.is_none() {
                                *late = Some(come_in(to).await);
                            }
                            to_server.write_all(bytes).await.unwrap();
                        }
                    };
                    tokio::select! {
                        () = forth => {}
                        _ = copy(&mut from_server, &mut to_client) => {}
                    }
                });
            }
        });
        Self { port, said }
    }

    /// The user, by this way.
    fn user(&self, server: &Server) -> AclUser {
        let password = server.admin_password();
        let address = format!("redis://admin:{password}@127.0.0.1:{}", self.port);
        AclUser::new(address.into_connection_info().unwrap(), "app")
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }
}

/// Logs in with the old password.
async fn come_in(port: u16) -> TcpStream {
    let mut other = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    other.write_all(b"AUTH app one\r\n").await.unwrap();
    let mut answer = [0; 5];
    other.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n");
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_comes_in_between_keeps_its_password() {
    let Some(server) = server().await else { return };
    let next = user(&server).add().await.unwrap();
    let way = Way::to(&server, true).await;
    let error = way.user(&server).keep_only(next.password(), "2").await.unwrap_err();
    let AclError::InUse(holders) = &error else { panic!("{error}") };
    assert_eq!(holders.unknown().len(), 1, "{error}");
    assert!(works(&server, "one").await, "it could not connect anew");
}
