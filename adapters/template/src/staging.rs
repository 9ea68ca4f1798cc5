//! The files of one generation: staged beside their targets, and put in place together.

use std::sync::{Mutex, PoisonError};

use oneiric_core::HookError;
use zeroize::Zeroizing;

use crate::target::{StagingFolder, Target, Temporary};

/// The rendered files of one generation. Dropping it removes what is not in place.
pub(crate) struct Staged(Mutex<Vec<StagedFile>>);

struct StagedFile {
    target: Target,
    content: Zeroizing<Vec<u8>>,
    temporary: Option<Temporary>,
}

impl Staged {
    /// Writes each file beside its target, but for those that are there already.
    pub(crate) fn write(
        files: impl IntoIterator<Item = (Target, Zeroizing<Vec<u8>>)>,
    ) -> Result<Self, HookError> {
        let staged = files.into_iter().map(|(target, content)| {
            let mut file = StagedFile { target, content, temporary: None };
            file.stage()?;
            Ok(file)
        });
        Ok(Self(Mutex::new(staged.collect::<Result<_, HookError>>()?)))
    }

    /// Copies of all of them in one folder.
    pub(crate) fn folder(&self) -> Result<StagingFolder, HookError> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = files.first().expect("an adapter has a file");
        let folder = first.target.staging_folder()?;
        files.iter().try_for_each(|file| file.target.write_into(&folder, &file.content))?;
        Ok(folder)
    }

    /// Puts them in place, one rename each, in their order. What is in place already stays.
    /// `changing` is told before the first rename.
    pub(crate) fn place(&self, changing: impl Fn()) -> Result<(), HookError> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was here in the meantime may have left something else than what was seen.
        files.iter_mut().try_for_each(StagedFile::stage)?;
        if files.iter().any(|file| file.temporary.is_some()) {
            changing();
        }
        for file in files.iter_mut() {
            if let Some(temporary) = file.temporary.take() {
                file.target.replace(temporary)?;
            }
        }
        files.iter().try_for_each(|file| file.target.sync_dir())
    }
}

impl StagedFile {
    /// Makes sure that there is something to put in place, exactly if that is needed.
    fn stage(&mut self) -> Result<(), HookError> {
        if self.target.holds(&self.content)? {
            self.temporary = None;
        } else if self.temporary.is_none() {
            self.temporary = Some(self.target.write_beside(&self.content)?);
        }
        Ok(())
    }
}
