//! A recipe of the manual, moved into a private folder: its files to the letter, but for where things
//! are.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::program::{Place, free_port};

/// Where the paths of a recipe begin.
const BEGINNINGS: [&str; 3] = ["/etc/", "/run/", "/var/"];

/// The files of one folder of `docs/recipes`, and what stands in them for what is elsewhere.
pub(crate) struct Recipe {
    folder: PathBuf,
    instead: Vec<(String, String)>,
}

impl Recipe {
    /// The recipe of this name, for a machine whose root is in this place.
    pub(crate) fn new(name: &str, place: &Place) -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes").join(name);
        let root = place.path("root");
        // Servers give up their rights, and have to reach their files all the same.
        for path in [place.path(""), root.clone()] {
            let made = fs::create_dir_all(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o711)));
            made.map_err(|error| format!("no folder {}: {error}", path.display()))?;
        }
        let moved = |from: &str| (from.to_owned(), format!("{}{from}", root.display()));
        let instead = BEGINNINGS.map(moved).to_vec();
        Ok(Self { folder, instead })
    }

    /// The same with this in the place of that. The longer ones come first.
    pub(crate) fn with(mut self, that: &str, this: &str) -> Self {
        self.instead.insert(0, (that.to_owned(), this.to_owned()));
        self
    }

    /// The same with a free port in the place of this one, which is written so in the recipe.
    pub(crate) fn with_port(
        self,
        written: &[&str],
        port: u16,
    ) -> Result<(Self, SocketAddr), String> {
        let free = free_port()?;
        let (old, new) = (port.to_string(), free.to_string());
        let recipe =
            written.iter().fold(self, |recipe, text| recipe.with(text, &text.replace(&old, &new)));
        Ok((recipe, SocketAddr::from((Ipv4Addr::LOCALHOST, free))))
    }

    /// Where a path of the recipe really is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(self.moved(path))
    }

    /// Makes a folder of it, which others may pass through.
    pub(crate) fn folder(&self, path: &str) -> Result<PathBuf, String> {
        let folder = self.path(path);
        fs::create_dir_all(&folder)
            .map_err(|error| format!("no folder {}: {error}", folder.display()))?;
        Ok(folder)
    }

    /// The text of a file of it.
    pub(crate) fn text(&self, file: &str) -> Result<String, String> {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path);
        let text = text.map_err(|error| format!("no recipe {}: {error}", path.display()))?;
        Ok(self.moved(&text))
    }

    /// Puts a file of it where the recipe says.
    pub(crate) fn install(&self, file: &str, at: &str) -> Result<PathBuf, String> {
        let path = self.path(at);
        if let Some(folder) = Path::new(at).parent().and_then(Path::to_str) {
            self.folder(folder)?;
        }
        let mode = if file.ends_with(".sh") { 0o755 } else { 0o644 };
        let written = fs::write(&path, self.text(file)?)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
        written.map_err(|error| format!("`{}` cannot be written: {error}", path.display()))?;
        Ok(path)
    }

    /// Everything replaced in one pass, so that nothing is replaced twice.
    fn moved(&self, text: &str) -> String {
        let mut moved = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match self.instead.iter().find(|(that, _)| rest.starts_with(that.as_str())) {
                Some((that, this)) => {
                    moved.push_str(this);
                    rest = &rest[that.len()..];
                }
                None => {
                    moved.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        moved
    }
}
