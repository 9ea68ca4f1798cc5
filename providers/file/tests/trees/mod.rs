//! Trees of secrets in a temporary directory, and the ways in which they are changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// One file per secret, each replaced by a rename.
pub(crate) struct Plain {
    base: TempDir,
    count: AtomicUsize,
}

impl Plain {
    pub(crate) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("root")).unwrap();
        Self { base, count: AtomicUsize::new(0) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    pub(crate) fn replace(&self, key: &str, value: &[u8]) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let new = self.root().join(format!(".new-{number}"));
        write(&new, value);
        fs::rename(new, self.root().join(key)).unwrap();
    }
}

/// A directory as the kubelet writes it: files in a directory of their own, a `..data` link to it
/// that is swapped by a rename, and a link per file that leads through it.
pub(crate) struct Mount {
    base: TempDir,
    count: AtomicUsize,
}

impl Mount {
    pub(crate) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("root")).unwrap();
        Self { base, count: AtomicUsize::new(0) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    /// Replaces everything, in the order in which the kubelet does it.
    pub(crate) fn swap(&self, files: &[(&str, &[u8])]) {
        let root = self.root();
        let old = fs::read_link(root.join("..data")).ok();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let target = format!("..2026_11_24_00_00_00.{number:09}");
        fs::create_dir(root.join(&target)).unwrap();
        for (name, value) in files {
            write(&root.join(&target).join(name), value);
        }
        symlink(&target, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        for (name, _) in files {
            let link = root.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        for entry in fs::read_dir(&root).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.starts_with("..") && !files.iter().any(|(kept, _)| *kept == name) {
                fs::remove_file(path).unwrap();
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(root.join(old)).unwrap();
        }
    }
}

fn write(path: &Path, value: &[u8]) {
    fs::write(path, value).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs something as a user who may not do everything: as root on threads of another user.
pub(crate) fn unprivileged<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    let run = move || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
        // The threads of the runtime are of the user of the thread that starts them.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(work())
    };
    std::thread::spawn(run).join().unwrap()
}
