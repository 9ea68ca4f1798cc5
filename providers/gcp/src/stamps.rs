//! Stamps: the number of the current version, and of which secret. A read of the exact version
//! has the same stamp as a look at a secret whose current version it is.

use std::sync::Arc;

use oneiric_core::{Error, Result, SecretKey, Stamp};

use crate::api::{Api, Patience};
use crate::names::SecretName;

/// The stamp of one version.
pub(crate) fn stamp(secret: &SecretName, number: u64) -> Stamp {
    Stamp::from(secret.version(&number.to_string()))
}

impl Api {
    /// The stamp of each key, without reading a value.
    pub(crate) async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let names: Vec<Result<Arc<SecretName>, Error>> =
            keys.iter().map(|key| self.place.secret(key).map(Arc::new)).collect();
        let valid: Vec<&SecretName> = names.iter().flatten().map(AsRef::as_ref).collect();
        let mut numbers = self.currents(&valid, Patience::of_a_sweep()).await.into_iter();
        let stamps = names.iter().map(|name| match name {
            Err(error) => Err(error.clone()),
            Ok(name) => {
                let number = numbers.next().expect("each valid name has an answer");
                number.map(|number| stamp(name, number))
            }
        });
        stamps.collect()
    }
}
