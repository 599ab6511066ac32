//! Volumes as folders on disk.
//!
//! Secrets, ConfigMaps and projections are written as the kubelet's atomic writer does: into a fresh folder, which the
//! symbolic link `..data` names, so that all files of an update become visible at once.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::auth::{API_AUDIENCE, Auth, TokenSpec};
use crate::clock::Time;
use crate::json::Json;
use crate::kubelet::env::{self, Unresolved};
use crate::registry::{Registry, Target};

const DEFAULT_MODE: u32 = 0o644;

/// The files of a volume: path to content and mode.
pub(crate) type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// A token that was written into a volume.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    text: String,
    renew_at: Time,
}

/// The tokens of a pod, by volume and path.
pub(crate) type Tokens = BTreeMap<(String, String), Token>;

/// The volumes of a pod on disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// The folder of the pod; empty until the pod is taken on.
    pub(crate) folder: PathBuf,
    pub(crate) tokens: Tokens,
    /// What was written last into each volume.
    pub(crate) written: BTreeMap<String, Files>,
    /// Versions that were written, over all volumes.
    pub(crate) versions: u64,
}

/// What volumes are made from.
pub(crate) struct Sources<'a> {
    pub(crate) registry: &'a mut Registry,
    pub(crate) auth: &'a mut Auth,
    pub(crate) pod: &'a Value,
}

fn mode(value: &Value, default: u32) -> u32 {
    value.as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

impl Sources<'_> {
    /// The files of a volume; `None` for volumes that the pod fills itself.
    ///
    /// # Errors
    /// A source that is not optional does not exist.
    pub(crate) fn files(
        &mut self,
        volume: &Value,
        tokens: &mut Tokens,
    ) -> Result<Option<Files>, Unresolved> {
        let mut files = Files::new();
        if volume.has("secret") {
            let source = volume.at("secret");
            let default = mode(source.at("defaultMode"), DEFAULT_MODE);
            self.keys(("secrets", source.str("secretName")), source, default, &mut files)?;
        } else if volume.has("configMap") {
            let source = volume.at("configMap");
            let default = mode(source.at("defaultMode"), DEFAULT_MODE);
            self.keys(("configmaps", source.str("name")), source, default, &mut files)?;
        } else if volume.has("downwardAPI") {
            let source = volume.at("downwardAPI");
            self.downward(source, mode(source.at("defaultMode"), DEFAULT_MODE), &mut files);
        } else if volume.has("projected") {
            let default = mode(volume.at("projected.defaultMode"), DEFAULT_MODE);
            for source in volume.list("projected.sources") {
                for (field, resource) in [("secret", "secrets"), ("configMap", "configmaps")] {
                    if source.has(field) {
                        let keys = source.at(field);
                        self.keys((resource, keys.str("name")), keys, default, &mut files)?;
                    }
                }
                if source.has("downwardAPI") {
                    self.downward(source.at("downwardAPI"), default, &mut files);
                }
                if source.has("serviceAccountToken") {
                    let wanted = source.at("serviceAccountToken");
                    let token = self.token(volume.str("name"), wanted, tokens)?;
                    files.insert(wanted.str("path").to_owned(), (token.into_bytes(), default));
                }
            }
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    fn keys(
        &self,
        (resource, name): (&str, &str),
        source: &Value,
        default: u32,
        files: &mut Files,
    ) -> Result<(), Unresolved> {
        let optional = source.flag("optional");
        let found = env::entries(
            self.registry,
            (resource, self.pod.str("metadata.namespace"), name),
            optional,
        )?;
        let items = source.list("items");
        if items.is_empty() {
            files.extend(found.into_iter().map(|(key, content)| (key, (content, default))));
            return Ok(());
        }
        for item in items {
            let key = item.str("key");
            match found.iter().find(|(found, _)| found == key) {
                Some((_, content)) => {
                    let mode = mode(item.at("mode"), default);
                    files.insert(item.str("path").to_owned(), (content.clone(), mode));
                }
                None if optional => {}
                None => {
                    return Err(format!(
                        "references non-existent {} key: {key}",
                        resource.trim_end_matches('s')
                    ));
                }
            }
        }
        Ok(())
    }

    fn downward(&self, source: &Value, default: u32, files: &mut Files) {
        for item in source.list("items") {
            let content = if item.has("fieldRef") {
                env::field(self.pod, item.str("fieldRef.fieldPath"))
            } else {
                env::resource(self.registry, self.pod, &Value::Null, item.at("resourceFieldRef"))
            };
            files.insert(
                item.str("path").to_owned(),
                (content.into_bytes(), mode(item.at("mode"), default)),
            );
        }
    }

    /// The current token, renewed when 80% of its lifetime have passed.
    fn token(
        &mut self,
        volume: &str,
        wanted: &Value,
        tokens: &mut Tokens,
    ) -> Result<String, Unresolved> {
        let now = self.registry.now();
        let place = (volume.to_owned(), wanted.str("path").to_owned());
        if let Some(token) = tokens.get(&place).filter(|token| token.renew_at > now) {
            return Ok(token.text.clone());
        }
        let namespace = self.pod.str("metadata.namespace");
        let name = self.pod.str("spec.serviceAccountName");
        let account = self.registry.get(Target::new("serviceaccounts", namespace, name));
        let account = account.map_err(|error| error.message)?;
        let seconds =
            u64::try_from(wanted.int("expirationSeconds").unwrap_or(3600)).unwrap_or(3600);
        let audience =
            wanted.text("audience").filter(|audience| !audience.is_empty()).unwrap_or(API_AUDIENCE);
        let spec = TokenSpec {
            namespace,
            account: name,
            account_uid: account.str("metadata.uid"),
            pod: Some((
                self.pod.str("metadata.name").to_owned(),
                self.pod.str("metadata.uid").to_owned(),
            )),
            audiences: vec![audience.to_owned()],
            lifetime: Duration::from_secs(seconds),
        };
        let (text, _) = self.auth.issue(self.registry, &spec);
        let renew_at = now.after(Duration::from_secs(seconds * 4 / 5));
        tokens.insert(place, Token { text: text.clone(), renew_at });
        Ok(text)
    }
}

/// When the first token has to be renewed.
pub(crate) fn renewal(tokens: &Tokens) -> Option<Time> {
    tokens.values().map(|token| token.renew_at).min()
}

/// Makes the folder of a volume that the pod fills itself.
///
/// # Errors
/// The disk refuses.
pub(crate) fn make_empty(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))
}

/// Replaces the files of a volume at once; `number` tells the versions apart. The files belong to `group`, the pod's
/// `fsGroup`.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write(
    folder: &Path,
    files: &Files,
    (number, group): (u64, Option<u32>),
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let version = format!("..version_{number}");
    let fresh = folder.join(&version);
    fs::create_dir_all(&fresh)?;
    for (path, (content, mode)) in files {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode))?;
        // Only a privileged user may give a file away. The pods of any other user run as that user and read it anyway.
        let _ = chown(&file, None, group);
    }
    let data = folder.join("..data");
    let before = fs::read_link(&data).ok();
    let staged = folder.join("..data_tmp");
    symlink(&version, &staged)?;
    // Renaming a link over another is the moment in which readers see all new files.
    fs::rename(&staged, &data)?;
    link_entries(folder, files)?;
    match before.filter(|before| before.as_path() != Path::new(&version)) {
        Some(before) => fs::remove_dir_all(folder.join(before)),
        None => Ok(()),
    }
}

/// Links the first component of every path through `..data`, and removes links to files that are gone.
fn link_entries(folder: &Path, files: &Files) -> io::Result<()> {
    let wanted: Vec<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    Ok(())
}
