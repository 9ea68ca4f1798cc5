//! The server, its user `app`, and an adapter of it.

use std::time::Duration;

use oneiric_adapter_redis::{Redis, RedisConnection, acquire};
use oneiric_core::{
    DrainReport, LifecycleHook as _, Managed, ManagedHook, SecretRef, SecretSet, SecretValue,
    Version,
};
use oneiric_testkit::live::{Redis as Server, require};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

/// Longer than anything takes that is not waited for.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// A drain deadline that is meant to pass.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// The server with a user `app` whose password is `one`, or `None` with a loud word where it cannot
/// be had.
pub(crate) async fn server() -> Option<Server> {
    let server = match block_in_place(Server::start) {
        Ok(server) => server,
        Err(why) => {
            require("redis", &why);
            return None;
        }
    };
    acl(&server, &["app", "on", ">one", "~*", "&*", "+@all"]).await;
    Some(server)
}

pub(crate) fn admin_address(server: &Server) -> ConnectionInfo {
    let password = server.admin_password();
    format!("redis://admin:{password}@127.0.0.1:{}", server.port()).into_connection_info().unwrap()
}

/// A connection of somebody else.
pub(crate) async fn connect(address: ConnectionInfo) -> redis::RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(address).unwrap();
    client.get_multiplexed_async_connection_with_config(&patient()).await
}

pub(crate) async fn connect_as(
    server: &Server,
    user: &str,
    password: &str,
) -> redis::RedisResult<MultiplexedConnection> {
    let address = format!("redis://{user}:{password}@127.0.0.1:{}", server.port());
    connect(address.into_connection_info().unwrap()).await
}

pub(crate) fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(LONG)).set_response_timeout(Some(LONG))
}

pub(crate) async fn ask<T: FromRedisValue>(server: &Server, command: &Cmd) -> T {
    let mut admin = connect(admin_address(server)).await.unwrap();
    command.query_async(&mut admin).await.unwrap()
}

/// `ACL SETUSER`.
pub(crate) async fn acl(server: &Server, rules: &[&str]) {
    ask::<()>(server, redis::cmd("ACL").arg("SETUSER").arg(rules)).await;
}

/// The lines of `CLIENT LIST` about a user.
pub(crate) async fn clients(server: &Server, user: &str) -> Vec<String> {
    let list: String = ask(server, redis::cmd("CLIENT").arg("LIST")).await;
    let user = format!(" user={user} ");
    list.lines().filter(|line| line.contains(&user)).map(str::to_owned).collect()
}

/// Waits until the connections of a user are those that it may have: the server forgets one a
/// moment after its client has closed it.
pub(crate) async fn until(server: &Server, user: &str, holds: impl Fn(&[String]) -> bool) {
    let give_up = Instant::now() + LONG;
    loop {
        let clients = clients(server, user).await;
        if holds(&clients) {
            return;
        }
        assert!(Instant::now() < give_up, "there are {clients:#?}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn password() -> SecretRef {
    "files:redis".parse().unwrap()
}

pub(crate) fn secret(value: &str, version: u64) -> SecretSet {
    SecretSet::new([(password(), SecretValue::from(value), Version::numbered(version))])
}

pub(crate) fn connection(port: u16, user: &str) -> RedisConnection {
    let address = format!("redis://{user}@127.0.0.1:{port}").into_connection_info().unwrap();
    RedisConnection::new(address, password()).connection_config(patient())
}

pub(crate) fn hook(server: &Server) -> ManagedHook<Redis> {
    connection(server.port(), "app").into_hook("cache".parse().unwrap())
}

pub(crate) async fn first(hook: &ManagedHook<Redis>) -> Managed<Redis> {
    rotate(hook, "one", 1, Duration::ZERO).await;
    hook.managed().unwrap()
}

pub(crate) async fn rotate(
    hook: &ManagedHook<Redis>,
    value: &str,
    version: u64,
    patience: Duration,
) -> DrainReport {
    let retired = hook.prepare(&secret(value, version)).await.unwrap().commit();
    retired.drain(Instant::now() + patience).await
}

/// Does a unit of work: who the server takes us for.
pub(crate) async fn whoami(redis: &Managed<Redis>) -> redis::RedisResult<String> {
    let mut lease = acquire(redis).await?;
    redis::cmd("ACL").arg("WHOAMI").query_async(&mut lease).await
}
