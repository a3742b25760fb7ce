//! In place of `upload`, in builds without the feature `object-store`: the config is refused.

use std::path::{Path, PathBuf};

use flowtap_pipeline::BuildContext;

use super::names::Name;
use super::upload_config::UploadConfig;

/// There are none.
#[derive(Clone, Debug)]
pub(super) enum Uploads {}

/// There is none.
#[derive(Debug, Default)]
pub(super) struct UploadTask;

impl Uploads {
    pub(super) fn new(_: &UploadConfig, _: PathBuf, _: &BuildContext) -> Result<Self, String> {
        Err("this build can't upload; hint: build it with the feature `object-store`".to_owned())
    }

    pub(super) const fn finished(&self, _: &Name, _: &Path) {
        match *self {}
    }

    pub(super) const fn removed(&self, _: &Name, _: &Path) {
        match *self {}
    }

    pub(super) const fn forget_removed(&self) {
        match *self {}
    }

    pub(super) const fn start(&self, _: &mut UploadTask) {
        match *self {}
    }
}

impl UploadTask {
    #[expect(clippy::unused_async, reason = "as the one that uploads")]
    pub(super) async fn stop(&mut self) {}
}
