//! A program that knows nothing: it carries the lines between its own standard input and output
//! and a socket of the test that started it. The test is the program.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let socket = UnixStream::connect(path)?;
    let mut there = socket.try_clone()?;
    thread::spawn(move || {
        // Whatever ends it, the other end hears that there is no more.
        let _ = carry(&mut io::stdin().lock(), &mut there);
        there.shutdown(Shutdown::Write)
    });
    carry(&mut &socket, &mut io::stdout().lock())
}

fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = [0; 64 * 1024];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length])?;
        to.flush()?;
    }
}
