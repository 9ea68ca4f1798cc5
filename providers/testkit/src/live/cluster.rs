//! A private cluster of OpenBao: three nodes that replicate by raft, each of which can be killed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::openbao::{clean, find};
use super::{Folder, PATIENCE, cannot, free_port, random_hex, run, write_private};

const NODES: usize = 3;
/// How long a node may take to tell of its health.
const HEALTH: Duration = Duration::from_secs(1);

/// Three nodes on free ports of 127.0.0.1, without TLS, with KV version 2 at `secret/`. They unseal
/// themselves with a key of their own.
///
/// Dropping it stops them and forgets everything, so keep it in the test and not in a `static`.
#[derive(Debug)]
pub struct OpenBaoCluster {
    nodes: Vec<Node>,
    program: PathBuf,
    root_token: String,
    folder: Folder,
}

#[derive(Debug)]
struct Node {
    server: Option<Child>,
    port: u16,
    cluster_port: u16,
}

impl OpenBaoCluster {
    /// Starts the nodes and waits until each has a vote. Blocks for some ten seconds.
    ///
    /// # Errors
    /// Why it cannot be had, in one sentence, for [`require`](super::require).
    pub fn start() -> Result<Self, String> {
        let (program, folder) = (find()?, Folder::create("bao")?);
        // 32 bytes, written as text.
        let key = format!("{}{}", random_hex()?, random_hex()?);
        write_private(&folder.0.join("seal"), key.as_bytes())?;
        let node = |_| Ok(Node { server: None, port: free_port()?, cluster_port: free_port()? });
        let nodes = (0..NODES).map(node).collect::<Result<Vec<_>, String>>()?;
        let mut cluster = Self { nodes, program, root_token: String::new(), folder };
        for node in 0..NODES {
            cluster.configure(node)?;
        }
        cluster.start_node(0)?;
        let shares = ["operator", "init", "-recovery-shares=1", "-recovery-threshold=1"];
        let printed = cluster.until(|cluster| cluster.bao(0, &shares))?;
        let token = printed.lines().find_map(|line| line.strip_prefix("Initial Root Token: "));
        cluster.root_token =
            token.ok_or("there is no root token in what it printed")?.trim().into();
        cluster.until(|cluster| match cluster.leader() {
            Some(0) => Ok(()),
            _ => Err("the first node does not lead".into()),
        })?;
        let stable = ["operator", "raft", "autopilot", "set-config"];
        let soon = ["-server-stabilization-time=1s"];
        cluster.until(|cluster| cluster.bao(0, &[&stable[..], &soon].concat()))?;
        cluster.bao(0, &["secrets", "enable", "-path=secret", "-version=2", "kv"])?;
        for node in 1..NODES {
            cluster.start_node(node)?;
        }
        cluster.until(|cluster| {
            let peers = cluster.bao(0, &["operator", "raft", "list-peers"])?;
            let votes = peers.lines().filter(|line| line.trim_end().ends_with("true")).count();
            let ready = (0..NODES).all(|node| cluster.takes_part(node));
            if votes == NODES && ready { Ok(()) } else { Err(format!("not all vote:\n{peers}")) }
        })?;
        Ok(cluster)
    }

    /// Where a node is, as a URL.
    pub fn address(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[node].port)
    }

    /// Where all are.
    pub fn addresses(&self) -> Vec<String> {
        (0..NODES).map(|node| self.address(node)).collect()
    }

    /// The token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The node that leads, if one does by its own word.
    pub fn leader(&self) -> Option<usize> {
        (0..NODES).find(|node| self.health(*node) == Some(200))
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut server) = self.nodes[node].server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts a node that was killed again, with what it knew.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn restart(&mut self, node: usize) -> Result<(), String> {
        self.start_node(node)?;
        self.until(|cluster| match cluster.takes_part(node) {
            true => Ok(()),
            false => Err("it takes no part yet".into()),
        })
    }

    /// Runs the command line of OpenBao with the root token against one node, and answers with
    /// what it printed.
    ///
    /// # Errors
    /// What it printed when it failed.
    pub fn bao(&self, node: usize, arguments: &[&str]) -> Result<String, String> {
        let mut command = clean(&self.program);
        command
            .args(arguments)
            .env("BAO_ADDR", self.address(node))
            .env("BAO_TOKEN", &self.root_token)
            .env("BAO_MAX_RETRIES", "0")
            .env("HOME", &self.folder.0);
        let output = run(command, b"")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// What a node says of its health, as a status: 200 leads, 429 stands by.
    fn health(&self, node: usize) -> Option<u16> {
        self.nodes[node].server.as_ref()?;
        let address = (Ipv4Addr::LOCALHOST, self.nodes[node].port).into();
        let mut stream = TcpStream::connect_timeout(&address, HEALTH).ok()?;
        stream.set_read_timeout(Some(HEALTH)).ok()?;
        stream.write_all(b"GET /v1/sys/health HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).ok()?;
        std::str::from_utf8(&head[9..]).ok()?.parse().ok()
    }

    fn takes_part(&self, node: usize) -> bool {
        matches!(self.health(node), Some(200 | 429))
    }

    fn file(&self, node: usize, name: &str) -> PathBuf {
        self.folder.0.join(format!("{node}.{name}"))
    }

    fn configure(&self, node: usize) -> Result<(), String> {
        let data = self.file(node, "data");
        fs::create_dir(&data).map_err(|error| cannot("create", &data, &error))?;
        let Node { port, cluster_port, .. } = self.nodes[node];
        let others = (0..NODES).filter(|other| *other != node);
        let join: String = others
            .map(|other| {
                format!("retry_join {{ leader_api_addr = \"{}\" }}\n", self.address(other))
            })
            .collect();
        let text = format!(
            "ui = false\n\
             api_addr = \"{}\"\n\
             cluster_addr = \"https://127.0.0.1:{cluster_port}\"\n\
             storage \"raft\" {{\npath = \"{}\"\nnode_id = \"node-{node}\"\n\
             performance_multiplier = 1\n{join}}}\n\
             listener \"tcp\" {{\naddress = \"127.0.0.1:{port}\"\n\
             cluster_address = \"127.0.0.1:{cluster_port}\"\ntls_disable = true\n}}\n\
             seal \"static\" {{\ncurrent_key_id = \"test\"\ncurrent_key = \"file://{}\"\n}}\n",
            self.address(node),
            data.display(),
            self.folder.0.join("seal").display(),
        );
        write_private(&self.file(node, "hcl"), text.as_bytes())
    }

    fn start_node(&mut self, node: usize) -> Result<(), String> {
        let log = self.file(node, "log");
        let out = File::create(&log).map_err(|error| cannot("create", &log, &error))?;
        let errors = out.try_clone().map_err(|error| cannot("share", &log, &error))?;
        let mut command = clean(&self.program);
        command.arg("server").arg("-config").arg(self.file(node, "hcl"));
        command.env("HOME", &self.folder.0).current_dir(&self.folder.0);
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        let server = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
        self.nodes[node].server = Some(server);
        Ok(())
    }

    /// Tries until it succeeds, or a node has ended.
    fn until<T>(&mut self, attempt: impl Fn(&Self) -> Result<T, String>) -> Result<T, String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let failed = match attempt(self) {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            for node in 0..NODES {
                let log = self.file(node, "log");
                let server = self.nodes[node].server.as_mut();
                if let Some(Ok(Some(status))) = server.map(Child::try_wait) {
                    let said = last_lines(&log);
                    return Err(format!("node {node} ended with {status}: {said}"));
                }
            }
            if Instant::now() > give_up {
                return Err(format!("it was not so after {} s: {failed}", PATIENCE.as_secs()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for OpenBaoCluster {
    fn drop(&mut self) {
        (0..NODES).for_each(|node| self.kill(node));
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_cluster_elects_another_leader_and_leaves_nothing_behind() {
        let mut cluster = match OpenBaoCluster::start() {
            Ok(cluster) => cluster,
            Err(why) => return crate::live::require("openbao-cluster", &why),
        };
        let first = cluster.leader().unwrap();
        let other = (first + 1) % NODES;
        cluster.bao(other, &["kv", "put", "secret/a", "value=x"]).unwrap();
        cluster.kill(first);
        let second = cluster
            .until(|cluster| cluster.leader().ok_or_else(|| "there is no leader".into()))
            .unwrap();
        assert_ne!(first, second);
        cluster
            .until(|cluster| cluster.bao(second, &["kv", "put", "secret/a", "value=y"]))
            .unwrap();
        cluster.restart(first).unwrap();
        let read = ["kv", "get", "-field=value", "secret/a"];
        // A standby answers reads by itself, so what it has not caught up with it answers as of old.
        let caught_up = cluster.until(|cluster| match cluster.bao(first, &read)? {
            new if new == "y" => Ok(()),
            old => Err(format!("it answers {old}")),
        });
        assert_eq!(caught_up, Ok(()));
        let folder = cluster.folder.0.clone();
        drop(cluster);
        assert!(!folder.exists());
    }
}
